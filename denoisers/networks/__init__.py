"""Denoising networks: the paper's, which are not told the noise level, and those that are."""

from denoisers.networks.base import Denoiser, NoisePredictor
from denoisers.networks.bfcnn import BFCNN
from denoisers.networks.conditional import EDM, ConditionalUNet, Consistency, LabelledUNet, Preconditioned
from denoisers.networks.layers import BiasFreeNorm
from denoisers.networks.unet import UNet

__all__ = [
    "BFCNN",
    "EDM",
    "BiasFreeNorm",
    "ConditionalUNet",
    "Consistency",
    "Denoiser",
    "LabelledUNet",
    "NoisePredictor",
    "Preconditioned",
    "UNet",
]
