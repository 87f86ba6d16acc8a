"""Subspaces of R^n by coordinates: the vectors that are zero outside a mask and orthogonal to given rows.

With P the entries of a mask and Q orthonormal rows of what the constraints are there, the columns of

    E = P' H (0, 1)'

are an orthonormal basis of {v : v is zero outside the mask, Q P v = 0}, H being the reflection that takes the
first unit vectors to -Q.  A compression E' A E has none of the zeros that E E' A E E' adds to a spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.operators.base import Rows
from spectral.operators.space import Space


class Subspace:
    """An isometry E from coordinates, rows (..., m, dimension), to rows (..., m, n).

    With the first c of the orthonormal columns of Q symmetric and not negative, Q_1 (Q may be turned within
    its span), and U = (1, 0) + Q', the reflection is H = 1 - U' (1 + Q_1)^-1 U; its last n - c columns are
    orthonormal, and orthogonal to Q.  Products with it take 4 c n operations, and 2 c n numbers are held.

    Args:
        whole: the space of a row; entries that lie in several places are masked in each.
        index: (m,) or (B, m), the entries of the mask here, ascending; None for all.
        held: (c, m) or (B, c, m) orthonormal rows, float64, that all is orthogonal to; None for none.

    Attributes:
        whole, space: of rows, and of coordinates.
        dimension: of all coordinates.
    """

    def __init__(self, whole: Space, index: Tensor | None = None, held: Tensor | None = None) -> None:
        self.whole, self.index, self._rank = whole, index, 0 if held is None else held.shape[-2]
        self._inside = whole if index is None else whole.within(index)
        self.space = self._inside.beyond(self._rank)
        self._U = self._middle = None
        if held is not None:
            first = self._inside.units(range(self._rank)).to(held)
            left, _, right = torch.linalg.svd(self._inside.inner(first, held))
            turn = (left @ right).mT
            Q = held.mT @ turn
            self._U = Q.mT + first
            self._middle = torch.linalg.inv(torch.eye(self._rank).to(held) + self._inside.inner(first, Q.mT))

    @property
    def dimension(self) -> int:
        """See the class."""
        return self.space.dimension

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        mask: Any = None,
        orthogonal_to: Any = None,
        *,
        batch: tuple[int, ...] = (),
        device: torch.device | str = "cpu",
        name: str = "mask",
        whole: Space | None = None,
    ) -> Subspace | None:
        """The subspace that a mask and constraints leave; None where they leave all.

        Args:
            shape: of one input.
            mask: boolean, or 0 and 1, broadcastable to `shape`, or to (*batch, *shape).
            orthogonal_to: vectors (p, n) or (p, *shape), of any lengths and rank; with a batch the same for
                all problems, or (B, p, ...).
            batch: () or (B,).
            device: where rows will lie.
            name: of the mask, for messages.
            whole: the space of one input, where that lies in several places; shape, mask and vectors are then
                of what lies here of it.

        Raises:
            OptionError: nothing is left, values are neither 0 nor 1, or a batch's problems differ in how much
                is left of them.
            ShapeError: mask or vectors do not fit the shape.
            NotFiniteError: a vector holds NaN or infinity.
        """
        space = whole or Space(math.prod(shape))
        index = None if mask is None else _entries(mask, shape, batch, name, space)
        held = None
        if orthogonal_to is not None:
            rows = space.together(lambda: _vectors(orthogonal_to, shape, batch))
            space.check_count("orthogonal_to", rows.shape[-2])
            held = _span(rows, index, space)
        if index is None and held is None:
            return None
        return cls(
            space,
            None if index is None else index.to(device),
            None if held is None else held.to(device),
        )

    def embed(self, V: Tensor) -> Tensor:
        """E v: coordinates (..., m, dimension) as rows (..., m, n), complex ones too."""
        if V.is_complex():
            return torch.complex(self.embed(V.real), self.embed(V.imag))
        if self._rank:
            V = self._reflected(torch.nn.functional.pad(V, (self._first, 0)))
        if self.index is None:
            return V
        rows = V.new_zeros(*V.shape[:-1], self.whole.n)
        return rows.scatter_(-1, _places(self.index, V), V)

    def coordinates(self, V: Tensor) -> Tensor:
        """E' v: rows (..., m, n), those outside by their part inside, as coordinates."""
        V = V if self.index is None else V.gather(-1, _places(self.index, V))
        return self._reflected(V)[..., self._first :].contiguous() if self._rank else V

    def around(self, rows: Rows) -> Rows:
        """v -> E' rows(E v): a map of rows as one of coordinates."""
        return lambda V: self.coordinates(rows(self.embed(V)))

    def select(self, index: Tensor) -> Subspace:
        """That of some of a batch's problems."""
        return self._with(lambda part, axes: part if part.ndim == axes else part[index.to(part.device)])

    def to(self, dtype: torch.dtype) -> Subspace:
        """The same for rows of `dtype`."""
        return self._with(lambda part, axes: part.to(dtype) if part.is_floating_point() else part)

    def __str__(self) -> str:
        """What is left, in words."""
        told = []
        if self.index is not None:
            told.append(f"{self._inside.dimension} of {self.whole.dimension} entries")
        if self._rank:
            told.append(f"orthogonal to {self._rank} direction{'s' if self._rank > 1 else ''}")
        return f"{', '.join(told)}: dimension {self.dimension}"

    def _with(self, change: Callable[[Tensor, int], Tensor]) -> Subspace:
        other = Subspace.__new__(Subspace)
        other.whole, other._inside, other.space = self.whole, self._inside, self.space
        other._rank = self._rank
        other.index = None if self.index is None else change(self.index, 1)
        other._U = None if self._U is None else change(self._U, 2)
        other._middle = None if self._middle is None else change(self._middle, 2)
        return other

    @property
    def _first(self) -> int:
        """How many of the first c entries lie here: the first of what does."""
        return self._inside.n - self.space.n

    def _reflected(self, V: Tensor) -> Tensor:
        assert self._U is not None and self._middle is not None
        U, middle = self._U.to(V.dtype), self._middle.to(V.dtype)
        return V - (self._inside.inner(V, U) @ middle) @ U


