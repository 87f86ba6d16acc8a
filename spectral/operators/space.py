"""Vectors as rows of tensors, and all that is summed over their entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spectral.operators.ranks import Ranks


class Placed(NamedTuple):
    """Which entries of whole vectors lie here: of `planes` runs of `length`, those from `first` to `last`."""

    planes: int
    length: int
    first: int
    last: int


class Space:
    """R^n, its vectors the rows of tensors (..., m, n).

    No solver and no estimator adds up a vector's entries, or draws them, but by a space: vectors that lie in
    several places are another one (`operators.sharded`), with methods of its own down to `collected`.

    Attributes:
        n: entries of a row here.
        dimension: n, of all places together.
        placed: which of them lie here.
        ranks: the processes that share them; None for this one alone.
    """

    ranks: Ranks | None = None

    def __init__(self, n: int) -> None:
        self.n = self.dimension = n
        self.placed = Placed(1, n, 0, n)

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        """<u_i, v_j> for all rows, (..., m, p), as a product of matrices."""
        return U @ V.mT

    def dots(self, U: Tensor, V: Tensor) -> Tensor:
        """<u_i, v_i>, (..., m), in float64 (complex128), by pairwise sums: no n eps of a long product."""
        return (_wide(U) * _wide(V)).sum(-1)

    def norms(self, V: Tensor) -> Tensor:
        """|v_i|, (..., m)."""
        return torch.linalg.vector_norm(V, dim=-1)

    def largest(self, V: Tensor) -> Tensor:
        """The entry of largest magnitude of each row, (..., m, 1)."""
        return V.gather(-1, V.abs().argmax(-1, keepdim=True))

    def qr(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Q (..., q, n) orthonormal and R (..., q, m) upper triangular, V = R' Q, q = min(m, n)."""
        Q, R = torch.linalg.qr(V.mT)
        return Q.mT, R

    def normal(self, *size: int, generator: torch.Generator) -> Tensor:
        """Standard normal rows (*size, n), float64 on the CPU: the same from one generator everywhere."""
        return torch.randn(*size, self.n, generator=generator, dtype=torch.float64, device="cpu")

    def signs(self, *size: int, generator: torch.Generator) -> Tensor:
        """Rows (*size, n) of signs at random, float32 on the CPU: the same from one generator everywhere."""
        bits = torch.randint(0, 2, (*size, self.n), generator=generator, dtype=torch.int8, device="cpu")
        return bits.float().mul_(2).sub_(1)

    def whole(self, V: Tensor) -> Tensor:
        """Rows (..., m, n) here as rows (..., m, dimension) of all places, in every place."""
        return V

    def collected(self, V: Tensor) -> Tensor | None:
        """The same in the first place alone, and None in others."""
        return V

    # Made of these

    def own(self, V: Tensor) -> Tensor:
        """Of rows (..., m, dimension) of all places the part that lies here, (..., m, n)."""
        planes, length, first, last = self.placed
        return V.unflatten(-1, (planes, length))[..., first:last].flatten(-2)

    def taken(self, into: Tensor, V: Tensor, placed: Placed) -> None:
        """Put what rows V (..., m, p) that lie elsewhere hold of `into` (..., m, n) there."""
        planes, _, first, last = self.placed
        start, stop = max(first, placed.first), min(last, placed.last)
        if start < stop:
            here = into.unflatten(-1, (planes, last - first))
            there = V.unflatten(-1, (planes, placed.last - placed.first))
            here[..., start - first : stop - first] = there[..., start - placed.first : stop - placed.first]

    def units(self, numbers: range, *batch: int) -> Tensor:
        """The unit vectors of these numbers, (*batch, len(numbers), n), float32 on the CPU."""
        planes, length, first, last = self.placed
        E = torch.zeros(*batch, len(numbers), planes, last - first)
        for i, number in enumerate(numbers):
            plane, place = divmod(number, length)
            if first <= place < last:
                E[..., i, plane, place - first] = 1
        return E.flatten(-2)

    def inner64(self, U: Tensor, V: Tensor) -> Tensor:
        """<u_i, v_j> for all rows, (..., m, p), in float64."""
        return self.inner(U.double(), V.double())

    def lengths(self, V: Tensor) -> Tensor:
        """|v_i|, (..., m), where the squares would leave the range of the dtype too."""
        largest = self.largest(V).abs()
        largest = torch.where(largest > 0, largest, 1.0)
        return largest.squeeze(-1) * self.norms(V / largest)

    def orthogonalise(self, W: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """H = W basis' in float64 and the rest of W, by classical Gram-Schmidt done twice."""
        first = self.inner(W, basis)
        W = W - first @ basis
        second = self.inner(W, basis)
        return first.double() + second.double(), W - second @ basis

    def complement(self, V: Tensor, held: Tensor) -> Tensor:
        """Orthonormal rows, each V's row less its part in the orthonormal rows held and those before it."""
        for _ in range(3):
            V, R = self.qr(V - self.inner(V, held) @ held)
            V = V * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
        return V

    def orthonormalise(self, V: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """L^-1 V and L^-1 W in float64, V V' = L L': nearly orthonormal rows made so, and their images."""
        V, W = V.double(), W.double()
        L = torch.linalg.cholesky(self.inner(V, V))
        V, W = (torch.linalg.solve_triangular(L, rows, upper=False) for rows in (V, W))
        return V, W

    def overlap(self, V: Tensor) -> Tensor:
        """max |V V' - I|, (...,) float64: how far rows are from orthonormal; 0 for none."""
        if not V.shape[-2]:
            return V.new_zeros(V.shape[:-2], dtype=torch.float64)
        gram = self.inner64(V, V)
        return (gram - torch.eye(gram.shape[-1]).to(gram)).abs().amax((-2, -1))


def _wide(V: Tensor) -> Tensor:
    return V.to(torch.promote_types(V.dtype, torch.float64))
