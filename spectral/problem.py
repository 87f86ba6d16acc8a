"""What the front doors share: the operator, the method that fits a request, and how its answer is told."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.jacobians.jacobian import WrongProductsError
from spectral.jacobians.of_model import OfModel
from spectral.jacobians.precision import Precision
from spectral.jacobians.subject import operator_of
from spectral.linalg.blocks import stream
from spectral.linalg.unseen import SLACK, rounding
from spectral.operators import Compression, LinearOperator, Subspace
from spectral.operators.base import UnitScale
from spectral.solvers import Completeness, Control, Method, RitzPairs, RitzTriplets, SchurPairs, Target
from spectral.solvers.certificate import measured_rounding
from spectral.solvers.checks import check_operator
from spectral.solvers.dense import DENSE_AT_MOST
from spectral.solvers.search import INTERRUPTED, interrupted
from spectral.solvers.target import EDGE

TargetT = TypeVar("TargetT", bound=Target)
FoundT = TypeVar("FoundT", RitzPairs, RitzTriplets, SchurPairs)
AnswerT = TypeVar("AnswerT")

log = logging.getLogger("spectral")

DENSE_BELOW = 128
DOORS: dict[type, str] = {RitzPairs: "top_eigs", RitzTriplets: "top_svd", SchurPairs: "top_eigs_full"}


def by_a_right_way(door: Callable[..., Any]) -> Callable[..., Any]:
    """A front door that, where what was found contradicts the Jacobian's products, solves by its next way.

    A solve that is kept in a checkpoint is not solved again over it: its WrongProductsError is raised.
    """

    @functools.wraps(door)
    def entered(subject: Any, y: Tensor | None = None, k: int = 6, **options: Any) -> Any:
        try:
            return door(subject, y, k, **options)
        except WrongProductsError as wrong:
            if options.get("checkpoint") is not None:
                raise
            log.warning("%s: solving again by another way", wrong)
            other = wrong.jacobian.by_next_way(wrong)
        told = {name: value for name, value in options.items() if name not in ("batched", "model_kwargs")}
        return entered(other, None, k, **told)

    return entered


def proved(found: FoundT, proof: Callable[[FoundT], AnswerT]) -> AnswerT:
    """proof(found), made again where Ctrl-C breaks it: what took minutes is not lost for want of its proof.

    The answer is then marked as interrupted.  A second Ctrl-C, in the search or here, is let through.
    """
    try:
        return proof(found)
    except KeyboardInterrupt:
        if interrupted(found.notes):
            raise
    return proof(replace(found, notes=[*found.notes, INTERRUPTED]))


@dataclass(frozen=True)
class Problem:
    """What is solved: the operator, the one the solver works with, and the shapes of its vectors.

    `working` is A / s (`spectral.operators.base`), or F' A E / s between the subspaces that vectors are
    restricted to: what solvers find are its values and coordinates, and `report` tells them of A.

    Attributes:
        A: the operator itself, of which products that confirm an answer are formed.
        working: what is solved.
        input_shape, output_shape: of one input and output.
        inputs, outputs: the subspaces; None for everything.
    """

    A: LinearOperator
    working: UnitScale
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    inputs: Subspace | None = None
    outputs: Subspace | None = None

    @classmethod
    def of(
        cls,
        subject: Any,
        y: Tensor | None,
        batched: bool,
        model_kwargs: Mapping[str, Any] | None,
        square: bool,
        mask: Any = None,
        orthogonal_to: Any = None,
        output_mask: Any = None,
    ) -> Problem:
        """From a model and its input, or from an operator alone.

        Args:
            subject, y, batched, model_kwargs: see `operator_of`.
            square: whether outputs lie where inputs do, and are restricted as they are.
            mask, orthogonal_to: what restricts inputs; see `Subspace.of`.
            output_mask: what restricts outputs that lie elsewhere.

        Raises:
            ShapeError: `square`, and output and input have different shapes; or a restriction's is another.
            OptionError, NotFiniteError: see `Subspace.of`.
        """
        A = operator_of(subject, y, batched, model_kwargs)
        if square:
            A.symmetric_part()  # raises, before any work, where there is none
        shapes: tuple[tuple[int, ...], tuple[int, ...]] = (A.domain.n,), (A.codomain.n,)
        if isinstance(A, OfModel):
            shapes = A.input_shape, A.output_shape
        place: dict[str, Any] = {"batch": A.batch, "device": A.device}
        inputs = Subspace.of(shapes[0], mask, orthogonal_to, whole=A.domain, **place)
        outputs = inputs
        if not square:
            outputs = Subspace.of(shapes[1], output_mask, name="output_mask", whole=A.codomain, **place)
        # Half precision is for products alone: the solver's own arithmetic is never below float32.
        wide = A.to(torch.promote_types(A.dtype, torch.float32))
        return cls(A, UnitScale(_between(wide, inputs, outputs)), *shapes, inputs, outputs)

    def at(self, precision: Precision) -> UnitScale:
        """`working` with products of a Jacobian at another precision.

        Raises:
            OptionError: A is no Jacobian.
        """
        if not isinstance(self.A, OfModel):
            raise OptionError("precision= is for the Jacobian of a model: convert an operator's own products")
        other = self.A.at_precision(precision).to(self.working.dtype)
        return UnitScale(_between(other, self.inputs, self.outputs), self.working.scale)

    def request(self, *, start: Any, **options: Any) -> Control:
        """How the solve is run, `start` in the coordinates of `working`; see `Control.of`."""
        control = self.A.domain.together(
            lambda: Control.of(self.A.batch, self.A.domain.n, start=start, **options)
        )
        if control.start is None:
            return control
        self.A.domain.check_count("start", control.start.shape[-2])
        if self.inputs is None:
            return control
        rows = control.start.to(self.A.device, torch.float64)
        return replace(control, start=self.inputs.coordinates(rows))

    @property
    def restriction(self) -> str:
        """What vectors are restricted to, in words; nothing where they are not."""
        if self.inputs is self.outputs:
            return "" if self.inputs is None else str(self.inputs)
        sides = (("inputs", self.inputs), ("outputs", self.outputs))
        return "; ".join(f"{name} {part}" for name, part in sides if part is not None)

    @property
    def n(self) -> int:
        """The length of a solver's vector."""
        return self.working.shape[1]

    def method(
        self,
        name: str | Method[Any],
        table: Mapping[str, type[Method[Any]]],
        target: Target,
        control: Control,
        auto: Callable[[], Method[Any]],
    ) -> Method[Any]:
        """The method that a name, or the method itself, stands for; it fits what is sought.

        Args:
            name: a name in the table, "auto", or a method.
            table: the methods that a front door offers.
            target, control: the request.
            auto: what "auto" stands for here.

        Raises:
            OptionError: there is no such method, or it does not go with the rest.
        """
        self._check_target(target)
        if isinstance(name, Method):
            kind = next(iter(table.values())).finds
            if name.finds is not kind:
                door = DOORS.get(name.finds, "another call")
                raise OptionError(
                    f"{type(name).__name__} finds {name.finds.__name__}, not {kind.__name__}: "
                    f"it is for {door}"
                )
            chosen = name
        else:
            if not isinstance(name, str) or name not in ("auto", *table):
                raise OptionError(
                    f"method is one of auto, {', '.join(table)}, or an object with settings, such as "
                    f"{next(iter(table.values())).__name__}(block=2); got {name!r}"
                )
            chosen = auto() if name == "auto" else table[name]()
        if target.between is not None and not chosen.inside:
            raise OptionError(f'between= is for method="chebyshev", got {chosen.name!r}')
        if self.inputs is not None:
            chosen = chosen.within(self.inputs)
        least = chosen.least(target, self.n)
        if control.max_products is not None and control.max_products < least:
            raise OptionError(
                f"a solve by {chosen.name} takes at least {least} products, got "
                f"max_products={control.max_products}"
            )
        if control.checkpoint is not None and not chosen.keeps:
            raise OptionError(
                f"checkpoint= is for Krylov solves: lanczos, golub-kahan, krylov-schur; got {chosen.name!r}"
            )
        return chosen

    def _check_target(self, target: Target) -> None:
        most = min(self.working.shape)
        if target.counted and not 1 <= target.k <= most:
            raise OptionError(f"k must be from 1 to d = {most}, {self.longest}; got {target.k}")
        if not target.counted and self.A.batch:
            raise OptionError(
                "above= and between= find a different number of pairs in each image: call once an image"
            )

    def scaled(self, target: TargetT, *, transpose: bool = True) -> tuple[TargetT, dict[str, int]]:
        """The target in terms of `working`, and the products that took.

        An operator of unknown make is tried; a Jacobian was when it was made, and only where a threshold is
        to be scaled does it cost one.
        """
        spent = 0 if isinstance(self.A, OfModel) else check_operator(self.working, transpose=transpose)
        if not target.counted:
            spent += self.working.measure()
            s = self.scale.item()
            above = None if target.above is None else target.above / s
            between = target.between
            if between is not None:
                low = between[0] / s
                # An interval of denormal width is still one.
                between = low, max(between[1] / s, math.nextafter(low, math.inf))
            target = replace(target, above=above, between=between)
        return target, {"checks": spent} if spent else {}

    @property
    def scale(self) -> Tensor:
        """s of every problem, (B,) float64: the values of A are s times those of `working`."""
        return self.working.scale.reshape(-1)

    def small(self, target: Target, control: Control, below: int = DENSE_BELOW) -> bool:
        """Whether forming the matrix costs less than a Krylov solve would, which alone can be kept."""
        if control.checkpoint is not None or self.n > (control.max_products or self.n):
            return False
        most = target.counted and 5 * target.k >= self.n and self.n <= DENSE_AT_MOST
        return self.n <= below or most

    def rounding(self, A: LinearOperator, found: RitzPairs | RitzTriplets, seed: int) -> Tensor:
        """Of products with A, (B, 1) on the CPU: four eps |A|, and twice what three products more show."""
        floor = rounding(self.working.eps, found.norm) / SLACK
        rows = found.vectors if isinstance(found, RitzPairs) else found.right
        if not rows.shape[1]:
            return torch.full((len(rows), 1), 4 * floor, dtype=torch.float64)
        found.spent["rounding"] = 3
        measured = measured_rounding(A, rows, found.AV, stream(seed))
        return 4 * floor + 2 * measured.cpu().unsqueeze(-1)

    def confirm(self, found: RitzPairs | RitzTriplets, V: Tensor, U: Tensor) -> None:
        """Multiply what was found once more by ways that share no fault with the solve's products.

        Args:
            found: whose norm is |A| over its scale.
            V, U: (B, k, n) and (B, k, r) rows; see `Jacobian.confirm`.

        Raises:
            WrongProductsError: the solve's products were wrong; see `by_a_right_way`.
        """
        if isinstance(self.A, OfModel):
            V, U = _embedded(self.inputs, V), _embedded(self.outputs, U)
            V, U = (X.reshape(*self.A.batch, *X.shape[-2:]) for X in (V, U))
            self.A.confirm(V, U, found.norm * self.scale.max().item())

    def report(
        self,
        found: RitzPairs | RitzTriplets,
        values: Tensor,
        residuals: Tensor,
        errors: Tensor,
        tol: float,
        error: Tensor,
        ends: Sequence[float],
        heights: Tensor,
    ) -> dict[str, Any]:
        """The fields that say how good the values are, and the notes: told of A, found of `working`.

        error: what rounding of a product adds to errors, (B, 1) or (B, k).
        ends: the thresholds that `heights` (B, k), of the values, were to lie beyond.
        """
        floor = rounding(self.working.eps, found.norm)
        k = values.shape[-1]
        scale = values.abs().amax(-1) if k else residuals.new_zeros(len(values))
        tolerance = (tol * scale).clamp(min=floor)
        converged = residuals <= tolerance.unsqueeze(-1)
        notes = [*found.notes]
        if k and bool((tol * scale < floor).any()):
            notes.append(
                f"tol {tol:g} is below the rounding of products, {self.working.eps:.1e} in {self.A.dtype}: "
                f"residuals of {floor * self.scale.max().item():.1e} were asked for instead"
            )
        for end in ends:
            close = int(((heights - end).abs() <= EDGE * floor).sum())
            if close:
                size = self.scale.max().item()
                notes.append(
                    f"{close} of {k} are within rounding, {EDGE * floor * size:.1e}, of the threshold "
                    f"{end * size:g}"
                )
        if not bool(converged.all()):
            notes.append(f"{int((~converged).sum())} of {converged.numel()} are above the tolerance")
        for note in notes:
            log.info("%s", note)
        seen = found.completeness
        return {
            "values": self.sized(values),
            "residuals": self.sized(residuals),
            # Rounding in a product moves values by as much, and hides as much of a residual.
            "errors": self.sized(errors.cpu() + error.cpu()),
            "converged": self.one(converged),
            "tolerance": self.sized(tolerance),
            "completeness": Completeness(self.sized(seen.bound), seen.confidence, seen.products),
            "spent": found.spent,
            "operator": repr(self.A),
            "restriction": self.restriction,
            "strip": self.A.strip if isinstance(self.A, OfModel) else None,
            "notes": notes,
        }

    @property
    def longest(self) -> str:
        """What bounds k, in words: the shorter side of a rectangular operator."""
        what = "input" if self.working.shape[1] <= self.working.shape[0] else "output"
        if self.restriction:
            return f"what the {what} is restricted to"
        if isinstance(self.A, OfModel):
            return f"the number of entries of the {what}"
        return (
            "the size of the operator" if self.A.shape[0] == self.A.shape[1] else f"the length of its {what}"
        )

    def one(self, t: Tensor) -> Tensor:
        """(B, ...) on the CPU, without the first axis where there is no batch."""
        return t.cpu() if self.A.batch else t[0].cpu()

    def sized(self, t: Tensor) -> Tensor:
        """As `one`, what is proportional to A told of A and not of `working`."""
        return self.one(t.cpu() * self.scale.reshape(-1, *(1,) * (t.ndim - 1)))

    def as_inputs(self, rows: Tensor) -> Tensor:
        """A solver's vectors (B, k, n) as (*batch, k, *input shape)."""
        return _embedded(self.inputs, rows).reshape(*self.A.batch, rows.shape[1], *self.input_shape)

    def as_outputs(self, rows: Tensor) -> Tensor:
        """A solver's left vectors (B, k, r) as (*batch, k, *output shape)."""
        return _embedded(self.outputs, rows).reshape(*self.A.batch, rows.shape[1], *self.output_shape)


def _between(A: LinearOperator, inputs: Subspace | None, outputs: Subspace | None) -> LinearOperator:
    return A if inputs is outputs is None else Compression(A, inputs, outputs)


def _embedded(part: Subspace | None, rows: Tensor) -> Tensor:
    """Coordinates as rows, by float64: constraints hold to the rounding of what is returned."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float64))
    return rows if part is None else part.embed(wide).to(rows.dtype)
