"""Whether a model at strips of an image is the model at the image: what is tried in every process.

1. f at the strip and its halo against f at the strip and more than twice the halo, there and against what
   the neighbours have on their own rows: a model that looks at places or sizes, or a reach that is too
   small, shows; at y, and at another image, since f may vanish at y and J not;
2. f at the strip where rows beyond the reach are changed beyond recognition: it must stay what it was, also
   where they act on f by jumps alone;
3. J v there against A v, v at random, and J v of a v that lives beyond the reach alone against zero;
4. <u, A v> against <A' u, v>, over all processes;
5. f at the whole of both images, where one process has room for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral.errors import ReachError, SpectralError
from spectral.jacobians.free_memory import free_bytes
from spectral.jacobians.model import Model, same_random_numbers
from spectral.jacobians.program import Recorder
from spectral.operators.sharded import Halo

if TYPE_CHECKING:
    from spectral.jacobians.sharded import ShardedJacobian

FURTHER = 8  # rows, at least, by which a trial goes beyond the halo
ALIKE = 100.0  # roundings by which f at two sizes may differ, relative to its largest row


def by_planes(X: Tensor, planes: int) -> Tensor:
    """(m, ..., h, W) as (m, planes, h, W)."""
    return X.reshape(len(X), planes, *X.shape[-2:])


def tried(A: ShardedJacobian, model: Callable[..., Any], keywords: dict[str, Any], y: Tensor) -> str:
    """The module's trials; a note of those that there was no room for.

    Raises:
        ReachError: the model computes something else at a strip than at the image.
        SpectralError: products with J and J' contradict each other.
    """
    ranks, halo, reach = A.ranks, A.halo, A.reach
    more = max(*reach.halo, -(-FURTHER // reach.multiple) * reach.multiple)
    wide = Halo(ranks, A.cuts, *(rows + more for rows in reach.halo))
    around = Halo(ranks, A.cuts, more, more)  # the rows where f at `wide` is f at the image
    called = Model(model, keywords)
    planes, out_planes = (math.prod(s[:-2]) for s in (A.input_shape, A.output_shape))
    known = slice(around.rows.start - wide.rows.start, around.rows.stop - wide.rows.start)
    inside = slice(halo.rows.start - wide.rows.start, halo.rows.stop - wide.rows.start)
    beyond = torch.ones(len(wide.rows), dtype=torch.bool)
    beyond[inside] = False
    own = slice(wide.own.start, wide.own.stop)

    def f(x: Tensor) -> Tensor:
        ready = called.ready()
        with torch.inference_mode(False), same_random_numbers(x.device), ready, torch.no_grad():
            value = called(x.reshape(*y.shape[:-2], *x.shape[-2:])).detach()
        return by_planes(value[None], out_planes)[0]

    def at_strips(x: Tensor, fx: Tensor) -> None:
        x_wide = wide.extend(by_planes(x[None], planes))[0]
        f_around = around.extend(by_planes(fx[None].contiguous(), out_planes))[0]
        largest = ranks.largest(_row_norms(fx).max().item())
        allowed = ALIKE * A.eps * largest

        def work() -> None:
            off = _row_norms(f(x_wide)[:, known] - f_around).max().item()
            if not off <= allowed:
                _refuse(A, off, largest, f"at {len(wide.rows)} rows in place of {len(halo.rows)}")
            if beyond.any():
                changed = x_wide.clone()
                noise = torch.randn(x_wide.shape, generator=torch.Generator().manual_seed(5)).to(x_wide)
                size = float(x_wide.double().square().mean().sqrt()) or 1.0
                changed[:, beyond] = -3 * changed[:, beyond] + size * noise[:, beyond]
                off = _row_norms(f(changed)[:, own] - f_around[:, around.own]).max().item()
                if not off <= allowed:
                    _refuse(A, off, largest, "where rows out of its reach are others")

        ranks.agree(work)

    other = _another(A, y)
    extended = halo.extend(by_planes(other[None], planes))[0]
    there = ranks.agree(lambda: f(extended)[:, halo.own].reshape(A.output.shape))
    images = [(y, A.output)]
    if not ranks.largest(float(not torch.isfinite(there).all())):  # else it is beyond what the model takes
        images.append((other, there))
    for x, fx in images:
        at_strips(x, fx)
    y_wide = wide.extend(by_planes(y[None], planes))[0]
    notes = [_tried_products(A, called, wide, beyond, y_wide), _tried_whole(A, f, images)]
    _check_adjoint(A)
    return "; ".join(note for note in notes if note)


def _another(A: ShardedJacobian, y: Tensor) -> Tensor:
    """y and noise of its own size; of size 1 where y is zero."""
    noise = A.domain.normal(1, generator=torch.Generator().manual_seed(8))
    size = float(A.domain.lengths(y.double().reshape(1, -1))[0]) / math.sqrt(A.domain.dimension)
    return y + (size or 1.0) * noise.to(y).reshape(y.shape)


def _tried_products(A: ShardedJacobian, called: Model, wide: Halo, beyond: Tensor, y_wide: Tensor) -> str:
    """J v at twice the halo against A v, and of a v beyond the reach against zero."""
    space = A.domain
    v = space.normal(1, generator=torch.Generator().manual_seed(6)).to(A.device, A.dtype)
    v_wide = wide.extend(by_planes(v.reshape(1, *A.input_shape), len(y_wide)))
    Av = A.apply(v).reshape(-1, *A.output_shape[-2:])
    largest = A.ranks.largest(_row_norms(Av).max().item())
    ratio = len(wide.rows) / len(A.halo.rows)
    room = A.local.program_bytes * ratio <= free_bytes(A.device) / 4
    room = room and A.local.graph_bytes * ratio <= free_bytes(A.device) / 4
    shape = (*A.input_shape[:-2], len(wide.rows), A.input_shape[-1])

    def work() -> None:
        if not room or len(wide.rows) == len(A.halo.rows):
            return
        with torch.inference_mode(False), same_random_numbers(A.device), called.ready():
            program = Recorder.of(called, y_wide.reshape(shape)).program()[0]
        far = torch.where(beyond.to(A.device)[:, None], v_wide, 0)
        with torch.no_grad():
            for x, true, how in ((v_wide, Av, "at random"), (far, torch.zeros_like(Av), "out of its reach")):
                W = by_planes(program.apply(x.reshape(1, *shape)), len(Av))[0]
                off = _row_norms(W[:, wide.own] - true).max().item()
                if not off <= min(10 * ALIKE * A.eps, 0.1) * largest:
                    _refuse(A, off, largest, f"in J v of a v {how}")

    A.ranks.agree(work)
    short = A.ranks.largest(float(not room))
    return "J v was not tried with twice the halo, for which there was no room" if short else ""


def _tried_whole(
    A: ShardedJacobian, f: Callable[[Tensor], Tensor], images: list[tuple[Tensor, Tensor]]
) -> str:
    """f at whole images in the first process, against what all have of it; of each, x and f(x) here."""
    ranks = A.ranks
    needed = 2 * A.local.product_bytes * A.cuts.rows / len(A.halo.rows)
    if not ranks.first(needed <= free_bytes(A.device) / 4):
        return (
            f"not held against f at the whole image, which takes {needed / 2**30:.1f} GiB in one process: a "
            "model that changes its ways with the size of its input would not show"
        )
    for x, fx in images:
        _tried_at(A, f, A.gather(x), A.gather(fx.contiguous()))
    return ""


def _tried_at(
    A: ShardedJacobian, f: Callable[[Tensor], Tensor], image: Tensor | None, output: Tensor | None
) -> None:
    """f(image) against the output, both whole, in the first process."""

    def work() -> None:
        if image is None or output is None:
            return
        whole = by_planes(output[None], math.prod(A.output_shape[:-2]))[0]
        value = f(by_planes(image[None], math.prod(A.input_shape[:-2]))[0])
        if value.shape != whole.shape:
            raise ReachError(f"{A.name} makes {tuple(value.shape)} of the whole image")
        off, largest = _row_norms(value - whole).max().item(), _row_norms(whole).max().item()
        if not off <= ALIKE * A.eps * largest:
            _refuse(A, off, largest, "at the whole image")

    A.ranks.agree(work)


def _check_adjoint(A: ShardedJacobian) -> None:
    """<u, A v> = <A' u, v>, over all processes.

    Raises:
        SpectralError: they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(7)
    v = A.domain.normal(1, generator=generator).to(A.device, A.dtype)
    u = A.codomain.normal(1, generator=generator).to(A.device, A.dtype)
    Av = A.apply(v)
    size_u, size_Av = (float(A.codomain.norms(W)[0]) for W in (u, Av))
    u = u / size_u + Av / max(size_Av, torch.finfo(Av.dtype).tiny)
    Au = A.apply_transpose(u)
    left, right = float(A.codomain.dots(u, Av)[0]), float(A.domain.dots(Au, v)[0])
    sizes = [float(space.norms(x)[0]) for space, x in ((A.codomain, u), (A.domain, Au), (A.domain, v))]
    scale = max(sizes[0] * size_Av, sizes[1] * sizes[2], 1e-300)
    if not abs(left - right) <= min(1e3 * A.eps, 0.1) * scale:
        raise SpectralError(
            f"J v and J' u of {A.name} over strips contradict each other by {abs(left - right) / scale:.1e}"
        )


def _refuse(A: ShardedJacobian, off: float, largest: float, where: str) -> None:
    much = f"{off / largest:.1e} of its largest row" if largest else f"{off:.1e}, where it was zero"
    raise ReachError(
        f"{A.name} computes something else {where}, by {much}: it looks at places, at "
        "the size of its input or further than its layers tell, and an image cannot be cut into strips for it"
    )


def _row_norms(f: Tensor) -> Tensor:
    """The norm of each row of (..., h, W), over all else."""
    return torch.linalg.vector_norm(f.double().reshape(-1, *f.shape[-2:]), dim=(0, 2))
