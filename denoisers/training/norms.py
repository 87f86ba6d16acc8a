"""What norms divide by once training is over."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from denoisers.networks import BiasFreeNorm, Denoiser
from spectral.errors import OptionError


def freeze(model: Denoiser) -> None:
    """Let norms divide by what they have, as in evaluation, while the rest of the model goes on training.

    Raises:
        OptionError: no norm of the model keeps what it divides by.
    """
    norms = [module for module in model.modules() if isinstance(module, (BiasFreeNorm, nn.BatchNorm2d))]
    if not norms:
        raise OptionError(
            f"no norm of {model.in_words()} keeps what it divides by, so that "
            "there is nothing to freeze: leave frozen out"
        )
    for norm in norms:
        norm.eval()


@torch.no_grad()
def calibrate(model: Denoiser, noisy: Iterable[Tensor]) -> None:
    """Set each norm's running_sd to the mean, over the batches, of the standard deviation it divides by.

    The moving average of training follows the noise levels of its last ten batches. In the shipped networks
    evaluation mode lost 0.3 to 3 dB by it at sigma = 0.05 early in training, and less than 0.1 dB at the end.
    Leaves the model in training mode; one without such norms is left alone.
    """
    norms = [module for module in model.modules() if isinstance(module, BiasFreeNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.train()
    for count, batch in enumerate(noisy, 1):
        for norm in norms:
            norm.momentum = 1 / count
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
