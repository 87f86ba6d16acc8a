"""A step of a recorded program, and the two that any operation can be: linear as it is, or differentiated.

    Linear        t -> op(t)            an operation linear in what y reaches; transpose by torch's vjp of it
    Local         t -> d op (t)         any other operation: torch's derivative of that one, at its inputs

The steps of particular operations are in `rules`.  A block of c vectors has a leading axis, (c, *size of
one).  Each step says in `leading` how it takes that axis: "free", its formulas hold with it as they are;
"merged", it goes into the axis of images; "mapped", by torch.vmap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spectral.errors import ReachError, SpectralError
from spectral.jacobians.lock import ALONE
from spectral.jacobians.program.trees import leaves, mapped

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows

aten = torch.ops.aten
Leading = Literal["free", "merged", "mapped"]


Forward = Literal["jvp", "vjp", "differences"]


@dataclass
class Step(ABC):
    """One linear map of the program, from the slots `inputs` to the slot `output`.

    Its formulas hold with a leading axis as they are, unless `leading` says how else that is taken.
    """

    inputs: tuple[int, ...]
    output: int

    @property
    def leading(self) -> Leading:
        """How a block's leading axis is taken."""
        return "free"

    @abstractmethod
    def apply(self, *tangents: Tensor) -> Tensor:
        """The derivative of the operation, applied to tangents of its inputs."""

    @abstractmethod
    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """Its transpose: a cotangent for each input."""

    def to(self, dtype: torch.dtype) -> Step:
        """The step with its constants in another precision; gates and indices have none."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return replace(self, **{name: in_precision(value, dtype) for name, value in held.items()})

    def reach(self, *rows: Any, **_: Any) -> Rows:
        """Of `Rows` of each input those of the output (`spectral.jacobians.program.reach`).

        Raises:
            ReachError: they are mixed, or it is not known how.
        """
        raise ReachError("how far it looks is not known")

    def select(self, index: Tensor, n: int) -> Step | None:
        """The step for some of the n inputs that the first axis counts; None where that cannot be told."""
        return None


@dataclass(frozen=True)
class Input:
    """Stands for the i-th argument in the arguments of an `Operation`."""

    i: int


class Operation:
    """An operation of torch as a function of what y reaches, all else held.

    Args:
        target: the operation.
        arguments: its (args, kwargs), with an `Input` in each place that y reaches.
        entry: of an operation with several outputs, the one that is meant.
    """

    def __init__(self, target: Callable[..., Any], arguments: Any, entry: int | None = None) -> None:
        self.target, self.arguments, self.entry = target, arguments, entry
        self._own = getattr(target, "namespace", "aten") in ("aten", "prims")
        args, kwargs = arguments
        inside = [*leaves(kwargs), *(x for arg in args if not isinstance(arg, Input) for x in leaves(arg))]
        self._plain = self._own and not any(isinstance(x, Input) for x in inside)

    def __call__(self, *primals: Tensor) -> Tensor:
        """The operation's output."""
        if self._plain:  # half of what a view takes
            args, kwargs = self.arguments
            args = [primals[x.i] if type(x) is Input else x for x in args]
        else:
            args, kwargs = mapped(lambda x: primals[x.i] if isinstance(x, Input) else x, self.arguments)
        if not self._own:
            # Of one that is not torch's own nobody knows whether it leaves alone what it is given.
            args, kwargs = mapped(lambda x: x.clone() if isinstance(x, Tensor) else x, (args, kwargs))
        value = self.target(*args, **kwargs)
        return value if self.entry is None else value[self.entry]

    def to(self, dtype: torch.dtype) -> Operation:
        """The operation with what is held in another precision."""
        return self._holding(lambda t: cast(t, dtype))

    def without_held(self) -> Operation:
        """The operation with zeros for the numbers that are held; indices and masks stay."""
        return self._holding(lambda t: t.new_zeros(()).expand(t.shape) if is_number(t) else t)

    def _holding(self, change: Callable[[Tensor], Tensor]) -> Operation:
        arguments = mapped(lambda x: change(x) if isinstance(x, Tensor) else x, self.arguments)
        return Operation(self.target, arguments, self.entry)


def in_memory(t: Tensor, ndim: int) -> list[int]:
    """The last `ndim` axes, told from the last, in the order in which t has them in memory."""
    strides = t.stride()
    return sorted(range(-ndim, 0), key=lambda axis: -strides[axis])


Narrow = Callable[[Operation, int, int], "Operation | None"]


def unchanged(function: Operation, n: int, m: int) -> Operation:
    """The function for m of n inputs of what does not tell them apart."""
    return function


