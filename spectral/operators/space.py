"""Vectors as rows of tensors, and all that is summed over their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spectral.operators.ranks import Ranks

T = TypeVar("T")

Runs = Sequence[Sequence[int]]  # entries of whole vectors, those from first to last of each (first, last)


class Space:
    """R^n, its vectors the rows of tensors (..., m, n).

    No solver and no estimator adds up a vector's entries, or draws them, but by a space: vectors that lie in
    several places are another one (`operators.sharded`), with methods of its own down to `collected`.

    Attributes:
        n: entries of a row here.
        dimension: n, of all places together.
        runs: which of them lie here, ascending.
        ranks: the processes that share them; None for this one alone.
    """

    ranks: Ranks | None = None

    def __init__(self, n: int) -> None:
        self.n = self.dimension = n
        self.runs: Runs = ((0, n),)

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

    def total(self, t: Tensor) -> Tensor:
        """The sum of a small tensor over all places."""
        return t

    def together(self, work: Callable[[], T]) -> T:
        """work(), which speaks to no other place: it fails in all where it fails in one."""
        return work()

    def check_count(self, name: str, count: int) -> None:
        """That as many vectors are given in every place.

        Raises:
            OptionError: they are not.
        """

    def within(self, index: Tensor) -> Space:
        """The space of the entries `index` (..., m) here and elsewhere, of all others zero."""
        return Space(index.shape[-1])

    def beyond(self, count: int) -> Space:
        """The space without the first entries of whole vectors."""
        return Space(self.n - count)

    def beside(self, other: Space) -> Space:
        """The space of vectors (u, v), u of this one and v of another, here one after the other."""
        return Space(self.n + other.n)

    # Made of these

    def own(self, V: Tensor) -> Tensor:
        """Of rows (..., m, dimension) of all places the part that lies here, (..., m, n)."""
        return torch.cat([V[..., first:last] for first, last in self.runs], dim=-1)

    def taken(self, into: Tensor, V: Tensor, runs: Runs) -> None:
        """Put what rows V (..., m, p) that lie elsewhere hold of `into` (..., m, n) there."""
        there = list(zip(offsets(runs), runs, strict=True))
        for here, (first, last) in zip(offsets(self.runs), self.runs, strict=True):
            for at, (a, b) in there:
                start, stop = max(first, a), min(last, b)
                if start < stop:
                    into[..., here + start - first : here + stop - first] = V[
                        ..., at + start - a : at + stop - a
                    ]

    def units(self, numbers: range, *batch: int) -> Tensor:
        """The unit vectors of these numbers, (*batch, len(numbers), n), float32 on the CPU."""
        E = torch.zeros(*batch, len(numbers), self.n)
        for here, (first, last) in zip(offsets(self.runs), self.runs, strict=True):
            for number in range(max(first, numbers.start), min(last, numbers.stop)):
                E[..., number - numbers.start, here + number - first] = 1
        return E

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
        V = V.double()
        inverse = lower_inverse(torch.linalg.cholesky(self.inner(V, V).cpu()), like=V)
        return inverse @ V, inverse @ W.double()

    def overlap(self, V: Tensor) -> Tensor:
        """max |V V' - I|, (...,) float64: how far rows are from orthonormal; 0 for none."""
        if not V.shape[-2]:
            return V.new_zeros(V.shape[:-2], dtype=torch.float64)
        wide = V.double()
        gram = self.inner(wide, wide)
        return (gram - torch.eye(gram.shape[-1]).to(gram)).abs().amax((-2, -1))


def lower_inverse(L: Tensor, like: Tensor) -> Tensor:
    """L^-1 of lower triangular matrices (..., m, m), formed on the host for products with the rows `like`."""
    # A GPU takes seconds to solve for 10^6 columns, and multiplies at once.  What it loses, eps times the
    # condition of L, is nothing where L is that of nearly orthonormal rows.
    L = L.cpu()
    one = torch.eye(L.shape[-1], dtype=L.dtype).expand_as(L)
    return torch.linalg.solve_triangular(L, one, upper=False).to(like, non_blocking=True)


def offsets(runs: Runs) -> list[int]:
    """Where each run begins here."""
    return list(accumulate((last - first for first, last in runs), initial=0))[:-1]


def _wide(V: Tensor) -> Tensor:
    return V.to(torch.promote_types(V.dtype, torch.float64))
