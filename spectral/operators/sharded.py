"""Images whose rows lie in several processes: who has which, halos, and the space of such vectors.

An image (..., H, W) is cut along H into strips, one a process.  With E the strip together with the rows
within reach on either side, and R' a strip among zeros,

    E      v -> the strip and its halo         the halo comes from the processes that own it
    E'     g -> the strip, and what others     halos go back to their owners, who add them in order of ranks
                have of it

At the true borders of the image a halo ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.operators.ranks import Ranks
from spectral.operators.space import Runs, Space, offsets

T = TypeVar("T")

PIECE = 1 << 20  # random numbers drawn at once; a multiple of 16, see `_runs`


@dataclass(frozen=True)
class Cuts:
    """Where H rows are cut: process i has the rows from bounds[i] to bounds[i + 1].

    Raises:
        OptionError: a process has no row.
    """

    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        heights = [b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False)]
        if not heights or min(heights) < 1:
            raise OptionError(f"each process needs a row at least; the heights of the strips are {heights}")

    @classmethod
    def even(cls, rows: int, parts: int, multiple: int) -> Cuts:
        """Strips as equal as they can be, cut at multiples of `multiple`.

        Raises:
            OptionError: there are fewer such strips than processes.
        """
        blocks = -(-rows // multiple)
        if blocks < parts:
            raise OptionError(
                f"{rows} rows cut at multiples of {multiple} make {blocks} strips at most, and there are "
                f"{parts} processes: start fewer"
            )
        return cls((*(min(i * blocks // parts * multiple, rows) for i in range(parts)), rows))

    @property
    def rows(self) -> int:
        """H."""
        return self.bounds[-1]

    def of(self, rank: int) -> range:
        """The rows of a process."""
        return range(self.bounds[rank], self.bounds[rank + 1])

    def extended(self, rank: int, above: int, below: int) -> range:
        """The same with so many more on either side, as far as there are."""
        own = self.of(rank)
        return range(max(own.start - above, 0), min(own.stop + below, self.rows))


class Halo:
    """E and E' of one process's strip; see the module's text.

    Args:
        ranks, cuts: the processes, and which rows each has.
        above, below: rows of the halo, rounded up by the caller to where cuts may be.

    Attributes:
        rows: those of the strip and its halo, in the whole image.
        own: the strip's place among them.
    """

    def __init__(self, ranks: Ranks, cuts: Cuts, above: int, below: int) -> None:
        self.ranks, self.cuts, self.above, self.below = ranks, cuts, above, below
        self.rows, strip = cuts.extended(ranks.rank, above, below), cuts.of(ranks.rank)
        self.own = slice(strip.start - self.rows.start, strip.stop - self.rows.start)
        others = [r for r in range(ranks.size) if r != ranks.rank]
        self._from = {r: _within(_common(self.rows, cuts.of(r)), self.rows.start) for r in others}
        self._to = {r: _within(_common(cuts.extended(r, above, below), strip), strip.start) for r in others}

    @property
    def neighbours(self) -> list[int]:
        """The processes that rows come from."""
        return [r for r, part in self._from.items() if part.stop > part.start]

    @property
    def whole(self) -> bool:
        """Whether strip and halo are the whole image."""
        return len(self.rows) == self.cuts.rows

    def bytes_each_way(self, row_bytes: int) -> tuple[int, int]:
        """What a product with J sends and receives here, for rows of so many bytes; with J', the reverse."""
        sent = sum(part.stop - part.start for part in self._to.values())
        return sent * row_bytes, (len(self.rows) - len(self.cuts.of(self.ranks.rank))) * row_bytes

    def extend(self, X: Tensor) -> Tensor:
        """E: (m, planes, h, W) -> (m, planes, strip and halo, W)."""
        out = X.new_empty(*X.shape[:-2], len(self.rows), X.shape[-1])
        out[..., self.own, :] = X
        into = {r: X.new_empty(out[..., part, :].shape) for r, part in self._from.items()}
        self.ranks.exchange({r: X[..., part, :] for r, part in self._to.items()}, into)
        for r, part in self._from.items():
            out[..., part, :] = into[r]
        return out

    def add_back(self, G: Tensor) -> Tensor:
        """E': (m, planes, strip and halo, W) -> (m, planes, h, W)."""
        out = G[..., self.own, :].clone()
        into = {r: G.new_empty(out[..., part, :].shape) for r, part in self._to.items()}
        self.ranks.exchange({r: G[..., part, :] for r, part in self._from.items()}, into)
        for r, part in self._to.items():
            out[..., part, :] += into[r]
        return out