@dataclass
class Linear(Step):
    """t -> op(t) for an operation that is linear, without constant, in what y reaches.

    `images` says that it does the same to each of the images that the first axis counts; `back` is its
    transpose (g, sizes of the inputs), where that is known; `narrow` makes of it the function for m of n
    inputs, where it leaves these, and what is inside of them, in the order in which the first axis counts;
    `rows` says what it makes of an image's rows, where that is known (`reach`).
    """

    function: Operation
    sizes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    images: bool = False
    back: Callable[[Tensor, tuple[torch.Size, ...]], tuple[Tensor, ...]] | None = None
    narrow: Narrow | None = None
    rows: Callable[..., Rows] | None = None

    @property
    def leading(self) -> Leading:
        """More images are no other operation; anything else is mapped."""
        return "merged" if self.images else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """op(t)."""
        return self.function(*map(_aligned, tangents))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """op' g."""
        sizes = self.sizes
        if self.images:
            sizes = tuple(torch.Size((len(g), *size[1:])) for size in sizes)
        if self.back is not None:
            return self.back(g, sizes)
        zeros = (
            torch.zeros((), dtype=dtype, device=g.device).expand(size)
            for size, dtype in zip(sizes, self.dtypes, strict=True)
        )
        return pulled(self.function, tuple(zeros), _aligned(g))

    def reach(self, *rows: Rows) -> Rows:
        """Rows of op(t)."""
        return super().reach() if self.rows is None else self.rows(*rows)

    def select(self, index: Tensor, n: int) -> Linear | None:
        """With other sizes, for an operation on images, or on what stays in its place."""
        if self.narrow is not None:
            function = self.narrow(self.function, n, len(index))
            if function is None or not all(len(size) and size[0] % n == 0 for size in self.sizes):
                return None
            return replace(self, function=function, sizes=tuple(some(size, index, n) for size in self.sizes))
        if not (self.images and all(counts(size, n) for size in self.sizes)):
            return None
        return replace(self, sizes=tuple(some(size, index) for size in self.sizes))


@dataclass
class Reshape(Linear):
    """t -> t in the shape `after`, behind any axes in front."""

    after: torch.Size = field(default_factory=torch.Size)

    @property
    def leading(self) -> Leading:
        """The order of entries stays."""
        return "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t in the other shape."""
        (t,) = tangents
        return t.reshape((*t.shape[: t.ndim - len(self.sizes[0])], *self.after))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g in the first one."""
        return (g.reshape((*g.shape[: g.ndim - len(self.after)], *self.sizes[0])),)

    def reach(self, *rows: Rows) -> Rows:
        """The same rows, where each one's numbers stay together."""
        return rows[0].reshaped(self.sizes[0], self.after)

    def select(self, index: Tensor, n: int) -> Reshape | None:
        """In the shapes of some inputs."""
        part = super().select(index, n)
        return replace(part, after=some(self.after, index, n)) if isinstance(part, Reshape) else None


@dataclass
class Cut(Linear):
    """t -> a part of t along one axis, told from the last; back into zeros, or onto what else came back.

    `within` is the index, whose axis goes, or the slice.  Where a program's cuts share t out among them, each
    `fills` its part.
    """

    axis: int = -1
    within: int | slice = 0
    fills: bool = field(default=False, init=False, compare=False)
    _order: list[int] | None = field(default=None, init=False, compare=False)  # of t's axes in memory

    @property
    def leading(self) -> Leading:
        """An axis told from the last is the same behind one more."""
        return "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """The part of t."""
        if self._order is None:
            self._order = in_memory(tangents[0], len(self.sizes[0]))
        return self._of(tangents[0])

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g among zeros, in memory in g's order, or in t's where that has an axis more."""
        (size,) = self.sizes
        axes = range(-len(size), 0)
        gone = isinstance(self.within, int)
        order = (self._order or [*axes]) if gone else in_memory(g, len(size))
        lead = g.shape[: g.ndim - len(size) + gone]
        whole = (g.new_empty if self.fills else g.new_zeros)((*lead, *(size[axis] for axis in order)))
        whole = whole.permute(*range(len(lead)), *(len(lead) + order.index(axis) for axis in axes))
        self._of(whole).copy_(g)
        return (whole,)

    def add_back(self, g: Tensor, onto: Tensor) -> None:
        """`onto` + g among zeros, in place."""
        part = self._of(onto)
        part.copy_(g) if self.fills else part.add_(g)

    def shares_out(self, others: list[Cut]) -> bool:
        """Whether each of t's numbers is in one of the cuts alone."""
        places = range(self.sizes[0][self.axis])
        taken = [
            place
            for cut in others
            for place in ([cut.within] if isinstance(cut.within, int) else places[cut.within])
        ]
        return all(cut.axis == self.axis for cut in others) and sorted(taken) == [*places]

    def reach(self, *rows: Rows) -> Rows:
        """Rows of the part."""
        if isinstance(self.within, int):
            return rows[0].without([self.axis], "it takes one of")
        if rows[0].axis != self.axis:
            return rows[0]
        taken = range(self.sizes[0][self.axis])[self.within]
        if taken.step != 1:
            raise ReachError("it parts rows")
        at = Fraction(taken.start)
        return rows[0].window(Fraction(1), at, at, len(taken))

    def _of(self, t: Tensor) -> Tensor:
        if isinstance(self.within, int):
            return t.select(self.axis, self.within)
        return t.transpose(self.axis, -1)[..., self.within].transpose(self.axis, -1)


