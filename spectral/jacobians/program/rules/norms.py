"""Batch, group, instance and layer norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spectral.jacobians.cpu import norms
from spectral.jacobians.program.rules.base import Seen, named, rule
from spectral.jacobians.program.rules.pointwise import Diagonal
from spectral.jacobians.program.slopes import in_channels_last
from spectral.jacobians.program.steps import Step, aten, counts, pulled

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class Norm(Step):
    """t -> s (t - mean t - z mean(z t)): the derivative of x -> gamma z + beta, z = (x - mean x) / deviation.

    Means are over all of a group, s = gamma / deviation, times the slope that follows where one does; the
    transpose is g -> h - mean h - z mean(z h) with h = s g.  Vectors have the shape (..., *size); `groups`
    splits the axis of channels, which comes second, or else the last `axes` axes make one group.
    """

    z: Tensor
    scale: Tensor
    groups: int | None
    axes: int
    # Made when first needed, False where there is none; `replace` starts without.
    _kernel: norms.Groups | Literal[False] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def at(
        cls,
        inputs: tuple[int, ...],
        output: int,
        x: Tensor,
        gamma: Tensor | None,
        eps: float,
        groups: int | None,
        axes: int,
    ) -> Norm:
        """The derivative at x."""
        step = cls(inputs, output, x, x, groups, axes)
        centred = x - step._mean(x)
        deviation = (step._mean(centred.square()) + eps).sqrt()
        if gamma is None:
            gamma = x.new_ones(())
        elif groups is not None:
            gamma = gamma.reshape(-1, *[1] * (x.ndim - 2))
        step.z, step.scale = step.laid_out(centred / deviation), step.laid_out(gamma / deviation)
        return step

    def laid_out(self, z: Tensor, channels_last: bool = True) -> Tensor:
        """z as images lie in memory; along the last axis its groups are in one piece."""
        return z.contiguous() if self._along_last else in_channels_last(z, channels_last)

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (t - mean t - z mean(z t))."""
        (t,) = tangents
        compiled = self._compiled(t)
        if compiled is not None:
            return _of_images(compiled.ahead, t, self.z.ndim)
        return self._project(t).mul_(self.scale)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """h - mean h - z mean(z h), h = s g."""
        compiled = self._compiled(g)
        if compiled is not None:
            return (_of_images(compiled.back, g, self.z.ndim),)
        return (self._project(g * self.scale),)

    def _compiled(self, t: Tensor) -> norms.Groups | None:
        """The kernel for vectors like t, where one is offered."""
        if self._kernel is None:
            offered = self.groups is not None and norms.offered(self.z, self.scale)
            self._kernel = norms.Groups(self.z, self.scale, self.groups or 1) if offered else False
        return self._kernel if self._kernel and t.dtype == self.z.dtype else None

    def in_layout(self, channels_last: bool) -> Norm:
        """With z and s in another layout."""
        return replace(
            self, z=self.laid_out(self.z, channels_last), scale=self.laid_out(self.scale, channels_last)
        )

    def followed_by(self, slope: Tensor, output: int) -> Norm:
        """The norm and a slope as one."""
        return replace(self, output=output, scale=self.laid_out(self.scale * slope))

    def reach(self, rows: Rows) -> Rows:
        """Itself, where each row has means of its own."""
        return rows.apart_from(range(-self.axes, 0), "its means are over")

    def select(self, index: Tensor, n: int) -> Norm | None:
        """With what is kept of some inputs."""
        if not (counts(self.z.shape, n) and self.z.ndim > self.axes):
            return None
        return replace(self, z=self.z[index], scale=self.scale[index])

    @property
    def _along_last(self) -> bool:
        return self.groups is None and self.axes == 1

    def _project(self, h: Tensor) -> Tensor:
        """h - mean h - z mean(z h)."""
        out = self._by_torch(h)
        return (h - self._mean(h)).addcmul_(self.z, self._mean(self.z * h), value=-1) if out is None else out

    def _by_torch(self, h: Tensor) -> Tensor | None:
        """The same as torch's derivative of a norm backwards, in one pass, where that is fast."""
        z, only = self.z, [True, False, False]
        if h.shape != z.shape or h.dtype != z.dtype or h.device.type != "cpu":
            return None
        if self._along_last:
            mean, rate = z.new_zeros(*z.shape[:-1], 1), z.new_ones(*z.shape[:-1], 1)
            return aten.native_layer_norm_backward(h, z, z.shape[-1:], mean, rate, None, None, only)[0]
        if self.groups is None or not (h.is_contiguous() and z.is_contiguous()):
            return None
        images, channels = z.shape[:2]
        mean, rate = z.new_zeros(images, self.groups), z.new_ones(images, self.groups)
        sizes = images, channels, z[0, 0].numel(), self.groups
        return aten.native_group_norm_backward(h, z, mean, rate, None, *sizes, only)[0]

    def _mean(self, t: Tensor) -> Tensor:
        """The mean of each group of t, spread over its channels.

        That of channels first, which is fast in either layout.
        """
        if self.groups is None:
            return t.mean(tuple(range(-self.axes, 0)), keepdim=True)
        pixels, channels = tuple(range(1 - self.axes, 0)), -self.axes
        of_each = t.mean(pixels, keepdim=True) if pixels else t
        split = of_each.unflatten(channels, (self.groups, -1))
        return split.mean(channels, keepdim=True).expand_as(split).flatten(channels - 1, channels)


