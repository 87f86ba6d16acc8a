"""What is linear itself: shapes, places, averages, paddings, transforms of Fourier, resizing."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import INSTEAD, Back, Seen, axes_of, named, rule
from spectral.jacobians.program.rules.rows import ORDERS, order_of, tells_rows
from spectral.jacobians.program.slopes import in_channels_last
from spectral.jacobians.program.steps import (
    Cut,
    Input,
    Narrow,
    Operation,
    Reshape,
    Step,
    aten,
    in_memory,
    unchanged,
)
from spectral.jacobians.program.trees import leaves


@rule(*named("alias", "detach", "clone", "lift_fresh", "lift", "contiguous", "positive"))
def _same(seen: Seen) -> int:
    """A copy, or another name; what is detached is still a function of y."""
    return seen.inputs[0]


@rule(aten._to_copy.default, promotes=True)
def _copied(seen: Seen) -> Step | int | None:
    """Another precision has been seen to; another device is a linear map."""
    (x,) = seen.primals
    if x.device == seen.like.device:
        return seen.inputs[0]
    return seen.linear(seen.operation(), rows=tells_rows(seen))


_IMAGES = {
    aten.cat.default,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
    aten.avg_pool2d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
}


_PROMOTING = {
    aten.cat.default,
    aten.stack.default,
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
    aten.sum.default,
}


_RESHAPING = {
    *named("reshape", "view", "_unsafe_view", "unsqueeze", "_reshape_alias", "squeeze"),
    aten.squeeze.dim,
    aten.squeeze.dims,
}


_SPLITTING = {aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.unsafe_split.Tensor}


_CUTTING = {aten.select.int, aten.slice.Tensor, *_SPLITTING}


# Linear in all that y reaches of them once the numbers held are taken for zeros: a constant image that is
# concatenated has no derivative.
_LINEAR = {
    *(_IMAGES - {aten.constant_pad_nd.default}),
    *(_PROMOTING | _RESHAPING | _CUTTING | ORDERS),
    *named("expand", "flip", "roll", "tril", "triu", "cumsum", "unfold", "diagonal"),
    *named("reflection_pad3d", "replication_pad3d"),
    *named("upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "upsample_nearest1d"),
    *named("upsample_nearest3d", "avg_pool1d", "avg_pool3d", "_adaptive_avg_pool2d", "im2col", "col2im"),
    *named("_adaptive_avg_pool3d", "_fft_r2c", "_fft_c2c", "_fft_c2r", "view_as_real", "view_as_complex"),
    *named("_conj", "conj_physical", "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view"),
}


@rule(*_PROMOTING, promotes=True)
@rule(*(_LINEAR - _PROMOTING))
def _linear(seen: Seen) -> Step | None:
    target, args, kwargs = seen.target, seen.args, seen.kwargs
    if target in _AS_RESHAPE:  # a tangent may lie in another layout than the value does
        target, args = aten.reshape.default, (args[0], list(seen.like.shape))
    target = _RESOLVED.get(target, target)
    if target in _PROMOTING:
        kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
    in_order = target is aten.cat.default and seen.like.ndim == 3
    function = seen.operation(in_line if in_order else target, args, kwargs).without_held()
    images = target in _IMAGES and all(len(size) == 4 for size in seen.sizes)
    if target in (aten.cat.default, aten.slice.Tensor):
        every = [x for x in leaves(args) if isinstance(x, Tensor)]
        images = images and _dim(seen) % 4 > 0 and len(every) == len(seen.inputs)
    narrow = None if images else _narrow(seen, target)
    given = seen.inputs, seen.output, function, seen.sizes
    if target in _CUTTING and seen.sizes[0] and seen.like.dtype == seen.primals[0].dtype:
        axis, within = _taken(seen)
        return Cut(*given, (seen.like.dtype,), images, narrow=narrow, axis=axis, within=within)
    if target in _RESHAPING:
        return Reshape(*given, (seen.primals[0].dtype,), images, narrow=narrow, after=seen.like.shape)
    return seen.linear(function, images, _back(seen, images), narrow, tells_rows(seen))


def as_complex(t: Tensor) -> Tensor:
    """Pairs of real numbers (..., 2) as complex ones."""
    return torch.view_as_complex(t.contiguous())


def as_pairs(t: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones (..., 2)."""
    return torch.view_as_real(t.resolve_conj())