@dataclass
class Local(Step):
    """t -> d op (t) at the operation's inputs, which are kept.

    `forward` says how: torch's own forward mode; where it has none, two vjps, J t being the gradient of
    <J' g, t> by g; where those fail too, central differences of the operation in float64.
    """

    function: Operation
    primals: tuple[Tensor, ...]
    forward: Forward = "jvp"
    leading: Leading = "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """d op (t)."""
        tangents = tuple(map(_aligned, tangents))
        if self.forward == "jvp":
            with ALONE:
                return torch.func.jvp(self.function, self.primals, tangents)[1]
        if self.forward == "vjp":
            return _pushed_by_pulling(self.function, self.primals, tangents)
        ahead, behind, h = either_side(self.function, self.primals, tangents)
        return ((ahead - behind) / (2 * h)).to(self.function(*self.primals).dtype)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """(d op)' g, by torch's vjp; some of its kernels misread a cotangent that is not contiguous."""
        return pulled(self.function, self.primals, _aligned(g.contiguous()))


def _aligned(t: Tensor) -> Tensor:
    """t from the start of a storage: operations on strides count from there."""
    return t.clone() if t.storage_offset() else t


def _pushed_by_pulling(
    function: Operation, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """J t as the gradient, by u, of <J' u, t>."""
    xs, value = _graph(function, primals)
    with torch.inference_mode(False), torch.enable_grad():
        u = torch.zeros_like(value, requires_grad=True)
        parts = torch.autograd.grad(value, xs, u, create_graph=True, allow_unused=True)
    linear = [(g, t) for g, t in zip(parts, tangents, strict=True) if g is not None and g.requires_grad]
    if not linear:
        raise SpectralError("its derivative backwards has none of its own")
    return torch.autograd.grad([g for g, _ in linear], u, [t for _, t in linear])[0]


def _graph(function: Callable[..., Tensor], primals: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
    """Leaves with the primals' values, and the function's value with a graph that leads to them."""
    with torch.inference_mode(False), torch.enable_grad():
        xs = [(x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in primals]
        return xs, function(*xs)


def pulled(function: Callable[..., Tensor], primals: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, ...]:
    """(d function)' g at the primals, by a graph of its own: for that torch.func would load a compiler."""
    xs, value = _graph(function, primals)
    if not value.requires_grad:
        return tuple(map(torch.zeros_like, primals))
    parts = torch.autograd.grad(value, xs, g, allow_unused=True)
    return tuple(
        torch.zeros_like(x) if part is None else part for x, part in zip(primals, parts, strict=True)
    )


def either_side(
    function: Operation,
    primals: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
    precision: torch.dtype = torch.float64,
    share: float = 1.0,
) -> tuple[Tensor, Tensor, float]:
    """op(x + h t), op(x - h t) and h, in a precision; h is a `share` of the cube root of its rounding."""
    exact, xs, ts = function.to(precision), [], []
    for x, t in zip(primals, tangents, strict=True):
        xs.append(cast(x, precision))
        ts.append(cast(t, precision))
    size = max(float(t.abs().max()) for t in ts) or 1.0
    h = share * torch.finfo(precision).eps ** (1 / 3) * (max(float(x.abs().max()) for x in xs) or 1.0) / size
    ahead, behind = (exact(*(x + s * h * t for x, t in zip(xs, ts, strict=True))) for s in (1, -1))
    return ahead, behind, h


def is_number(t: Tensor) -> bool:
    """Whether t holds real or complex numbers, which have derivatives."""
    return t.is_floating_point() or t.is_complex()


def precise(dtype: torch.dtype, precision: torch.dtype) -> torch.dtype:
    """A dtype in the precision of another: real stays real, complex complex, integers integers."""
    if dtype.is_complex:
        return precision.to_complex()
    return precision if dtype.is_floating_point else dtype


def in_precision(held: Any, dtype: torch.dtype) -> Any:
    """What a step holds in another precision: tensors, dtypes, operations, and lists and tuples of such."""
    if isinstance(held, Tensor):
        return cast(held, dtype)
    if isinstance(held, torch.dtype):
        return precise(held, dtype)
    if isinstance(held, (Operation, Step)):
        return held.to(dtype)
    return type(held)(in_precision(x, dtype) for x in held) if type(held) in (list, tuple) else held


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in another precision, unless it holds integers."""
    return t.to(precise(t.dtype, dtype))


def counts(size: torch.Size, n: int) -> bool:
    """Whether the first axis of a size counts n inputs."""
    return len(size) > 1 and size[0] == n


def some(size: torch.Size, index: Tensor, n: int | None = None) -> torch.Size:
    """The size of some of the inputs that its first axis counts; of n, also with what is inside of each."""
    inside = 1 if n is None else size[0] // n
    return torch.Size((len(index) * inside, *size[1:]))


def within(index: Tensor, n: int, length: int) -> Tensor:
    """Where some of n inputs lie along an axis that counts what is inside of them, such as heads."""
    inside = torch.arange(length // n, device=index.device)
    return (index.unsqueeze(1) * (length // n) + inside).flatten()
