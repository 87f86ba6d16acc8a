"""The bias-free CNN (BF-CNN, bias-free DnCNN) of Mohan et al. 2020 and Kadkhodaie et al. 2024."""

from torch import Tensor, nn

from denoisers.networks.base import NoisePredictor
from denoisers.networks.layers import conv_norm_relu, convolution
from spectral.errors import OptionError


class BFCNN(NoisePredictor):
    """`layers` 3x3 convolutions of `width` channels, norm and ReLU between, at full resolution.

    conv, [ReLU], (layers - 2) times (conv, norm, ReLU), conv: the predicted noise. `first_relu` puts the ReLU
    after the first convolution (bias-free DnCNN, of 20 layers, has it; the released BF-CNN has not).
    Bias-free, hence homogeneous of degree one in evaluation mode; `biased` is the twin with biases and batch
    norm (with first_relu, DnCNN of Zhang et al. 2017), which is not.

    Parameters at 21 layers, width 64, one channel: 702,784. Receptive field 2 layers + 1 pixels. Any side.
    """

    def __init__(
        self,
        layers: int = 21,
        width: int = 64,
        channels: int = 1,
        first_relu: bool = False,
        biased: bool = False,
    ) -> None:
        if layers < 2 or min(width, channels) < 1:
            raise OptionError(
                "BFCNN needs layers >= 2, width and channels >= 1, "
                f"got layers={layers}, width={width}, channels={channels}"
            )
        super().__init__()
        self.config = {"layers": layers, "width": width, "channels": channels, "first_relu": first_relu}
        self.config |= {"biased": True} if biased else {}
        self.channels = channels
        first = [convolution(channels, width, biased), *([nn.ReLU()] if first_relu else [])]
        hidden = [unit for _ in range(layers - 2) for unit in conv_norm_relu(width, width, biased)]
        self.stack = nn.Sequential(*first, *hidden, convolution(width, channels, biased))

    def noise(self, y: Tensor) -> Tensor:
        """The noise predicted in y, (N, channels, H, W) -> the same shape."""
        return self.stack(y)
