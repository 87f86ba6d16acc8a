"""The rules' register, and what a rule is given.

A rule is given the operation as it was seen (`Seen`) and returns its step; the slot that passes through
unchanged; or None where it does not apply, when the operation is differentiated by torch, on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral.jacobians.program.steps import Input, Linear, Narrow, Operation, Step, aten
from spectral.jacobians.program.trees import leaves, mapped

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class Seen:
    """An operation on values of which y reaches some.

    Attributes:
        target, args, kwargs: the operation and what it was called with.
        like: a tensor of the shape and precision of its output.
        outputs: of an operation with several outputs the integers among them; `entry` is meant.
        reached: the slot of each tensor that y reaches, by id; tensors of one slot may differ by a constant.
        output: the slot of the result.
        hold: t -> t as a step may keep it, whatever the function does to it later.
        promoted: whether what y reaches was brought to the output's precision first.
        value: the output, to be kept by `hold` alone; None where the rule is asked for later.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    like: Tensor
    outputs: Any
    entry: int | None
    reached: dict[int, int]
    output: int
    hold: Callable[[Tensor], Tensor]
    promoted: bool = False
    value: Tensor | None = None

    def __post_init__(self) -> None:
        values = {id(x): x for x in leaves((self.args, self.kwargs)) if self.reaches(x)}
        self.places = {key: i for i, key in enumerate(values)}
        self.inputs = tuple(self.reached[key] for key in values)
        self.primals = tuple(values.values())
        self.sizes = tuple(x.shape for x in self.primals)

    def reaches(self, x: Any) -> bool:
        """Whether y reaches an argument."""
        return isinstance(x, Tensor) and id(x) in self.reached

    @property
    def factors(self) -> list[Tensor]:
        """The arguments that y reaches."""
        return [a for a in self.args if self.reaches(a)]

    @property
    def first_alone(self) -> bool:
        """Whether y reaches the first argument and no other."""
        every = leaves((self.args, self.kwargs))
        return self.reaches(self.args[0]) and sum(self.reaches(x) for x in every) == 1

    def given(self, i: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[i] if len(self.args) > i else self.kwargs.get(name, default)

    def operation(self, target: Any = None, args: Any = None, kwargs: Any = None) -> Operation:
        """The operation, or another with these arguments, as a function of what y reaches, all else held."""

        def argument(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return Input(self.places[id(x)]) if id(x) in self.reached else self.hold(x)

        args = self.args if args is None else args
        kwargs = self.kwargs if kwargs is None and target is None else kwargs or {}
        target = target or INSTEAD.get(self.target, self.target)
        return Operation(target, mapped(argument, (args, kwargs)), self.entry)

    def linear(
        self,
        function: Operation,
        images: bool = False,
        back: Back | None = None,
        narrow: Narrow | None = None,
        rows: Callable[..., Rows] | None = None,
    ) -> Linear:
        """The step of an operation that is linear in what y reaches."""
        dtypes = tuple(self.like.dtype if self.promoted else x.dtype for x in self.primals)
        return Linear(self.inputs, self.output, function, self.sizes, dtypes, images, back, narrow, rows)


Rule = Callable[[Seen], "Step | int | None"]
Back = Callable[[Tensor, tuple[torch.Size, ...]], tuple[Tensor, ...]]


RULES: dict[Any, Rule] = {}


# Operations that torch differentiates in another form alone: a function of the same arguments.
INSTEAD: dict[Any, Callable[..., Any]] = {}


# Operations whose inputs torch first brings to one precision, that of the output.
PROMOTING: set[Any] = set()


def rule(*targets: Any, promotes: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        if promotes:
            PROMOTING.update(targets)
        return function

    return register


def named(*names: str, overload: str = "default") -> list[Any]:
    """Operations of torch by name, as far as this torch has them."""
    packets = (getattr(aten, name, None) for name in names)
    return [getattr(p, overload) for p in packets if p is not None and overload in p.overloads()]


def axes_of(dim: Any, ndim: int) -> tuple[int, ...]:
    """Axes told from the last, that one first; all where none is named."""
    named_axes = range(ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return tuple(sorted((axis % ndim - ndim for axis in named_axes), reverse=True))
