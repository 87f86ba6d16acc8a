"""Convolutions, as the fastest kernel at hand: they are nearly all that a product costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spectral.errors import ReachError
from spectral.jacobians.cpu import direct, memory
from spectral.jacobians.cpu.winograd import Winograd, offered
from spectral.jacobians.program.slopes import in_channels_last, laid_out, times
from spectral.jacobians.program.steps import Leading, Step, aten, counts, in_precision, some

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows

SKINNY = 4  # channels, on one side, up to which a convolution is a product of matrices


@dataclass
class Convolution(Step):
    """t -> s (w * (r t)), of any stride, padding, dilation, groups and dimension, transposed or not.

    `slope` s, of the size of the output, is the gate that follows, and `slope_in` r one that comes before:
    numbers or gates (`slopes`), None for 1; `channels_last` says how images are laid out.
    """

    weight: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int
    input_size: torch.Size
    output_size: torch.Size
    slope: Tensor | None = None
    slope_in: Tensor | None = None
    channels_last: bool = True
    owns_cotangent: bool = False
    leading: Leading = "merged"
    # Made when first needed; `replace` starts without, since it may change what they were made of.
    _forward: Kernel | None = field(default=None, init=False, repr=False)
    _backward: Kernel | None = field(default=None, init=False, repr=False)

    @property
    def geometry(self) -> tuple[Any, ...]:
        """All but numbers of channels and pixels, and the weights themselves."""
        steps = (*self.stride, *self.padding, *self.dilation, *self.output_padding)
        return self.weight.shape[2:], self.weight.dtype, steps, self.transposed, self.groups

    @property
    def depth(self) -> int:
        """Multiplications per entry of the output."""
        return self.weight.numel() // self.weight.shape[1 if self.transposed else 0]

    @property
    def by_winograd(self) -> bool:
        """Whether both directions go by `WinogradKernel`."""
        plain = self.channels_last and self.weight.ndim == 4 and not self.transposed and self.groups == 1
        alike = plain and max(*self.stride, *self.dilation) == 1 and [*self.padding] == [1, 1]
        return alike and offered(self.weight, self.input_size)

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (w * (r t))."""
        return self.added(tangents[0], None)

    def added(self, tangent: Tensor, onto: Tensor | None) -> Tensor:
        """s (w * (r t)), added to `onto` in place where there is one."""
        if self._forward is None:
            self._forward = kernel(self)
        return self._forward(tangent, Fused(self.slope_in, self.slope, onto=onto))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """r (w' * (s g))."""
        if self._backward is None:
            by_winograd = self.by_winograd  # of whose weights none are turned first
            self._backward = WinogradKernel(self.weight, True) if by_winograd else kernel(self.turned())
        return (self._backward(g, Fused(self.slope, self.slope_in, owned=self.owns_cotangent)),)

    def scaled(self, scale: Tensor, output: int) -> Convolution:
        """The convolution followed by a scale of its output channels (channels,)."""
        shape = [1] * self.weight.ndim
        shape[1 if self.transposed else 0] = -1
        return replace(self, output=output, weight=self.weight * scale.view(shape))

    def reach(self, rows: Rows) -> Rows:
        """Rows of w * t."""
        place = self.weight.ndim - 2 + rows.axis
        if place < 0:
            raise ReachError("rows lie in an axis of channels")
        k, s, p, d = (
            part[place] for part in (self.weight.shape[2:], self.stride, self.padding, self.dilation)
        )
        count = self.output_size[rows.axis]
        if not self.transposed:
            return rows.window(Fraction(s), Fraction(-p), Fraction(d * (k - 1) - p), count)
        return rows.window(Fraction(1, s), Fraction(p - d * (k - 1), s), Fraction(p, s), count)

    def in_layout(self, channels_last: bool) -> Convolution:
        """With images and slopes in another layout."""
        slope, slope_in = (
            None if s is None else laid_out(s, channels_last) for s in (self.slope, self.slope_in)
        )
        return replace(self, channels_last=channels_last, slope=slope, slope_in=slope_in)

    def select(self, index: Tensor, n: int) -> Convolution | None:
        """With the slopes of some inputs, and the same kernels."""
        if not counts(self.input_size, n):
            return None
        part = replace(
            self,
            slope=None if self.slope is None else self.slope[index],
            slope_in=None if self.slope_in is None else self.slope_in[index],
            input_size=some(self.input_size, index),
            output_size=some(self.output_size, index),
        )
        part._forward, part._backward = self._forward, self._backward
        return part

    def turned(self) -> Convolution:
        """g -> w' g, without slopes."""
        axes = range(self.weight.ndim - 2)
        sizes = {"input_size": self.output_size, "output_size": self.input_size}
        back = partial(replace, self, slope=None, slope_in=None, output_padding=[0] * len(axes), **sizes)
        if self.transposed:
            return back(transposed=False)
        taps = self.weight.shape[2:]
        reach = [self.dilation[i] * (taps[i] - 1) - self.padding[i] for i in axes]
        if self.groups == 1 and max(self.stride) == 1 and min(reach) >= 0:
            # As a plain convolution, which is the faster kernel on CPUs and GPUs alike.
            flipped = self.weight.flatten(2).flip(2).unflatten(2, taps).transpose(0, 1)
            return back(weight=flipped, padding=reach)
        lost = [
            self.input_size[2 + i]
            - (self.output_size[2 + i] - 1) * self.stride[i]
            - 1
            - reach[i]
            + self.padding[i]
            for i in axes
        ]
        return back(transposed=True, output_padding=lost)


