"""The bias-free UNet of Kadkhodaie et al. (arXiv 2310.02557)."""

import torch
from torch import Tensor, nn

from denoisers.networks.base import NoisePredictor
from denoisers.networks.layers import conv_norm_relu, convolution, halved
from spectral.errors import OptionError

FLIPS = ((), (-1,), (-2,), (-2, -1))  # of an image's axes


class UNet(NoisePredictor):
    """Bias-free UNet: `blocks` encoder blocks of width, 2 width, 4 width, ... channels.

    Block b of the encoder: twice (3x3 convolution, norm, ReLU), but no norm after the very first convolution;
    then 2x2 average pooling. A middle block of twice the last width. Block b of the decoder: 2x2 transposed
    convolution of stride 2, concatenation [up, skip], twice (convolution, norm, ReLU); in the last one the
    second convolution is bare and gives the predicted noise. Nothing adds a constant, so f(s y) = s f(y) for
    s >= 0 in evaluation mode; `biased` is the twin with biases and batch norm, for which that is not so.

    With `flips` evaluation takes the mean over the four flips F of an image's axes, f = 1/4 sum F f_1(F y):
    f(F y) = F f(y), and of images that are as likely as their flips the mean squared error is at most that of
    f_1, at four times the cost.  Training goes on with f_1.

    Parameters at width 64, one channel, for blocks 1, 2, 3, 4: 366,080, 1,825,024, 7,659,264, 30,993,152
    (the paper's Table 1). For blocks = 3 a pixel sees 92 to 100 pixels a side, by its place in the
    8x8 grid. Sides must be multiples of 2^blocks.
    """

    def __init__(
        self, blocks: int = 3, width: int = 64, channels: int = 1, biased: bool = False, flips: bool = False
    ) -> None:
        if min(blocks, width, channels) < 1:
            raise OptionError(
                "UNet needs blocks, width and channels >= 1, "
                f"got blocks={blocks}, width={width}, channels={channels}"
            )
        super().__init__()
        self.config = {"blocks": blocks, "width": width, "channels": channels}
        self.config |= {"biased": True} if biased else {}
        self.config |= {"flips": True} if flips else {}
        self.flips = flips
        self.channels = channels
        self.side_multiple = 2**blocks
        widths = [width * 2**b for b in range(blocks)]

        first = [convolution(channels, width, biased), nn.ReLU(), *conv_norm_relu(width, width, biased)]
        deeper = [_double(w // 2, w, biased) for w in widths[1:]]
        self.encoder = nn.ModuleList([nn.Sequential(*first), *deeper])
        self.middle = _double(widths[-1], 2 * widths[-1], biased)

        last = [*conv_norm_relu(2 * width, width, biased), convolution(width, channels, biased)]
        shallower = [_double(2 * w, w, biased) for w in reversed(widths[1:])]
        self.up = nn.ModuleList([_upsample(w, biased) for w in reversed(widths)])
        self.decoder = nn.ModuleList([*shallower, nn.Sequential(*last)])

    def noise(self, y: Tensor) -> Tensor:
        """The noise predicted in y, (N, channels, H, W) -> the same shape."""
        if self.training or not self.flips:
            return self._noise(y)
        return sum((self._noise(y.flip(axes)).flip(axes) for axes in FLIPS[1:]), self._noise(y)) / len(FLIPS)

    def _noise(self, y: Tensor) -> Tensor:
        skips = []
        x = y
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = halved(x, self.training)
        x = self.middle(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        return x


def _double(channels_in: int, channels_out: int, biased: bool) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm_relu(channels_in, channels_out, biased),
        *conv_norm_relu(channels_out, channels_out, biased),
    )


def _upsample(width: int, biased: bool) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(2 * width, width, 2, stride=2, bias=biased)
    # An output pixel sees one weight of each input channel: the fan-in is 2 width (torch counts 4 width).
    nn.init.normal_(layer.weight, std=(2 * width) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
