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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.operators.ranks import Ranks
from spectral.operators.space import Placed, Space

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
    """R^n of images whose rows lie in several processes: a row here is this process's strip of one vector.

    Whatever is summed is summed over all processes, to the same bits in each; random vectors are those of
    `Space`, each process keeping its part, so that a solve is the same for any number of them.

    Args:
        ranks, cuts: the processes, and which rows each has.
        planes, width: of an image, all axes before H as one, and W.
    """

    def __init__(self, ranks: Ranks, cuts: Cuts, planes: int, width: int) -> None:
        strip = cuts.of(ranks.rank)
        super().__init__(planes * len(strip) * width)
        self.dimension = planes * cuts.rows * width
        self.ranks: Ranks = ranks
        self.cuts, self.planes, self.width = cuts, planes, width
        self.placed = Placed(planes, cuts.rows * width, strip.start * width, strip.stop * width)

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
        (every,) = self.ranks.gather(super().largest(V))
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
        lead, heights = V.shape[:-1], [len(self.cuts.of(r)) for r in range(self.ranks.size)]
        strip = V.reshape(*lead, self.planes, -1, self.width)
        (every,) = self.ranks.gather(
            torch.nn.functional.pad(strip, (0, 0, 0, max(heights) - strip.shape[-2]))
        )
        rows = torch.cat([part[..., :h, :] for part, h in zip(every, heights, strict=True)], dim=-2)
        return rows.flatten(-3).to(V)

    def collected(self, V: Tensor) -> Tensor | None:
        """`whole`, in the first process alone, and None in others; a row at a time goes from each."""
        lead, ranks = V.shape[:-1], self.ranks
        flat = V.reshape(-1, self.planes, len(self.cuts.of(ranks.rank)), self.width)
        out = flat.new_empty(len(flat), self.planes, self.cuts.rows, self.width) if ranks.rank == 0 else None
        for i, row in enumerate(flat):
            if out is None:
                ranks.exchange({0: row}, {})
                continue
            out[i][:, self.cuts.of(0).start : self.cuts.of(0).stop] = row
            parts = {
                r: row.new_empty(self.planes, len(self.cuts.of(r)), self.width) for r in range(1, ranks.size)
            }
            ranks.exchange({}, parts)
            for r, part in parts.items():
                out[i][:, self.cuts.of(r).start : self.cuts.of(r).stop] = part
        return None if out is None else out.reshape(*lead, -1)

    def _runs(self, size: tuple[int, ...], draw: Callable[[int], Tensor], dtype: torch.dtype) -> Tensor:
        """This process's part of numbers drawn one after the other, (*size, dimension) in all.

        torch draws normal numbers by sixteens, and the last of what is asked for in another way: pieces of a
        multiple of 16, the last no shorter, are what one draw of all would give.
        """
        place, rows = self.placed, math.prod(size)
        total = rows * self.dimension
        out = torch.empty(rows * place.planes, place.last - place.first, dtype=dtype)
        at = 0
        while at < total:
            count = PIECE if total - at >= 2 * PIECE else total - at
            piece = draw(count)
            for plane in range(at // place.length, (at + count - 1) // place.length + 1):
                first, last = (plane * place.length + x for x in (place.first, place.last))
                a, b = max(first, at), min(last, at + count)
                if a < b:
                    out[plane, a - first : b - first] = piece[a - at : b - at]
            at += count
        return out.reshape(*size, self.n)


def _common(a: range, b: range) -> range:
    first = max(a.start, b.start)
    return range(first, max(min(a.stop, b.stop), first))


def _within(rows: range, start: int) -> slice:
    return slice(rows.start - start, rows.stop - start)
