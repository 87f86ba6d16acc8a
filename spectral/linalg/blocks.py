"""Blocks of orthonormal rows: how a basis gets its next one, and its first.

Rows live on the operator's device and small matrices, float64, on the CPU.  The host waits for a device once
for all that `to_host` is given, and not at all for what `to_device` sends.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spectral.linalg.svd import svd
from spectral.operators.base import LinearOperator
from spectral.operators.space import Space

NEAR = (
    1e3  # times rounding: two passes of Gram-Schmidt leave 1 / NEAR of what is below, and 1e-16 of the rest
)


def stream(seed: int) -> torch.Generator:
    """Random numbers that are a seed's, and not those of `torch.manual_seed(seed)`.

    A matrix may be made of those: its first rows would be the solver's starts, which then see nothing of its
    null space.
    """
    return torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)


def fresh_seed(generator: torch.Generator) -> int:
    """A seed for what follows.  A probe from vectors that the solve began with would not see past them."""
    return int(torch.randint(2**62, (), generator=generator, device="cpu").item())


def to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one device in float64 on the CPU, by one transfer, so that the host waits once."""
    if tensors[0].device.type == "cpu":
        return tuple(t.double() for t in tensors)
    flat = torch.cat([t.double().flatten() for t in tensors]).cpu()
    parts = flat.split([t.numel() for t in tensors])
    return tuple(part.view(t.shape) for part, t in zip(parts, tensors, strict=True))


def to_device(X: Tensor, like: Tensor) -> Tensor:
    """X in the precision and on the device of `like`; the host does not wait until it has arrived."""
    # Only a copy the other way, or from pinned memory, could be overtaken by what happens to X meanwhile.
    return X.to(like, non_blocking=True)


def first_block(A: LinearOperator, block: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    """(B, block, n): random rows, or random combinations of `start` with a trace of noise."""
    problems, space = (A.batch or (1,))[0], A.domain
    first = space.normal(problems, block, generator=generator)
    if start is not None:
        size = problems, block, start.shape[1]
        weights = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
        combined = weights @ start.double().cpu()
        # The noise keeps a start that lies in an invariant subspace from confining the solve to it.
        trace = 1e-6 * space.norms(combined).unsqueeze(-1) / math.sqrt(space.dimension)
        first = combined + trace * first
    return first.to(A.device, A.dtype)


def random_block(space: Space, like: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """(B, rows, n), standard normal, for problems and in the precision of rows `like`."""
    return to_device(space.normal(len(like), rows, generator=generator), like)


def random_complement(space: Space, held: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal rows, uniform in the complement of the rows held: (B, rows, n)."""
    return space.complement(random_block(space, held, rows, generator), held).contiguous()


def orthonormal_block(
    space: Space, W: Tensor, held: Tensor, vanishing: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """X orthonormal and R with W = R' X, for W (B, b, n) orthogonal to the rows held (B, size, n).

    Directions below `vanishing` (an invariant subspace was found) are replaced by random ones, which R does
    not couple to; so a basis can always grow until it spans the space.
    """
    Q, R = space.qr(W)
    (R,) = to_host(R)
    return next_block(space, Q, R, held, vanishing, generator)[:2]


def next_block(
    space: Space, Q: Tensor, R: Tensor, held: Tensor, vanishing: Tensor | float, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """`orthonormal_block` of W = R' Q: Q (B, q, n) on the device, R (B, q, b) on the CPU, q = min(n, b).

    Also the norm of what vanished, the largest among the problems.
    """
    block = min(Q.shape[1], space.dimension - held.shape[1])
    U, S, Zh = svd(R)
    X = (to_device(U.mT, Q) @ Q)[:, :block]
    vanished = S[:, :block] <= vanishing
    R = (S.unsqueeze(-1) * Zh)[:, :block]
    lost = torch.linalg.vector_norm(S[:, :block] * vanished, dim=-1).max().item() if S.numel() else 0.0
    if vanished.any():
        fresh = vanished.to(X.device, non_blocking=True)[..., None]
        X = torch.where(fresh, random_block(space, X, block, generator), X)
        R = R.masked_fill(vanished[..., None], 0)
    # What is left of W is orthogonal to the rows held only to the rounding of its largest direction; and next
    # to the rounding of the products it is made of, not at all.
    near = torch.maximum(0.01 * S[:, :1], torch.as_tensor(NEAR * vanishing))
    if bool((S[:, :block] < near).any()) or vanished.any():
        X = space.complement(X, held)
    return X.contiguous(), R, lost


def leading_directions(
    space: Space,
    W: Tensor,
    held: Tensor,
    threshold: float,
    orthonormal: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Of residuals W (B, k, n): a block X of directions above `threshold`, C = X W', and the rest as F."""
    wide = W.double()
    (gram,) = to_host(space.inner(wide, wide))
    power, U = torch.linalg.eigh(gram)
    significant = int((power > threshold**2).sum(-1).max())
    block = min(max(1, significant), space.dimension - held.shape[1])
    X, _ = orthonormal(to_device(U.flip(-1)[..., :block].mT, W) @ W, held)
    (C,) = to_host(space.inner(X.double(), wide))
    rest = gram.diagonal(dim1=-2, dim2=-1) - (C**2).sum(1)
    return X, C, torch.diag_embed(rest.clamp(min=0).sqrt())


def reserve(V: Tensor, held: int, rows: int, most: int | None = None) -> Tensor:
    """V with room for `rows` rows, growing as `room_for` says; `most` as there."""
    if rows <= V.shape[1]:
        return V
    # Of vectors that lie in several places there are more than the entries of one here.
    grown = V.new_empty(len(V), room_for(rows, V.shape[1], most or V.shape[2]), V.shape[2])
    grown[:, :held] = V[:, :held]
    return grown


def room_for(rows: int, room: int, most: int) -> int:
    """How many rows to make room for where there is room for fewer than `rows`.

    Half as many more, so that no more is taken than a solve needs, and beyond half of `most`, rows at which
    the basis is compressed, all of them: old and new room are then one and a half times `most` together.
    """
    larger = max(rows, room * 3 // 2, 32)
    return most if rows <= most < 2 * larger else larger


def refilled(room: Tensor, V: Tensor) -> Tensor:
    """Rows V in the memory of `room`, whose own count no more, so that they need not grow again."""
    if room.shape[1] <= V.shape[1]:
        return V
    room[:, : V.shape[1]] = V
    return room