@dataclass
class Joint(Step):
    """t_1, t_2, ... -> sum_i s (w_i * t_i): a convolution of a concatenation, which is never made."""

    parts: list[Convolution]
    leading: Leading = "merged"

    def apply(self, *tangents: Tensor) -> Tensor:
        """sum_i s (w_i * t_i)."""
        total: Tensor | None = None
        for part, t in zip(self.parts, tangents, strict=True):
            total = part.added(t, total)
        assert total is not None  # a concatenation has parts
        return total

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """w_i' * (s g) for each i."""
        return tuple(part.transpose(g)[0] for part in self.parts)

    def to(self, dtype: torch.dtype) -> Joint:
        """The convolutions in another precision."""
        return self._of(in_precision(self.parts, dtype))

    def reach(self, *rows: Rows) -> Rows:
        """Those of the parts, together."""
        first, *others = (part.reach(one) for part, one in zip(self.parts, rows, strict=True))
        return first.joined(*others)

    def in_layout(self, channels_last: bool) -> Joint:
        """The convolutions in another layout."""
        return self._of([part.in_layout(channels_last) for part in self.parts])

    def select(self, index: Tensor, n: int) -> Joint | None:
        """With the slopes of some inputs."""
        parts = [part.select(index, n) for part in self.parts]
        kept = [part for part in parts if part is not None]
        return self._of(kept) if len(kept) == len(parts) else None

    def _of(self, parts: list[Convolution]) -> Joint:
        """Of parts made from its own, which have one gate where those had one."""
        kept: dict[tuple[int, torch.dtype], Tensor] = {}
        for before, part in zip(self.parts, parts, strict=True):
            if part.slope is not None:
                part.slope = kept.setdefault((id(before.slope), part.slope.dtype), part.slope)
        return replace(self, parts=parts)


class Fused(NamedTuple):
    """What a kernel does in one pass with its product: prologue, epilogue, and a sum.

    Attributes:
        prologue: slopes s_1 of x, None for 1.
        epilogue: slopes s_2 of the product, None for 1.
        owned: whether x may be overwritten.
        onto: what the product is added to, in place.
    """

    prologue: Tensor | None = None
    epilogue: Tensor | None = None
    owned: bool = False
    onto: Tensor | None = None


class Kernel:
    """x -> s_2 (w * (s_1 x)) by torch's convolution."""

    def __init__(self, weight: Tensor, channels_last: bool, *geometry: Any) -> None:
        self.weight, self.channels_last, self.geometry = (
            in_channels_last(weight, channels_last),
            channels_last,
            geometry,
        )

    def __call__(self, x: Tensor, fused: Fused) -> Tensor:
        """The product, with what is fused with it."""
        if fused.prologue is not None:
            x = _gated(x, fused.prologue, fused.owned)
        out = self.convolve(x)
        if fused.epilogue is not None:
            out = _gated(out, fused.epilogue, True)
        return out if fused.onto is None else fused.onto.add_(out)

    def convolve(self, x: Tensor) -> Tensor:
        """w * x."""
        return aten.convolution(in_channels_last(x, self.channels_last), self.weight, None, *self.geometry)