def _of_images(product: Callable[[Tensor], Tensor], t: Tensor, axes: int) -> Tensor:
    """A product of images (m, C, ...), which may have more axes in front."""
    if t.ndim == axes:
        return product(t)
    return product(t.flatten(0, -axes)).unflatten(0, t.shape[: t.ndim - axes + 1])


@rule(*named("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"))
@rule(*named("_native_batch_norm_legit_no_training", "_batch_norm_no_update"))
def _batch_norm(seen: Seen) -> Step | None:
    """In evaluation mode a scale of channels; by the statistics of one image, an instance norm."""
    trains = seen.args[5] if "no_" not in str(seen.target) else False
    (x, *others) = seen.primals
    if seen.entry != 0 or others or not seen.first_alone or (trains and len(x) > 1):
        return None
    if trains:
        return Norm.at(seen.inputs, seen.output, x, seen.args[1], seen.args[7], x.shape[1], x.ndim - 1)
    thin = x.new_ones(1, x.shape[1], *[1] * (x.ndim - 2))  # the slope does not depend on x
    slope = pulled(seen.operation(), (thin,), torch.ones_like(thin))[0]
    return Diagonal(seen.inputs, seen.output, slope[0].clone(), x.shape)


@rule(aten.native_group_norm.default)
def _group_norm(seen: Seen) -> Step | None:
    if seen.entry != 0 or not seen.first_alone:
        return None
    (x,) = seen.primals
    return Norm.at(seen.inputs, seen.output, x, seen.args[1], seen.args[7], seen.args[6], x.ndim - 1)


@rule(aten.native_layer_norm.default)
def _layer_norm(seen: Seen) -> Step | None:
    if seen.entry != 0 or not seen.first_alone:
        return None
    (x,), (_, shape, gamma, _, eps) = seen.primals, seen.args
    return Norm.at(seen.inputs, seen.output, x, gamma, eps, None, len(shape))


def by_torch(seen: Seen, t: Tensor, g: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """D t and (D' g,) of a norm x -> gamma z + beta, by torch's derivative backwards alone.

    With gamma = 1 it is its own transpose: d z = (t - mean t - z mean(z t)) / deviation.  Forwards torch has
    none of some norms, and of others one that takes as long as a network.
    """
    (x,) = seen.primals
    place = 2 if seen.target is aten.native_layer_norm.default else 1
    gamma = seen.args[place]
    ones = None if gamma is None else torch.ones_like(gamma)  # without gamma cuDNN has no norm
    plain = seen.operation(seen.target, (*seen.args[:place], ones, *seen.args[place + 1 :]))
    (ahead,) = pulled(plain, (x,), t)
    if gamma is not None:
        ahead = ahead * (gamma if place == 2 else gamma.reshape(-1, *[1] * (x.ndim - 2)))
    return ahead, pulled(seen.operation(), (x,), g)