def _places(index: Tensor, V: Tensor) -> Tensor:
    """The entries of each row of V."""
    index = index if index.ndim == 1 else index.unsqueeze(-2)
    return index.expand(*V.shape[:-1], index.shape[-1])


def _entries(
    mask: Any, shape: tuple[int, ...], batch: tuple[int, ...], name: str, whole: Space
) -> Tensor | None:
    """The entries that a mask holds here, (m,) or (B, m); None for all of all places."""
    flat = whole.together(lambda: _flat(mask, shape, batch, name))
    counts = whole.total(flat.sum(-1))
    if not bool((counts > 0).all()):
        raise OptionError(f"{name} holds no entry: it is True where vectors may differ from zero")
    if bool((counts == whole.dimension).all()):
        return None
    if flat.ndim == 1:
        return flat.nonzero().squeeze(-1)
    if len(counts.unique()) > 1:
        raise OptionError(
            f"{name} holds from {counts.min()} to {counts.max()} entries of an image, and as many of each in "
            "one call: call once an image"
        )
    return flat.nonzero()[:, 1].reshape(len(flat), -1)


def _flat(mask: Any, shape: tuple[int, ...], batch: tuple[int, ...], name: str) -> Tensor:
    """A mask as (n,) or (B, n), True and False."""
    if isinstance(mask, np.ndarray):
        mask = torch.as_tensor(np.ascontiguousarray(mask))
    if not isinstance(mask, Tensor):
        raise OptionError(f"{name} is a tensor of True and False, got {type(mask).__name__}")
    mask = mask.detach().cpu()
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise OptionError(f"{name} holds True and False, or 0 and 1: threshold it first")
    full = (*batch, *shape) if mask.ndim > len(shape) else shape
    try:
        mask = mask.bool().expand(full)
    except RuntimeError:
        raise ShapeError(
            f"{name} is broadcast to the shape {(*batch, *shape)}, got {tuple(mask.shape)}"
        ) from None
    return mask.reshape(*full[: len(full) - len(shape)], -1)


def _vectors(given: Any, shape: tuple[int, ...], batch: tuple[int, ...]) -> Tensor:
    """Vectors of any of the shapes that are taken, as (p, n) or (B, p, n)."""
    n = math.prod(shape)
    if not isinstance(given, Tensor) or not given.is_floating_point():
        what = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise OptionError(f"orthogonal_to is a tensor of real vectors, got {what}")
    core = tuple(shape[i] for i in range(len(shape)) if any(side > 1 for side in shape[: i + 1]))
    for last in (shape, (n,), core):
        if last and given.shape[-len(last) :] == last:
            lead = given.shape[: given.ndim - len(last)]
            break
    else:
        raise ShapeError(
            f"orthogonal_to holds vectors (p, {n}) or images (p, {', '.join(map(str, shape))}); "
            f"got {tuple(given.shape)}"
        )
    if not torch.isfinite(given).all():
        raise NotFiniteError("orthogonal_to holds NaN or infinity")
    if batch and len(lead) > 1:
        if lead[0] != batch[0]:
            raise ShapeError(
                f"orthogonal_to holds vectors for {lead[0]} problems, of which there are {batch[0]}"
            )
        return given.detach().reshape(batch[0], -1, n)
    return given.detach().reshape(-1, n)


def _span(rows: Tensor, index: Tensor | None, whole: Space) -> Tensor | None:
    """Orthonormal rows, float64, that span the given ones' entries in a mask; None where these are none.

    Rows of norm 1 are taken to depend on each other where a singular value is within rounding, as it was when
    they were given, of zero.
    """
    eps, p = torch.finfo(rows.dtype).eps, rows.shape[-2]
    rows = rows.double()
    if not p:
        return None
    sizes, inside = whole.lengths(rows), whole
    if index is not None:
        rows, inside = _shared(rows, index), whole.within(index)
        rows = rows.gather(-1, _places(index.to(rows.device), rows))
    lengths = inside.lengths(rows)
    live = lengths > eps * sizes  # what is left of a row that lies outside is rounding
    rows = torch.where(live.unsqueeze(-1), rows / torch.where(live, lengths, 1.0).unsqueeze(-1), 0.0)
    Q, R = inside.qr(rows)
    left, singular, _ = torch.linalg.svd(R, full_matrices=False)
    ranks = (singular > 10 * eps * math.sqrt(p) * singular[..., :1]).sum(-1)
    if len(ranks.unique()) > 1:
        raise OptionError(
            f"orthogonal_to holds from {ranks.min()} to {ranks.max()} independent vectors for each image: in "
            "one call all hold as many; call once an image"
        )
    rank = int(ranks.max())
    if rank == inside.dimension:
        raise OptionError(
            f"orthogonal_to leaves nothing: its vectors span all {rank} dimensions"
            + (" of the mask" if index is not None else "")
        )
    return (left[..., :rank].mT @ Q).contiguous() if rank else None


def _shared(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, p, n) where each problem has a mask of its own."""
    return rows.expand(len(index), *rows.shape) if index.ndim == 2 and rows.ndim == 2 else rows