class DirectKernel(Kernel):
    """By compiled code: for images with one axis of pixels or three, and in float64."""

    def __init__(self, weight: Tensor, padding: list[int]) -> None:
        self.convolve = direct.Direct(weight, padding)  # type: ignore[method-assign]

    @staticmethod
    def offered(of: Convolution) -> bool:
        """Whether a convolution is one of those."""
        plain = not of.transposed and of.groups == 1 and max(*of.stride, *of.dilation) == 1
        return plain and of.channels_last and direct.offered(of.weight)


class Row(Kernel):
    """For images with one axis of pixels: those of a row of pixels."""

    def __init__(self, of: Convolution) -> None:
        self.of_images = kernel(
            replace(
                of,
                weight=of.weight.unsqueeze(2),
                stride=[1, *of.stride],
                padding=[0, *of.padding],
                dilation=[1, *of.dilation],
                output_padding=[0, *of.output_padding],
                input_size=_with_a_row(of.input_size),
                output_size=_with_a_row(of.output_size),
            )
        )

    def convolve(self, x: Tensor) -> Tensor:
        """w * x."""
        return self.of_images.convolve(x.unsqueeze(2)).squeeze(2)


class Packed(Kernel):
    """By oneDNN, with the weights laid out for it once."""

    def __init__(
        self, weight: Tensor, channels_last: bool, stride: Any, padding: Any, dilation: Any, size: torch.Size
    ) -> None:
        self.channels_last = channels_last
        self.geometry: tuple[Any, ...] = padding, stride, dilation, 1
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight = reorder(weight.contiguous().to_mkldnn(), *self.geometry, list(size))

    def convolve(self, x: Tensor) -> Tensor:
        """w * x."""
        pointwise = torch.ops.mkldnn._convolution_pointwise
        return pointwise(
            in_channels_last(x, self.channels_last), self.weight, None, *self.geometry, "none", [], ""
        )


class Unfolded(Kernel):
    """For few input channels: the patches of an image as a matrix, times the weights as another.

    What is made is large beside what it is made of, so that its memory is taken from what is kept for that:
    below what the C library keeps by itself (`memory`) other kernels are faster, in a third of the time.
    """

    def __init__(self, weight: Tensor, *geometry: Any) -> None:
        self.filters, self.taps, self.geometry = len(weight), tuple(weight.shape[2:]), geometry
        self.weight = weight.flatten(1).T.contiguous()
        self._pool = memory.shared()

    def convolve(self, x: Tensor) -> Tensor:
        """w * x."""
        stride, padding, dilation = self.geometry
        patches = nn.functional.unfold(x, self.taps, dilation, padding, stride).transpose(1, 2)
        sides = [
            (s + 2 * p - d * (k - 1) - 1) // t + 1
            for s, p, d, k, t in zip(x.shape[2:], padding, dilation, self.taps, stride, strict=True)
        ]
        out = self._pool.empty((len(x), sides[0] * sides[1], self.filters), x.dtype)
        torch.bmm(patches, self.weight.expand(len(x), -1, -1), out=out)
        return out.unflatten(1, sides).permute(0, 3, 1, 2)


class Patches(Kernel):
    """For images put together of patches of few channels: a product of matrices, and pixels moved."""

    def __init__(self, weight: Tensor) -> None:
        self.taps = tuple(weight.shape[2:])
        self.weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()  # (filters, pixels of a patch)

    @staticmethod
    def offered(of: Convolution) -> bool:
        """Whether a convolution does that."""
        taps, image = [*of.weight.shape[2:]], of.output_size
        whole = [k * s for k, s in zip(taps, of.input_size[2:], strict=True)] == [*image[2:]]
        beside = [*of.stride] == taps and not any([*of.padding, *of.output_padding]) and max(of.dilation) == 1
        return of.transposed and whole and beside and of.channels_last and image[1] <= SKINNY

    def convolve(self, x: Tensor) -> Tensor:
        """w' * x."""
        n, channels, height, width = x.shape
        p, q = self.taps
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels) @ self.weight
        pixels = pixels.view(n, height, width, p, -1).transpose(2, 3)
        return pixels.reshape(n, height * p, width * q, -1).permute(0, 3, 1, 2)