# What torch puts off until a tensor is read, done at once.
_RESOLVED: dict[Any, Any] = {
    aten.view_as_complex.default: as_complex,
    aten.view_as_real.default: as_pairs,
    aten._conj.default: aten._conj_physical.default,
    aten._neg_view.default: aten.neg.default,
}


def in_line(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """A concatenation that lies in memory as the first does: of three axes torch knows one layout alone."""
    first = next((t for t in tensors if 0 not in t.stride()), tensors[0])
    axes = [*range(-first.ndim, 0)]
    order = in_memory(first, first.ndim)
    if order == axes or any(t.ndim != first.ndim for t in tensors):  # torch lets empty ones of one axis pass
        return aten.cat(tensors, dim)
    joined = aten.cat([t.permute(order) for t in tensors], order.index(axes[dim]))
    return joined.permute([order.index(axis) for axis in axes])


_AS_RESHAPE = {*named("view", "_unsafe_view", "_reshape_alias")}


@rule(aten.constant_pad_nd.default)
def _padded(seen: Seen) -> Step:
    """The derivative is padded with zeros, whatever the value was."""
    function = seen.operation(seen.target, (*seen.args[:2], 0))
    images = len(seen.sizes[0]) == 4 and len(seen.args[1]) <= 6
    cut = [-pad for pad in seen.args[1]]
    return seen.linear(
        function, images, lambda g, sizes: (aten.constant_pad_nd(g, cut),), rows=tells_rows(seen)
    )


_PADS_OF_A_ROW = {
    aten.reflection_pad1d.default: (aten.reflection_pad2d, aten.reflection_pad2d_backward),
    aten.replication_pad1d.default: (aten.replication_pad2d, aten.replication_pad2d_backward),
}


@rule(*_PADS_OF_A_ROW)
def _padded_lines(seen: Seen) -> Step:
    """Images (n, C, L) as (n, C, 1, L): in their layout, and a fifth of the time."""
    rows = tells_rows(seen)
    if len(seen.sizes[0]) != 3:
        return seen.linear(seen.operation(), rows=rows)
    (padded, pulled), pads = _PADS_OF_A_ROW[seen.target], [*seen.args[1], 0, 0]

    def ahead(t: Tensor) -> Tensor:
        return padded(t.unsqueeze(2), pads).squeeze(2)

    def back(g: Tensor, sizes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        images, channels, length = sizes[0]
        like = g.new_empty(images, 1, length, channels).movedim(-1, 1)
        return (pulled(in_channels_last(g.unsqueeze(2)), like, pads).squeeze(2),)

    return seen.linear(seen.operation(ahead, seen.args[:1]), True, back, rows=rows)


@rule(aten.index.Tensor, aten.gather.default, aten.index_select.default)
def _indexed(seen: Seen) -> Step | None:
    return seen.linear(seen.operation()) if seen.first_alone else None


@functools.wraps(aten.bincount.default)
def _counted(places: Tensor, weights: Tensor, minlength: int = 0) -> Tensor:
    """Weights added up where they belong, which torch counts without a derivative."""
    length = max(minlength, int(places.max()) + 1 if places.numel() else 0)
    total = weights if weights.dtype == torch.float32 else weights.double()
    return total.new_zeros(length).index_add(0, places, total)


INSTEAD[aten.bincount.default] = _counted


def _narrow(seen: Seen, target: Any) -> Narrow | None:
    """How the operation is that of some inputs: with another shape, or as it is where it acts inside."""
    if len(seen.inputs) != 1 or not seen.first_alone or not seen.sizes[0]:
        return None
    if target in (aten.reshape.default, aten.expand.default):
        shape = list(seen.like.shape)
        grows = target is aten.expand.default and (
            len(shape) > len(seen.sizes[0]) or shape[0] != seen.sizes[0][0]
        )
        return None if grows or not shape else functools.partial(_reshaped, shape)
    axes = len(seen.sizes[0])
    if target in ORDERS:
        return unchanged if order_of(seen)[0] == 0 else None
    if target is aten.unsqueeze.default:
        return unchanged if seen.args[1] % (axes + 1) else None
    return unchanged if target in _INSIDE and _axis(seen) % axes else None


# Operations along one axis, their second argument, or third for those that cut first.
_INSIDE = {aten.squeeze.dim, *_CUTTING}


def _axis(seen: Seen) -> int:
    """The axis of an operation along one, by default the first."""
    cuts = seen.target in _SPLITTING - {aten.unbind.int}
    return int(seen.given(2 if cuts else 1, "dim", 0))


def _reshaped(shape: list[int], function: Operation, n: int, m: int) -> Operation | None:
    if shape[0] % n:
        return None
    return Operation(function.target, ((Input(0), [shape[0] // n * m, *shape[1:]]), {}), function.entry)


def _dim(seen: Seen) -> int:
    """The axis along which an operation slices or concatenates."""
    return int(seen.given(1, "dim", 0))


def _taken(seen: Seen) -> tuple[int, int | slice]:
    """The axis, from the last, and what an operation along one axis takes of it."""
    length, from_last = seen.sizes[0][_axis(seen)], _axis(seen) % len(seen.sizes[0]) - len(seen.sizes[0])
    if seen.target in (aten.select.int, aten.unbind.int):
        index = seen.entry if seen.target is aten.unbind.int else int(seen.given(2, "index"))
        assert index is not None  # the entry of several outputs
        return from_last, index
    if seen.target is aten.slice.Tensor:
        start, end, step = (seen.given(2 + i, name) for i, name in enumerate(("start", "end", "step")))
        return from_last, slice(start, end, step)
    assert seen.entry is not None
    given = seen.args[1]
    if seen.target in (aten.split.Tensor, aten.unsafe_split.Tensor):
        return from_last, slice(seen.entry * given, min((seen.entry + 1) * given, length))
    start = sum(given[: seen.entry])
    return from_last, slice(start, start + given[seen.entry])


def restored(g: Tensor, axes: tuple[int, ...], kept: bool) -> Tensor:
    """g with the axes that a sum over them took away, of one entry each."""
    for axis in () if kept else axes:
        g = g.unsqueeze(axis)
    return g


def spread(axes: tuple[int, ...], kept: bool, share: float) -> Back:
    """The transpose of a sum, or by a share of a mean: over all that it was taken of."""

    def back(g: Tensor, sizes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        g = restored(g, axes, kept)
        return ((g if share == 1 else share * g).expand(sizes[0]),)

    return back


def _back(seen: Seen, images: bool) -> Back | None:
    """The transpose in closed form, for the operations met most often."""
    target, args = seen.target, seen.args
    if target in ORDERS:
        order = order_of(seen)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return lambda g, sizes: (g.permute(inverse),)
    if target is aten.roll.default and seen.given(2, "dims"):
        shifts, dims = seen.args[1], seen.given(2, "dims")
        return lambda g, sizes: (aten.roll(g, [-shift for shift in shifts], dims),)
    if target is aten.expand.default:
        return lambda g, sizes: (g.sum_to_size(sizes[0]),)
    if target in (aten.cat.default, aten.stack.default) and len(args[0]) == len(seen.inputs):
        dim = _dim(seen)
        if target is aten.stack.default:
            return lambda g, sizes: g.unbind(dim)
        if all(len(size) == seen.like.ndim for size in seen.sizes):  # torch lets empty ones of one axis pass
            return lambda g, sizes: g.split([size[dim] for size in sizes], dim)
    if target in (aten.mean.dim, aten.sum.dim_IntList) and seen.given(1, "dim"):
        axes = axes_of(seen.given(1, "dim"), len(seen.sizes[0]))
        count = math.prod(seen.sizes[0][axis] for axis in axes)
        return spread(axes, seen.given(2, "keepdim", False), 1 / count if target is aten.mean.dim else 1)
    if not images:
        return None
    if target is aten.avg_pool2d.default:
        given: list[Any] = [*args[1:]]
        given += [[], [0, 0], False, True, None][len(given) - 1 :]
        kernel, stride, padding, *rest = given

        def pool(g: Tensor, sizes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
            like = torch.empty(sizes[0], dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
            return (aten.avg_pool2d_backward(in_channels_last(g), like, kernel, stride, padding, *rest),)

        return pool
    if target is aten.upsample_nearest2d.default:
        side, *scales = args[1:]
        return lambda g, sizes: (aten.upsample_nearest2d_backward(g, side, list(sizes[0]), *scales),)
    return None
