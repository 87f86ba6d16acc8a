"""What every network of this package is: a denoiser that subtracts the noise it predicts."""

from typing import Any, ClassVar

from torch import Tensor, nn

from spectral.errors import ShapeError


class NoisePredictor(nn.Module):
    """A denoiser f(y) = y - noise(y), where `noise` is a bias-free network.

    forward: (N, channels, H, W) -> the DENOISED images, same shape, in the units of y. The noise level is not
    an input. A subclass writes `noise` and states:

    - config: the keyword arguments that build it again, so that a weights file describes its network;
    - channels: channels of the images;
    - side_multiple: H and W must be multiples of it.

    Raises ShapeError where y has another number of axes or channels, or sides that the network does not take.
    """

    config: dict[str, Any]
    channels: int
    side_multiple: int = 1
    registry: ClassVar[dict[str, type["NoisePredictor"]]] = {}

    def __init_subclass__(cls) -> None:
        NoisePredictor.registry[cls.__name__] = cls

    def noise(self, y: Tensor) -> Tensor:
        """The noise predicted in y, of the shape of y."""
        raise NotImplementedError(f"{type(self).__name__} must define noise(y)")

    def forward(self, y: Tensor) -> Tensor:
        """y - noise(y)."""
        self._check(y)
        return y - self.noise(y)

    def _check(self, y: Tensor) -> None:
        name = type(self).__name__
        if y.ndim != 4 or y.shape[1] != self.channels:
            raise ShapeError(
                f"{name} takes images of shape (N, {self.channels}, H, W), got {tuple(y.shape)}: "
                "add or merge axes with y.reshape, or load a network with that many channels"
            )
        if y.shape[2] % self.side_multiple or y.shape[3] % self.side_multiple:
            raise ShapeError(
                f"{name} takes sides that are multiples of {self.side_multiple}, got "
                f"{y.shape[2]} x {y.shape[3]}: crop the image, or pad it with torch.nn.functional.pad"
            )