class ShardedSpace(Space):
    """R^n of vectors whose entries lie in several processes: a row here is this process's part of one.

    Whatever is summed is summed over all processes, to the same bits in each; random vectors are those of
    `Space`, each process keeping its part, so that a solve is the same for any number of them.

    Args:
        ranks: the processes.
        every: the entries that lie in each of them, as many runs in each.
    """

    ranks: Ranks

    def __init__(self, ranks: Ranks, every: Sequence[Runs]) -> None:
        self.ranks, self.every = ranks, every
        self.sizes = [sum(last - first for first, last in runs) for runs in every]
        super().__init__(self.sizes[ranks.rank])
        self.dimension, self.runs = sum(self.sizes), every[ranks.rank]

    @classmethod
    def of_images(cls, ranks: Ranks, cuts: Cuts, planes: int, width: int) -> ShardedSpace:
        """That of images; planes: all axes before H as one."""
        length = cuts.rows * width
        return cls(
            ranks,
            [
                [
                    (plane * length + rows.start * width, plane * length + rows.stop * width)
                    for plane in range(planes)
                ]
                for rows in map(cuts.of, range(ranks.size))
            ],
        )

    def total(self, t: Tensor) -> Tensor:
        """See `Space`."""
        return self.ranks.sum(t)

    def together(self, work: Callable[[], T]) -> T:
        """See `Space`."""
        return self.ranks.agree(work)

    def check_count(self, name: str, count: int) -> None:
        """See `Space`."""
        every = self.ranks.gather(torch.tensor(count))[0].long().tolist()
        if len(set(every)) > 1:
            raise OptionError(
                f"{name} holds {', '.join(map(str, every))} vectors in the processes: as many in each, of "
                "which each has the rows that lie there"
            )

    def within(self, index: Tensor) -> ShardedSpace:
        """See `Space`; index ascends."""
        ends = torch.tensor([*offsets(self.runs), self.n])
        counts = torch.searchsorted(index.cpu().contiguous(), ends).diff()
        (every,) = self.ranks.gather(counts)
        held = sorted((run[0], rank, i) for rank, runs in enumerate(self.every) for i, run in enumerate(runs))
        numbered: list[list[tuple[int, int]]] = [[] for _ in self.every]
        number = 0
        for _, rank, i in held:
            count = int(every[rank, i])
            numbered[rank].append((number, number + count))
            number += count
        return ShardedSpace(self.ranks, numbered)

    def beyond(self, count: int) -> ShardedSpace:
        """See `Space`."""
        every = [[(max(a - count, 0), max(b - count, 0)) for a, b in runs] for runs in self.every]
        return ShardedSpace(self.ranks, every)

    def beside(self, other: Space) -> ShardedSpace:
        """See `Space`."""
        assert isinstance(other, ShardedSpace)
        pairs = zip(self.every, other.every, strict=True)
        after = self.dimension
        return ShardedSpace(self.ranks, [[*u, *((a + after, b + after) for a, b in v)] for u, v in pairs])

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        """See `Space`."""
        return self.ranks.sum(super().inner(U, V))

    def dots(self, U: Tensor, V: Tensor) -> Tensor:
        """See `Space`."""
        return self.ranks.sum(super().dots(U, V))

    def norms(self, V: Tensor) -> Tensor:
        """See `Space`; squares are added in float64."""
        part = super().norms(V)
        return self.ranks.sum(part.double().square()).sqrt().to(part)

    def largest(self, V: Tensor) -> Tensor:
        """See `Space`; of equal ones the first process's."""
        (every,) = self.ranks.gather(super().largest(V) if self.n else V.new_zeros(*V.shape[:-1], 1))
        return every.gather(0, every.abs().argmax(0, keepdim=True))[0].to(V)

    def qr(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """See `Space`: by Householder reflections in each process, and of the triangles that they leave.

        Source: Demmel, Grigori, Hoemmen and Langou, SIAM J. Sci. Comput. 34 (2012), for its stability.
        """
        m = V.shape[-2]
        Q, R = super().qr(V)
        # A strip of fewer entries than there are rows has a lower triangle.
        short = m - R.shape[-2]
        Q, R = (torch.nn.functional.pad(part, (0, 0, 0, short)) for part in (Q, R))
        (every,) = self.ranks.gather(R)
        stacked = every.movedim(0, -3).flatten(-3, -2)
        mixed, R = torch.linalg.qr(stacked)
        q = min(m, self.dimension)
        first = self.ranks.rank * m
        part = mixed[..., first : first + m, :q]
        return part.mT.to(V) @ Q, R[..., :q, :].to(V)

    def normal(self, *size: int, generator: torch.Generator) -> Tensor:
        """See `Space`: the whole is drawn, by pieces, and this process's part of it is kept."""

        def draw(count: int) -> Tensor:
            return torch.randn(count, generator=generator, dtype=torch.float64, device="cpu")

        return self._runs(size, draw, torch.float64)

    def signs(self, *size: int, generator: torch.Generator) -> Tensor:
        """See `Space` and `normal`."""

        def draw(count: int) -> Tensor:
            return torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8, device="cpu")

        return self._runs(size, draw, torch.int8).float().mul_(2).sub_(1)

    def whole(self, V: Tensor) -> Tensor:
        """See `Space`: every process gets all."""
        (every,) = self.ranks.gather(torch.nn.functional.pad(V, (0, max(self.sizes) - self.n)))
        out = V.new_empty(*V.shape[:-1], self.dimension)
        for part, runs in zip(every, self.every, strict=True):
            _put(out, part.to(V), runs)
        return out

    def collected(self, V: Tensor) -> Tensor | None:
        """`whole`, in the first process alone, and None in others; a row at a time goes from each."""
        flat, ranks = V.reshape(-1, self.n), self.ranks
        out = flat.new_empty(len(flat), self.dimension) if ranks.rank == 0 else None
        for i, row in enumerate(flat):
            if out is None:
                ranks.exchange({0: row}, {})
                continue
            parts = {r: row.new_empty(self.sizes[r]) for r in range(1, ranks.size)}
            ranks.exchange({}, parts)
            for r, part in enumerate([row, *parts.values()]):
                _put(out[i], part, self.every[r])
        return None if out is None else out.reshape(*V.shape[:-1], -1)

    def _runs(self, size: tuple[int, ...], draw: Callable[[int], Tensor], dtype: torch.dtype) -> Tensor:
        """This process's part of numbers drawn one after the other, (*size, dimension) in all.

        torch draws normal numbers by sixteens, and the last of what is asked for in another way: pieces of a
        multiple of 16, the last no shorter, are what one draw of all would give.
        """
        rows = math.prod(size)
        total = rows * self.dimension
        out = torch.empty(rows, self.n, dtype=dtype)
        runs = list(zip(offsets(self.runs), self.runs, strict=True))
        at = 0
        while at < total:
            count = PIECE if total - at >= 2 * PIECE else total - at
            piece = draw(count)
            for row in range(at // self.dimension, (at + count - 1) // self.dimension + 1):
                start = row * self.dimension
                for here, (first, last) in runs:
                    a, b = max(start + first, at), min(start + last, at + count)
                    if a < b:
                        place = here + a - start - first
                        out[row, place : place + b - a] = piece[a - at : b - at]
            at += count
        return out.reshape(*size, self.n)


def _put(out: Tensor, part: Tensor, runs: Runs) -> None:
    """What one process has of rows (..., n) into rows of all."""
    for here, (first, last) in zip(offsets(runs), runs, strict=True):
        out[..., first:last] = part[..., here : here + last - first]


def _common(a: range, b: range) -> range:
    first = max(a.start, b.start)
    return range(first, max(min(a.stop, b.stop), first))


def _within(rows: range, start: int) -> slice:
    return slice(rows.start - start, rows.stop - start)
