"""What a way to a spectrum answers, whatever it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Network = Callable[[Tensor], Tensor]  # (N, C, H, W) -> (N, C, H, W), image by image


@dataclass
class Answer:
    """Triplets (left is given), eigenpairs (it is not), or a trace (values alone).

    Attributes:
        values: (k,), or () for a trace; complex where they may be.
        right: (k, d) rows, complex where they may be.
        left: (k, d) rows.
        products: vectors through J and vectors through J', a difference of the network being one.
        error: of a trace, its own standard error where the way tells one.
        says: what the way itself says of its accuracy.
    """

    values: Tensor
    products: int
    right: Tensor | None = None
    left: Tensor | None = None
    error: float | None = None
    says: str = "nothing"

    def save(self, path: Path) -> None:
        """Write it for `load`."""
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> "Answer":
        """Read what `save` wrote."""
        return cls(**torch.load(path))


def forward_mode() -> AbstractContextManager[None]:
    """Attention in its plain form: torch's fast kernels have no forward mode."""
    return sdpa_kernel(SDPBackend.MATH)


def random_rows(k: int, y: Tensor) -> Tensor:
    """Standard normal (k, *y.shape[1:]), the same start for every way that takes one."""
    drawn = torch.randn(k, *y.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(y)
