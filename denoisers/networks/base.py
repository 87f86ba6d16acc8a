"""What every network of this package is: a denoiser that a weights file can describe."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spectral.errors import OptionError, ShapeError


class Denoiser(nn.Module):
    """A network from noisy images (N, channels, H, W) to denoised ones, same shape, in the units of y.

    A subclass states:

    - config: the keyword arguments that build it again, so that a weights file describes its network;
    - channels: channels of the images;
    - side_multiple: H and W must be multiples of it;
    - told: whether forward(y, sigma) is told the noise level, a number or one per image (N,).

    Raises ShapeError where y has another number of axes or channels, or sides that the network does not take.
    """

    config: dict[str, Any]
    channels: int
    side_multiple: int = 1
    told: ClassVar[bool] = False
    registry: ClassVar[dict[str, type[Denoiser]]] = {}

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            Denoiser.registry[cls.__name__] = cls

    def weight(self, sigma: Tensor) -> Tensor:
        """What training multiplies the squared errors of images at noise levels (N,) by."""
        return torch.ones_like(sigma)

    def in_words(self) -> str:
        """Class and configuration."""
        return f"{type(self).__name__} {json.dumps(self.config)}"

    def check_side(self, name: str, side: int) -> None:
        """That an option of this name is a side of images that the network takes.

        Raises:
            OptionError: it is not.
        """
        if side < 1:
            raise OptionError(f"{name} must be >= 1, got {side}")
        if side % self.side_multiple:
            raise OptionError(
                f"{name} must be a multiple of {self.side_multiple}, as sides of images of this "
                f"{type(self).__name__} are; got {side}"
            )

    def _check(self, y: Tensor) -> None:
        name = type(self).__name__
        if y.ndim != 4 or y.shape[1] != self.channels:
            lacks = {2: "y[None, None] adds the axes", 3: "y[None] adds the axis"}
            way = "load a network with that many channels" if y.ndim == 4 else "merge axes with y.reshape"
            raise ShapeError(
                f"{name} takes images of shape (N, {self.channels}, H, W), got {tuple(y.shape)}: "
                f"{lacks.get(y.ndim, way)}"
            )
        if y.shape[2] % self.side_multiple or y.shape[3] % self.side_multiple:
            raise ShapeError(
                f"{name} takes sides that are multiples of {self.side_multiple}, got "
                f"{y.shape[2]} x {y.shape[3]}: crop the image, or pad it"
            )


class NoisePredictor(Denoiser, abstract=True):
    """A denoiser f(y) = y - noise(y), where `noise` is a network that is not told the noise level."""

    def noise(self, y: Tensor) -> Tensor:
        """The noise predicted in y, of the shape of y."""
        raise NotImplementedError(f"{type(self).__name__} must define noise(y)")

    def forward(self, y: Tensor) -> Tensor:
        """y - noise(y)."""
        self._check(y)
        return y - self.noise(y)


def by_image(c: Tensor) -> Tensor:
    """A factor for each image, (N,), as one of images (N, C, H, W)."""
    return c[:, None, None, None]


def levels(sigma: Tensor | float, y: Tensor) -> Tensor:
    """Noise levels of images y as (N,), of y's precision.

    Raises:
        OptionError: they are neither one number nor one per image.
    """
    given = torch.as_tensor(sigma, dtype=y.dtype, device=y.device)
    if given.ndim > 1 or (given.ndim == 1 and len(given) not in (1, len(y))):
        raise OptionError(
            f"sigma is one number, or one for each of {len(y)} images, got {tuple(given.shape)}"
        )
    return given.expand(len(y))
