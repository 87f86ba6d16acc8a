"""Measurements that are ready: pixels, block averages, random projections, frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from spectral.errors import OptionError, ShapeError
from spectral.options import number, seed_of, whole


class Inpainting:
    """The pixels where `mask` is true: (B, C, H, W) -> (B, C, known), or (B, known) for a mask (C, H, W).

    Raises OptionError for a mask that is not boolean, or has no true entry; ShapeError for other axes.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or not mask.any():
            raise OptionError("a mask is boolean, True where a pixel is known, and knows at least one")
        if mask.ndim not in (2, 3):
            raise ShapeError(f"a mask has shape (H, W) or (C, H, W), got {tuple(mask.shape)}")
        self.mask = mask

    @classmethod
    def hole(cls, size: int, side: int) -> Inpainting:
        """All of size x size pixels but a square of `side` pixels in the middle."""
        if not 0 < side < size:
            raise OptionError(f"a hole's side lies in [1, {size - 1}], got {side}")
        mask = torch.ones(size, size, dtype=torch.bool)
        top = (size - side) // 2
        mask[top : top + side, top : top + side] = False
        return cls(mask)

    @classmethod
    def random(cls, size: int, share: float, seed: int = 0) -> Inpainting:
        """A share of size x size pixels, chosen at random."""
        kept = _some(size * size, _count(share, size * size), seed)
        mask = torch.zeros(size * size, dtype=torch.bool)
        mask[kept] = True
        return cls(mask.view(size, size))

    def measure(self, images: Tensor) -> Tensor:
        """The known pixels."""
        if images.shape[-self.mask.ndim :] != self.mask.shape:
            raise ShapeError(
                f"the mask has shape {tuple(self.mask.shape)}, the images {tuple(images.shape[1:])}"
            )
        mask = self.mask.to(images.device)
        return images[:, :, mask] if mask.ndim == 2 else images[:, mask]

    def adjoint(self, values: Tensor) -> Tensor:
        """Images with the known pixels, and zeros elsewhere."""
        mask = self.mask.to(values.device)
        out = values.new_zeros(*values.shape[:-1], *mask.shape)
        out[..., mask] = values
        return out


class BlockAverage:
    """Averages of factor x factor pixels, for super-resolution: (B, C, H, W) -> (B, C, H/factor, W/factor).

    A A' = I / factor^2. Raises OptionError for factor < 1; ShapeError where the sides are no multiples.
    """

    def __init__(self, factor: int) -> None:
        self.factor = whole("factor", factor)
        if self.factor < 1:
            raise OptionError(f"factor must be >= 1, got {factor}")

    def measure(self, images: Tensor) -> Tensor:
        """The averages."""
        if images.shape[-1] % self.factor or images.shape[-2] % self.factor:
            raise ShapeError(
                f"blocks of {self.factor} pixels do not fill {images.shape[-2]} x {images.shape[-1]}: crop it"
            )
        return avg_pool2d(images, self.factor)

    def adjoint(self, values: Tensor) -> Tensor:
        """Each average over factor^2, at all pixels of its block."""
        f = self.factor
        return values.repeat_interleave(f, -1).repeat_interleave(f, -2) / f**2


class RandomProjections:
    """`count` orthonormal projections: H D x at random places, D random signs, H the Hartley transform.

    (B, C, H, W) -> (B, count), in O(N log N). As spread as Gaussian ones, and exactly orthonormal. Raises
    OptionError where count does not lie in [1, C H W].
    """

    def __init__(self, count: int, shape: Sequence[int], seed: int = 0) -> None:
        self.shape = tuple(shape)
        n = math.prod(self.shape)
        if not 1 <= whole("count", count) <= n:
            raise OptionError(f"count lies between 1 and the {n} entries of an image, got {count}")
        generator = torch.Generator().manual_seed(seed_of(seed))
        self.signs = torch.randint(2, self.shape, generator=generator) * 2 - 1
        self.places = torch.randperm(n, generator=generator)[:count]

    def measure(self, images: Tensor) -> Tensor:
        """The projections."""
        if images.shape[1:] != self.shape:
            raise ShapeError(f"projections are of images {self.shape}, got {tuple(images.shape[1:])}")
        mixed = _hartley((images * self.signs.to(images)).flatten(1), (1,))
        return mixed[:, self.places.to(images.device)]

    def adjoint(self, values: Tensor) -> Tensor:
        """The projections put back."""
        flat = values.new_zeros(len(values), math.prod(self.shape))
        flat[:, self.places.to(values.device)] = values
        return _hartley(flat, (1,)).view(-1, *self.shape) * self.signs.to(values)


class Frequencies:
    """Hartley coefficients where `kept` (H, W) is true, of each channel: (B, C, H, W) -> (B, C, r).

    Frequencies k and -k are kept together, so that these are the Fourier coefficients at the same places.
    Raises OptionError for a mask that is not boolean, or keeps nothing.
    """

    def __init__(self, kept: Tensor) -> None:
        if kept.dtype != torch.bool or kept.ndim != 2 or not kept.any():
            raise OptionError("kept is a boolean mask (H, W) of frequencies in the order of torch.fft.fft2")
        self.kept = kept | kept.flip(0, 1).roll((1, 1), (0, 1))

    @classmethod
    def low_pass(cls, size: int, radius: float) -> Frequencies:
        """All with |k| <= radius, k in whole periods an image."""
        k = torch.fft.fftfreq(size, 1 / size)
        return cls(torch.hypot(k[:, None], k) <= number("radius", radius))

    @classmethod
    def random(cls, size: int, share: float, seed: int = 0) -> Frequencies:
        """The mean, and a share of the others chosen at random, with their opposites."""
        kept = torch.zeros(size * size, dtype=torch.bool)
        kept[_some(size * size, _count(share / 2, size * size), seed)] = True
        kept[0] = True
        return cls(kept.view(size, size))

    def measure(self, images: Tensor) -> Tensor:
        """The coefficients."""
        if images.shape[2:] != self.kept.shape:
            raise ShapeError(
                f"frequencies are of {tuple(self.kept.shape)} pixels, got {tuple(images.shape[2:])}"
            )
        return _hartley(images, (2, 3))[:, :, self.kept.to(images.device)]

    def adjoint(self, values: Tensor) -> Tensor:
        """The image with these coefficients, the others zero."""
        out = values.new_zeros(*values.shape[:2], *self.kept.shape)
        out[:, :, self.kept.to(values.device)] = values
        return _hartley(out, (2, 3))


def _hartley(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Re F x - Im F x, F orthonormal: real, symmetric, and its own inverse."""
    f = torch.fft.fftn(x, dim=axes, norm="ortho")
    return f.real - f.imag


def _some(n: int, count: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed)))[:count]


def _count(share: float, n: int) -> int:
    if not 0 < number("share", share) <= 1:
        raise OptionError(f"a share lies in (0, 1], got {share}")
    return max(1, round(share * n))
