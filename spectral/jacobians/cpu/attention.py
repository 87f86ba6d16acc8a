"""Products with the derivative of attention, a head at a time, no weights in memory but those of a few keys.

    o = P v,   P = exp(q k' - l)
    ahead      do = P dv + (P o dS) v - r o,   dS = s dq k' + q dk',   r the row sums of P o dS
    back       dS = P o (u v' - D),            D the row sums of u o o:   dq = s dS k,  dk = dS' q,  dv = P' u

q comes scaled by s, with -l in its last column; k and v with ones.  What is left beside exp are products of
small matrices, which stay in registers and in a core's caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

KEYS = 96  # at a time: weights and products of so many, for two vectors of queries, fill a first cache

_GIVEN = ("dq", "dk", "dv", "out")
_STRIDES = ("", "_batch", "_head", "_token", "_feature", "_part")
_NONE = [0] * len(_STRIDES)
TASK = openmp.layout(
    "taken workers heads known_heads inner parts queries keys depth width room workspace "
    "q k v o scale known " + " ".join(name + stride for name in _GIVEN for stride in _STRIDES)
)


def offered(o: Tensor) -> bool:
    """Whether `Heads` are at hand for outputs (N, n, e): on x86 CPUs, for queries over half a vector."""
    if o.dtype != torch.float32 or o.device.type != "cpu":
        return False
    return 8 * o.shape[1] > openmp.vector_bytes() > 0


@dataclass
class Heads:
    """N heads of attention; vectors of tangents come as (X, H, tokens, features), X H a multiple of N.

    Attributes:
        q: (N, n, d + 1) queries times the scale, and -l.
        k: (N, m, d + 1) keys, and ones.
        v: (N, m, e + 1) values, and ones.
        o: (N, n, e) outputs.
        scale: (N,) s.
        known: P, as `kept` gives it, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    scale: Tensor
    known: Tensor | None = None

    def __post_init__(self) -> None:
        given = self.q, self.k, self.v, self.o, self.scale, self.known
        self._heads, self._queries = self.q.shape[:2]
        self._places = [0 if t is None else t.data_ptr() for t in given]
        self._sizes = self.k.shape[1], self.k.shape[2] - 1, self.o.shape[2]  # keys, depth, width

    def ahead(self, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None, out: Tensor) -> None:
        """do into `out`, (X, H, n, e), of any strides, as are those of the tangents that there are."""
        kernels = _kernels()
        self._run(kernels.ahead(), (dq, dk, dv, out), self._parts(out), kernels.room_ahead(*self._sizes)[-1])

    def back(self, u: Tensor, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None) -> None:
        """dq, dk, dv into those that there are, (X, H, tokens, features); of any strides, as is u."""
        kernels, parts = _kernels(), self._parts(u)
        sums = {id(t): t.new_empty(parts, *t.shape) for t in (dk, dv) if t is not None and parts > 1}
        given = tuple(t if t is None else sums.get(id(t), t) for t in (dq, dk, dv))
        self._run(kernels.back(), (*given, u), parts, kernels.room_back(*self._sizes)[-1])
        for t in (dk, dv):
            if t is not None and parts > 1:
                torch.sum(sums[id(t)], 0, out=t)

    def _parts(self, t: Tensor) -> int:
        """How many workers share the queries of a head of (X, H, ...), where there are too few for all."""
        heads = t.shape[0] * t.shape[1]
        threads, groups = torch.get_num_threads(), -(-self.q.shape[1] // _kernels().WIDE)
        return 1 if heads % threads == 0 or heads > 4 * threads else min(threads, groups)

    def _run(self, work: object, given: tuple[Tensor | None, ...], parts: int, room: int) -> None:
        ends = given[-1]
        assert ends is not None
        size, threads = ends.shape, torch.get_num_threads()
        heads = size[0] * size[1]
        room = 64 * -(-room * 4 // 64)
        workspace = torch.empty(threads * room, dtype=torch.uint8)
        held = [0, 0, heads, self._heads, size[1], parts, self._queries, *self._sizes]
        held += [room, workspace.data_ptr(), *self._places]
        for t in given:
            if t is None:
                held += _NONE
            else:
                shared, *strides = t.stride() if t.ndim == 5 else (0, *t.stride())
                held += [t.data_ptr(), *strides, shared]
        threads = min(threads, parts * heads)
        openmp.region(work.address, openmp.task(*held), threads)()  # type: ignore[attr-defined]


def kept(P: Tensor) -> Tensor:
    """Weights (N, n, m) as `Heads` take them: keys by queries, in groups that fill two vectors, or one."""
    kernels = _kernels()
    N, n, m = P.shape
    groups, padded = math.ceil(n / kernels.WIDE), kernels.whole(m, kernels.ROWS)
    room = P.new_zeros(N, groups, kernels.WIDE, padded)
    room.flatten(1, 2)[:, :n, :m] = P
    room = room.mT.contiguous()
    if (n - 1) % kernels.WIDE < kernels.LANES:
        last = room[:, -1, :, : kernels.LANES].flatten(1)
        room.flatten(2)[:, -1, : last.shape[1]] = last
    return room


@cache
def _kernels() -> ModuleType:
    """What is compiled."""
    from spectral.jacobians.cpu import heads  # noqa: PLC0415  it takes Numba, a third of a second

    return heads
