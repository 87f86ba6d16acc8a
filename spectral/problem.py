"""What the front doors share: the operator, what is asked of a solver, and how its answer is told."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.operators import Jacobian, LinearOperator
from spectral.operators.jacobian import WrongProductsError
from spectral.operators.scale import UnitScale
from spectral.operators.subject import operator_of
from spectral.options import choice, number, seed_of, whole
from spectral.solvers import Completeness, Progress, RitzPairs, RitzTriplets
from spectral.solvers.certificate import SLACK, measured_rounding, rounding
from spectral.solvers.checks import check_operator
from spectral.solvers.dense import DENSE_AT_MOST
from spectral.solvers.krylov import image, stream
from spectral.solvers.search import EDGE, Which

log = logging.getLogger("spectral")

DENSE_BELOW = 128
FULL_BELOW = 300  # non-normal operators may take Krylov spaces of many times n products
PRODUCTS = 10_000
KEPT = ("auto", "lanczos", "golub-kahan", "krylov-schur")  # searches that a checkpoint can hold


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


@dataclass(frozen=True)
class Asked:
    """What is asked, as in `top_eigs`."""

    k: int
    which: Which
    above: float | None
    between: tuple[float, float] | None
    tol: float
    method: str
    block: int
    start: Tensor | None
    seed: int
    max_products: int | None
    checkpoint: str | Path | None

    def in_numbers(self) -> Asked:
        """The same with Python's numbers for what are to be numbers.

        Raises:
            OptionError: something is none.
        """
        between = self.between
        if between is not None:
            if not isinstance(between, Sequence) or isinstance(between, str) or len(between) != 2:
                raise OptionError(f"between is a pair of numbers, (low, high); got {between!r}")
            between = number("between", between[0]), number("between", between[1])
        return replace(
            self,
            k=whole("k", self.k),
            above=None if self.above is None else number("above", self.above),
            between=between,
            tol=number("tol", self.tol),
            block=whole("block", self.block),
            seed=seed_of(self.seed),
            max_products=None if self.max_products is None else whole("max_products", self.max_products),
        )

    def options(self, report: Callable[[Progress], None] | None, **more: Any) -> dict[str, Any]:
        """The keywords that every iterative solver takes, and more of them."""
        return {
            "above": self.above,
            "tol": self.tol,
            "block": self.block,
            "start": self.start,
            "seed": self.seed,
            "max_products": self.max_products or PRODUCTS,
            "progress": report,
            **more,
        }

    def budget(self, options: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a solver that spends a fixed number of products.

        Raises:
            OptionError: the number was not given.
        """
        if self.max_products is None:
            raise OptionError('method="randomized" spends a fixed number of products: pass max_products')
        options["products"] = options.pop("max_products")
        options["block"] = None if self.block == 1 else self.block
        return options


