"""Convolutions of every geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

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
    axes = x.ndim - 2
    if groups == 1 and _apart(weight):
        places = range(len(weight))
        weight, groups = weight[places, places].unsqueeze(1), len(weight)
    return Convolution(
        seen.inputs,
        seen.output,
        seen.hold(weight),
        _of_each(stride, axes),
        _of_each(padding, axes),
        _of_each(dilation, axes),
        transposed,
        _of_each(output_padding, axes),
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
    axes = x.ndim - 2
    lost = [0] * axes
    if not transposed:  # the pixels at the end that no stride has reached
        each = (_of_each(side, axes) for side in (stride, padding, dilation))
        lost = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, k, s, p, d in zip(x.shape[2:], g.shape[2:], weight.shape[2:], *each, strict=True)
        ]
    args = (g, weight, None, stride, padding, dilation, not transposed, lost, groups)
    return _convolution(replace(seen, args=args, kwargs={}))


@rule(*named("conv1d", "conv2d", "conv3d"))
def _composite_convolution(seen: Seen) -> Step | int | None:
    """As inference mode shows them."""
    sides = seen.given(3, "stride", [1]), seen.given(4, "padding", [0]), seen.given(5, "dilation", [1])
    args = (*seen.args[:2], None, *sides, False, [0], seen.given(6, "groups", 1))
    return _convolution(replace(seen, args=args, kwargs={}))


def _apart(weight: Tensor) -> bool:
    """Whether each channel is convolved by itself, as resampling filters do that are told in full.

    Looked at on CPUs alone: of a GPU it would ask to wait.
    """
    if (
        weight.device.type != "cpu"
        or len(weight) != weight.shape[1]
        or len(weight) < 2
        or weight[0, 1:].any()
    ):
        return False
    apart = ~torch.eye(len(weight), dtype=torch.bool)
    return not weight[apart].any()


def _of_each(given: Sequence[int], axes: int) -> list[int]:
    """A number an axis; one alone stands for all."""
    return [*given] * axes if len(given) == 1 else [*given]
