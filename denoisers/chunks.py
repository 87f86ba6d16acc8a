"""Many images through a model, a few at a time, so that memory stays bounded."""

from collections.abc import Callable

import torch
from torch import Tensor

from spectral.jacobians.model import Model

CHUNK_PIXELS = 1 << 20  # pixels denoised at a time


def denoise(model: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
    """model(noisy), in chunks of images that bound the memory.

    A chunk goes to the device and the precision of the model's weights; what comes is where `noisy` is.
    Modules are in evaluation mode meanwhile.
    """
    count = max(1, CHUNK_PIXELS // noisy[0].numel())
    f = Model(model, {})
    with f.ready():
        return torch.cat([f(f.taken(chunk)).to(noisy) for chunk in noisy.split(count)])