@dataclass(frozen=True)
class Problem:
    """What is solved: the operator, the one the solver works with, and the shapes of its vectors.

    `working` is A / s (`spectral.operators.scale`): what solvers find are its values, and `judged` tells them
    of A.
    """

    A: LinearOperator
    working: UnitScale
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        subject: Any,
        y: Tensor | None,
        batched: bool,
        model_kwargs: Mapping[str, Any] | None,
        square: bool,
    ) -> Problem:
        """From a model and its input, or from an operator alone.

        Raises:
            ShapeError: `square`, and output and input have different shapes.
        """
        A = operator_of(subject, y, batched, model_kwargs)
        if square:
            A.symmetric_part()  # raises, before any work, where there is none
        shapes = (A.input_shape, A.output_shape) if isinstance(A, Jacobian) else (A.shape[1:], A.shape[:1])
        # Half precision is for products alone: the solver's own arithmetic is never below float32.
        return cls(A, UnitScale(A.to(torch.promote_types(A.dtype, torch.float32))), *shapes)

    @property
    def n(self) -> int:
        """The length of a vector."""
        return self.A.shape[1]

    def checked(self, asked: Asked, methods: tuple[str, ...]) -> Asked:
        """The same with `start` as (B, m, n) rows and no block wider than the operator's rank may be.

        Raises:
            OptionError, ShapeError, NotFiniteError: an option is out of range, or contradicts another.
        """
        asked = asked.in_numbers()
        k, above, most = asked.k, asked.above, min(self.A.shape)
        sought = above is None and asked.between is None
        if sought and not 1 <= k <= most:
            raise OptionError(f"k must be from 1 to d = {most}, {self.longest}; got {k}")
        choice("method", asked.method, methods)
        choice("which", asked.which, ("largest", "smallest", "magnitude"))
        if asked.tol <= 0:
            raise OptionError(f"tol must be positive, got {asked.tol}")
        if asked.block < 1:
            raise OptionError(f"block must be at least 1, got {asked.block}")
        if not sought and self.A.batch:
            raise OptionError(
                "above= and between= find a different number of pairs in each image: call once an image"
            )
        if above is not None and asked.between is not None:
            raise OptionError("above= and between= exclude each other")
        fewest, takes = k + asked.block, f"{k} pairs take"
        if not sought:
            fewest, takes = max(asked.block, 2), "a solve takes"
        if asked.method == "dense":
            fewest, takes = self.n, "forming the matrix takes"
        if asked.max_products is not None and asked.max_products < fewest:
            raise OptionError(f"{takes} at least {fewest} products, got max_products={asked.max_products}")
        if asked.checkpoint is not None and (asked.method not in KEPT or asked.between is not None):
            raise OptionError("checkpoint= is for Krylov solves: lanczos, golub-kahan, krylov-schur")
        return replace(asked, start=self._rows(asked.start), block=min(asked.block, most))

    def examined(self, asked: Asked, *, transpose: bool = True) -> tuple[Asked, dict[str, int]]:
        """The same asked of `working`, and the products that took.

        An operator of unknown make is tried; a Jacobian was when it was made, and only where a threshold is
        to be scaled does it cost one.
        """
        spent = 0 if isinstance(self.A, Jacobian) else check_operator(self.working, transpose=transpose)
        above, between = asked.above, asked.between
        if above is not None:
            spent += self.working.measure()
            above /= self.scale.item()
        if between is not None:
            spent += self.working.measure()
            between = between[0] / self.scale.item(), between[1] / self.scale.item()
        return replace(asked, above=above, between=between), {"checks": spent} if spent else {}

    @property
    def scale(self) -> Tensor:
        """s of every problem, (B,) float64: the values of A are s times those of `working`."""
        return self.working.scale.reshape(-1)

    def small(self, asked: Asked, below: int = DENSE_BELOW) -> bool:
        """Whether forming the matrix costs less than a Krylov solve would, which alone can be kept."""
        if asked.checkpoint is not None or self.n > (asked.max_products or self.n):
            return False
        most = asked.above is None and 5 * asked.k >= self.n and self.n <= DENSE_AT_MOST
        return self.n <= below or most

    def rounding(self, A: LinearOperator, found: RitzPairs | RitzTriplets, seed: int) -> Tensor:
        """Of products with A, (B, 1) on the CPU: four eps |A|, and twice what three products more show."""
        floor = rounding(self.working.eps, found.norm) / SLACK
        rows, images = (
            (found.vectors, found.images) if isinstance(found, RitzPairs) else (found.right, found.images[0])
        )
        if not rows.shape[1]:
            return torch.full((len(rows), 1), 4 * floor, dtype=torch.float64)
        found.spent["rounding"] = 3
        generator = stream(seed)
        measured = measured_rounding(lambda V: image(A.apply, V, A), rows, images, generator)
        return 4 * floor + 2 * measured.cpu().unsqueeze(-1)

    def confirm(self, found: RitzPairs | RitzTriplets, V: Tensor, U: Tensor) -> None:
        """Multiply what was found once more by ways that share no fault with the solve's products.

        Args:
            found: whose norm is |A| over its scale.
            V, U: (B, k, n) and (B, k, r) rows; see `Jacobian.confirm`.

        Raises:
            WrongProductsError: the solve's products were wrong; see `by_a_right_way`.
        """
        if isinstance(self.A, Jacobian):
            V, U = (X.reshape(*self.A.batch, *X.shape[-2:]) for X in (V, U))
            self.A.confirm(V, U, found.norm * self.scale.max().item())

    def judged(
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
        notes = [*(self.A.notes if isinstance(self.A, Jacobian) else []), *found.notes]
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
            "notes": notes,
        }

    @property
    def longest(self) -> str:
        """What bounds k, in words: the shorter side of a rectangular operator."""
        what = "input" if self.A.shape[1] <= self.A.shape[0] else "output"
        if isinstance(self.A, Jacobian):
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

    def shaped(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Vectors (B, k, n) as (*batch, k, *shape)."""
        return rows.reshape(*self.A.batch, rows.shape[1], *shape)

    def _rows(self, start: Tensor | None) -> Tensor | None:
        """`start` as (B, m, n)."""
        if start is None:
            return None
        if not isinstance(start, Tensor):
            raise OptionError(f"start is a tensor of vectors, got {type(start).__name__}")
        rows = start.reshape(*(self.A.batch or (1,)), -1, self.n) if start.numel() % self.n == 0 else start
        if rows.ndim != 3 or rows.shape[1] == 0:
            raise ShapeError(
                f"start holds vectors of {self.n} entries, (m, *input shape); got {tuple(start.shape)}"
            )
        if not torch.isfinite(rows).all():
            raise NotFiniteError("start holds NaN or infinity")
        return rows
