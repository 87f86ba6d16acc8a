"""Convolutions of every geometry."""

from __future__ import annotations

from dataclasses import replace

from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.rules.base import Seen, named, rule
from spectral.jacobians.program.steps import Step


@rule(*named("convolution", "_convolution"))
def _convolution(seen: Seen) -> Step | None:
    if not seen.first_alone:
        return None
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = seen.args[:9]
    if x.ndim != weight.ndim or x.is_complex():  # an image without the axis of images
        return None
    return Convolution(
        seen.inputs,
        seen.output,
        seen.hold(weight),
        list(stride),
        list(padding),
        list(dilation),
        transposed,
        list(output_padding),
        groups,
        x.shape,
        seen.like.shape,
    )


@rule(*named("convolution_backward"))
def _back_through(seen: Seen) -> Step | int | None:
    """w' g, as a model sends it back that differentiates inside: a convolution as well."""
    g, x, weight, _, stride, padding, dilation, transposed, _, groups = seen.args[:10]
    if seen.entry != 0 or not seen.first_alone or g.is_complex():
        return None
    lost = [0] * len(stride)
    if not transposed:  # the pixels at the end that no stride has reached
        kernel = weight.shape[2:]
        lost = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, s, p, d, k in zip(
                x.shape[2:], g.shape[2:], stride, padding, dilation, kernel, strict=True
            )
        ]
    args = (g, weight, None, stride, padding, dilation, not transposed, lost, groups)
    return _convolution(replace(seen, args=args, kwargs={}))


@rule(*named("conv1d", "conv2d", "conv3d"))
def _composite_convolution(seen: Seen) -> Step | int | None:
    """As inference mode shows them."""
    n = seen.args[1].ndim - 2

    def each(i: int, name: str, default: int) -> list[int]:
        given = list(seen.given(i, name, [default]))
        return given * n if len(given) == 1 else given

    sides = each(3, "stride", 1), each(4, "padding", 0), each(5, "dilation", 1)
    args = (*seen.args[:2], None, *sides, False, [0] * n, seen.given(6, "groups", 1))
    return _convolution(replace(seen, args=args, kwargs={}))
