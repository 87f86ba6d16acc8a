"""How a solve is run: how exactly, how far, from where, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.options import number, seed_of, whole
from spectral.solvers.target import Target

PRODUCTS = 10_000


@dataclass(frozen=True)
class Progress:
    """Where a solve stands, handed to `progress` after every test of convergence."""

    stage: str
    products: int
    wanted: int
    converged: int
    worst_residual: float
    tolerance: float


@dataclass(frozen=True)
class Control:
    """What every method is told besides what to seek.

    Attributes:
        tol: a pair has converged when |A v - lambda v| <= tol max |lambda|, the maximum over the pairs found.
        max_products: stop there, converged or not; None for 10,000.
        confidence: of the completeness statement; 0 to do without the probe.
        seed: of the random starts.
        start: (B, m, n), rows that the solve starts from.
        progress: called after every test of convergence.
        checkpoint: a file in which the search is kept while it runs, and from which it is resumed where there
            is one; see `spectral.solvers.checkpoint.Checkpoint`.
    """

    tol: float = 1e-4
    max_products: int | None = None
    confidence: float = 0.99
    seed: int = 0
    start: Tensor | None = None
    progress: Callable[[Progress], None] | None = None
    checkpoint: str | Path | None = None

    @classmethod
    def of(
        cls,
        batch: tuple[int, ...],
        n: int,
        *,
        tol: Any,
        max_products: Any,
        confidence: Any,
        seed: Any,
        start: Any,
        checkpoint: str | Path | None,
    ) -> Control:
        """From what a user gave, for problems of n entries.

        Raises:
            OptionError: an entry is no number, or out of range.
            ShapeError, NotFiniteError: `start` holds no vectors of n finite entries.
        """
        tol, confidence = number("tol", tol), number("confidence", confidence)
        if tol <= 0:
            raise OptionError(f"tol must be positive, got {tol}")
        if not 0 <= confidence < 1:
            raise OptionError(f"confidence is a probability, 0 (no probe) or below 1; got {confidence}")
        most = None if max_products is None else whole("max_products", max_products)
        rows = None if start is None else _rows(start, batch, n)
        if checkpoint is not None and Path(checkpoint).is_dir():
            raise OptionError(f"checkpoint is a file, and {checkpoint} a folder: name a file in it")
        return cls(tol, most, confidence, seed_of(seed), rows, None, checkpoint)

    @property
    def budget(self) -> int:
        """Products that solve and probe may take."""
        return PRODUCTS if self.max_products is None else self.max_products

    def report(self, target: Target, stage: str, products: int, residual: Tensor, tolerance: Tensor) -> None:
        """Tell where a solve stands that has brought the wanted pairs to residuals (B, wanted)."""
        if self.progress is not None:
            now = Progress(
                stage,
                products,
                wanted=target.k if target.counted else residual.shape[-1],
                converged=int((residual <= tolerance).sum(-1).min()),
                worst_residual=residual.max().item() if residual.numel() else 0.0,
                tolerance=tolerance.min().item(),
            )
            self.progress(now)


def _rows(start: Any, batch: tuple[int, ...], n: int) -> Tensor:
    """`start` as (B, m, n)."""
    if not isinstance(start, Tensor):
        raise OptionError(f"start is a tensor of vectors, got {type(start).__name__}")
    rows = start.reshape(*(batch or (1,)), -1, n) if start.numel() % n == 0 else start
    if rows.ndim != 3 or rows.shape[1] == 0:
        raise ShapeError(f"start holds vectors of {n} entries, (m, *input shape); got {tuple(start.shape)}")
    if not torch.isfinite(rows).all():
        raise NotFiniteError("start holds NaN or infinity")
    return rows
