"""What the front doors share: the operator, what is asked of a solver, and how its answer is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.operators import Jacobian, LinearOperator
from spectral.operators.subject import operator_of
from spectral.solvers import Completeness, Progress, RitzPairs, RitzTriplets
from spectral.solvers.certificate import SLACK, measured_rounding, rounding
from spectral.solvers.checks import check_operator
from spectral.solvers.dense import DENSE_AT_MOST
from spectral.solvers.krylov import image, stream
from spectral.solvers.search import EDGE, Which

log = logging.getLogger("spectral")

DENSE_BELOW = 128
PRODUCTS = 10_000
KEPT = ("auto", "lanczos", "golub-kahan", "krylov-schur")  # searches that a checkpoint can hold


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
    """What is solved: the operator, the one the solver works with, and the shapes of its vectors."""

    A: LinearOperator
    working: LinearOperator
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @classmethod
    def of(
        cls, subject: Any, y: Tensor | None, batched: bool, model_kwargs: dict[str, Any], square: bool
    ) -> Problem:
        """From a model and its input, or from an operator alone.

        Raises:
            ShapeError: `square`, and output and input have different shapes.
        """
        A = operator_of(subject, y, batched, **model_kwargs)
        if square:
            A.symmetric_part()  # raises, before any work, where there is none
        shapes = (A.input_shape, A.output_shape) if isinstance(A, Jacobian) else (A.shape[1:], A.shape[:1])
        # Half precision is for products alone: the solver's own arithmetic is never below float32.
        return cls(A, A.to(torch.promote_types(A.dtype, torch.float32)), *shapes)

    @property
    def n(self) -> int:
        """The length of a vector."""
        return self.A.shape[1]

    def checked(self, asked: Asked, methods: tuple[str, ...]) -> Asked:
        """The same with `start` as (B, m, n) rows and no block wider than n.

        Raises:
            OptionError, ShapeError, NotFiniteError: an option is out of range, or contradicts another.
        """
        k, above, most = asked.k, asked.above, min(self.A.shape)
        sought = above is None and asked.between is None
        if sought and not 1 <= k <= most:
            raise OptionError(f"k must be from 1 to d = {most}, the number of pixels; got {k}")
        if asked.method not in methods:
            raise OptionError(f"method is one of {', '.join(methods)}; got {asked.method!r}")
        if asked.which not in ("largest", "smallest", "magnitude"):
            raise OptionError(f'which is "largest", "smallest" or "magnitude", got {asked.which!r}')
        if not asked.tol > 0:
            raise OptionError(f"tol must be positive, got {asked.tol}")
        if asked.block < 1:
            raise OptionError(f"block must be at least 1, got {asked.block}")
        if not sought and self.A.batch:
            raise OptionError(
                "above= and between= find a different number of pairs in each image: call once an image"
            )
        if above is not None and asked.between is not None:
            raise OptionError("above= and between= exclude each other")
        fewest = k + asked.block
        if sought and asked.max_products is not None and asked.max_products < fewest:
            raise OptionError(
                f"{k} pairs take at least {fewest} products, got max_products={asked.max_products}"
            )
        if asked.checkpoint is not None and (asked.method not in KEPT or asked.between is not None):
            raise OptionError("checkpoint= is for Krylov solves: lanczos, golub-kahan, krylov-schur")
        return replace(asked, start=self._rows(asked.start), block=min(asked.block, self.n))

    def examined(self, *, transpose: bool = True) -> dict[str, int]:
        """Products spent on trying an operator of unknown make; a Jacobian was tried when it was made."""
        if isinstance(self.A, Jacobian):
            return {}
        return {"checks": check_operator(self.working, transpose=transpose)}

    def small(self, asked: Asked) -> bool:
        """Whether forming the matrix costs less than a Krylov solve would, which alone can be kept."""
        if asked.checkpoint is not None:
            return False
        most = asked.above is None and 5 * asked.k >= self.n and self.n <= DENSE_AT_MOST
        return self.n <= DENSE_BELOW or most

    def rounding(self, A: LinearOperator, found: RitzPairs | RitzTriplets, seed: int) -> Tensor:
        """Of products with A, (B, 1) on the CPU: four eps |A|, and twice what three products more show."""
        floor = rounding(self.working.dtype, found.norm) / SLACK
        rows, images = (
            (found.vectors, found.images) if isinstance(found, RitzPairs) else (found.right, found.images[0])
        )
        if not rows.shape[1]:
            return torch.full((len(rows), 1), 4 * floor, dtype=torch.float64)
        found.spent["rounding"] = 3
        generator = stream(seed)
        measured = measured_rounding(lambda V: image(A.apply, V, A), rows, images, generator)
        return 4 * floor + 2 * measured.cpu().unsqueeze(-1)

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
        """The fields that say how good the values are, and the notes.

        error: what rounding of a product adds to errors, (B, 1) or (B, k).
        ends: the thresholds that `heights` (B, k), of the values, were to lie beyond.
        """
        floor = rounding(self.working.dtype, found.norm)
        k = values.shape[-1]
        scale = values.abs().amax(-1) if k else residuals.new_zeros(len(values))
        tolerance = (tol * scale).clamp(min=floor)
        converged = residuals <= tolerance.unsqueeze(-1)
        notes = [*(self.A.notes if isinstance(self.A, Jacobian) else []), *found.notes]
        if k and bool((tol * scale < floor).any()):
            notes.append(
                f"tol {tol:g} is below the rounding of {self.working.dtype} products: residuals of "
                f"{floor:.1e} were asked for instead"
            )
        for end in ends:
            close = int(((heights - end).abs() <= EDGE * floor).sum())
            if close:
                notes.append(
                    f"{close} of {k} are within rounding, {EDGE * floor:.1e}, of the threshold {end:g}"
                )
        if not bool(converged.all()):
            notes.append(f"{int((~converged).sum())} of {converged.numel()} are above the tolerance")
        for note in notes:
            log.info("%s", note)
        seen = found.completeness
        return {
            "values": self.one(values),
            "residuals": self.one(residuals),
            # Rounding in a product moves values by as much, and hides as much of a residual.
            "errors": self.one(errors + error),
            "converged": self.one(converged),
            "tolerance": self.one(tolerance),
            "completeness": Completeness(self.one(seen.bound), seen.confidence, seen.products),
            "spent": found.spent,
            "operator": repr(self.A),
            "notes": notes,
        }

    def one(self, t: Tensor) -> Tensor:
        """(B, ...) on the CPU, without the first axis where there is no batch."""
        return t.cpu() if self.A.batch else t[0].cpu()

    def shaped(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Vectors (B, k, n) as (*batch, k, *shape)."""
        return rows.reshape(*self.A.batch, rows.shape[1], *shape)

    def _rows(self, start: Tensor | None) -> Tensor | None:
        """`start` as (B, m, n)."""
        if start is None:
            return None
        rows = start.reshape(*(self.A.batch or (1,)), -1, self.n) if start.numel() % self.n == 0 else start
        if rows.ndim != 3 or rows.shape[1] == 0:
            raise ShapeError(
                f"start holds vectors of {self.n} entries, (m, *input shape); got {tuple(start.shape)}"
            )
        if not torch.isfinite(rows).all():
            raise NotFiniteError("start holds NaN or infinity")
        return rows