class WinogradKernel(Kernel):
    """By Winograd's minimal filtering, with the slopes applied on the way in and out."""

    def __init__(self, weight: Tensor, turned: bool = False) -> None:
        self.filters = Winograd(weight, turned)

    def __call__(self, x: Tensor, fused: Fused) -> Tensor:
        """The product, with what is fused with it, in one pass."""
        return self.filters.apply(x, fused.prologue, fused.epilogue, fused.onto)


class Skinny(Kernel):
    """For few output channels and stride 1, where a convolution's kernel would sit idle.

    Each tap of w is one row of a matrix; its product with the pixels is added, shifted, to the output.
    """

    def __init__(self, weight: Tensor, padding: list[int], dilation: list[int]) -> None:
        self.taps, self.padding, self.dilation = weight.shape, padding, dilation
        self.weight = weight.permute(0, 2, 3, 1).reshape(-1, weight.shape[1]).contiguous()

    def convolve(self, x: Tensor) -> Tensor:
        """w * x."""
        n, channels, *sides = x.shape
        out, _, *taps = self.taps
        pixels = in_channels_last(x).permute(0, 2, 3, 1).reshape(-1, channels)
        parts = (self.weight @ pixels.T).view(out, *taps, n, *sides)
        reach = [d * (k - 1) for d, k in zip(self.dilation, taps, strict=True)]
        total = x.new_zeros(out, n, *(s + r for s, r in zip(sides, reach, strict=True)))
        for i in range(taps[0]):
            for j in range(taps[1]):
                top, left = reach[0] - i * self.dilation[0], reach[1] - j * self.dilation[1]
                total[:, :, top : top + sides[0], left : left + sides[1]] += parts[:, i, j]
        (top, left), (p, q) = reach, self.padding
        rows, columns = sides[0] + 2 * p - top, sides[1] + 2 * q - left
        inside = total[:, :, top - p : top - p + rows, left - q : left - q + columns]
        return inside.transpose(0, 1).contiguous()


def _with_a_row(size: torch.Size) -> torch.Size:
    return torch.Size((*size[:2], 1, *size[2:]))


def _gated(x: Tensor, slope: Tensor, owned: bool) -> Tensor:
    """s x for each of the blocks of len(s) images in x; in place where x is `owned`."""
    return times(x.unflatten(0, (-1, len(slope))), slope, owned).flatten(0, 1)


def kernel(of: Convolution) -> Kernel:
    """The kernel of a convolution: measured choices, for CPUs."""
    if of.weight.ndim == 3 and not DirectKernel.offered(of):
        return Row(of)
    weight, stride, padding, dilation = of.weight, of.stride, of.padding, of.dilation
    plain = weight.ndim == 4 and weight.device.type == "cpu" and of.groups == 1
    real = weight.dtype in (torch.float32, torch.float64)
    if plain and real and Patches.offered(of):
        return Patches(weight)
    if plain and real and not of.transposed:
        out, channels, *taps = weight.shape
        inside = all(p <= d * (k - 1) for p, d, k in zip(padding, dilation, taps, strict=True))
        if out <= SKINNY and channels >= 4 * SKINNY and max(stride) == 1 and inside:
            return Skinny(weight, padding, dilation)
        large = of.output_size.numel() * weight.itemsize > memory.SMALL
        if of.channels_last and channels <= SKINNY and large and out >= weight[0].numel():
            return Unfolded(weight, stride, padding, dilation)
        if of.by_winograd:
            return WinogradKernel(weight)
        if weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            return Packed(weight, of.channels_last, stride, padding, dilation, of.input_size)
    if DirectKernel.offered(of):
        return DirectKernel(weight, padding)
    geometry = stride, padding, dilation, of.transposed, of.output_padding, of.groups
    return Kernel(weight, of.channels_last, *geometry)
