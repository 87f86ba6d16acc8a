"""Images that a run does not train on, and how well its network does on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from denoisers.evaluation import psnr_table
from denoisers.images import Disks, Waves, photograph
from denoisers.images.calpha import synthesize
from denoisers.networks import Denoiser
from denoisers.training.config import TrainConfig

LEVELS = (0.05, 25 / 255, 0.3)
SIDE = 256  # of the part of the photograph that is looked at while training


def held_out(config: TrainConfig, channels: int) -> tuple[Tensor, str]:
    """Images that a configuration never trains on, (N, channels, H, W), and what they are in words."""
    made = {
        "calpha": lambda: synthesize(64, size=config.size, alpha=config.alpha, seed=0),
        "disks": lambda: Disks(config.size)(64),
        "waves": lambda: Waves(config.size)(64),
    }
    if config.data in made:
        exponent = f", alpha = {config.alpha:g}" if config.data == "calpha" else ""
        return torch.from_numpy(made[config.data]()), (
            f"64 fresh images of {config.size}x{config.size}{exponent}"
        )
    grey = np.repeat(photograph(), channels, axis=1)
    return torch.from_numpy(grey), "the shipped photograph" + (", grey in all channels" * (channels > 1))


def validated(network: Denoiser, images: Tensor) -> dict[str, float]:
    """Mean PSNR at each of LEVELS, in dB: {"psnr_0.05": ...}; the photograph's middle alone."""
    top, left = ((side - min(side, SIDE)) // 2 for side in images.shape[2:])
    middle = images[..., top : top + SIDE, left : left + SIDE]
    device = next(network.parameters()).device
    rows = psnr_table(network, middle.to(device), LEVELS)
    return {f"psnr_{row.sigma:.4g}": row.denoised for row in rows}
