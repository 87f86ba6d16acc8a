"""Images that a run does not train on, and how well its network does on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from denoisers.evaluation import psnr_table
from denoisers.images import Patches, Shuffled, photograph
from denoisers.networks import Denoiser
from denoisers.training.config import GENERATED, MIXED, TrainConfig
from denoisers.training.data import source_of

LEVELS = (0.05, 25 / 255, 0.3)
SIDE = 256  # of the part of the photograph that is looked at while training


def held_out(config: TrainConfig, channels: int) -> tuple[Tensor, str]:
    """Images that a configuration never trains on, (N, channels, H, W), and what they are in words."""
    if config.data in GENERATED:
        source = source_of(config)
        images = (Shuffled(source) if config.shuffled else source)(64, seed=0)
        exponent = {
            "calpha": f", alpha = {config.alpha:g}",
            "calpha-mixed": f", alpha = {', '.join(f'{alpha:g}' for alpha in MIXED)} in turn",
        }.get(config.data, "")
        return torch.from_numpy(images), f"64 fresh images of {config.size}x{config.size}{exponent}"
    colour = channels == 3
    whole = photograph(colour) if colour else np.repeat(photograph(), channels, axis=1)
    named = f"the shipped photograph{' in colour' if colour else ''}"
    if config.shuffled:  # as the patches are that are trained on
        patches = Shuffled(Patches([whole[0]], config.size))(64)
        return torch.from_numpy(patches), f"64 patches of {config.size}x{config.size} of {named}, shuffled"
    return torch.from_numpy(whole), named


def validated(network: Denoiser, images: Tensor) -> dict[str, float]:
    """Mean PSNR at each of LEVELS, in dB: {"psnr_0.05": ...}; the photograph's middle alone."""
    top, left = ((side - min(side, SIDE)) // 2 for side in images.shape[2:])
    middle = images[..., top : top + SIDE, left : left + SIDE]
    device = next(network.parameters()).device
    rows = psnr_table(network, middle.to(device), LEVELS)
    return {f"psnr_{row.sigma:.4g}": row.denoised for row in rows}
