"""Many images through a model, a few at a time, so that memory stays bounded."""

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_PIXELS = 1 << 20  # pixels denoised at a time


@torch.no_grad()
def denoise(model: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
    """model(noisy), in chunks of images that bound the memory."""
    count = max(1, CHUNK_PIXELS // noisy[0].numel())
    return torch.cat([model(chunk) for chunk in noisy.split(count)])
