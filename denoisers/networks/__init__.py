"""Bias-free denoising networks."""

from denoisers.networks.base import NoisePredictor
from denoisers.networks.bfcnn import BFCNN
from denoisers.networks.layers import BiasFreeNorm
from denoisers.networks.unet import UNet

__all__ = ["BFCNN", "BiasFreeNorm", "NoisePredictor", "UNet"]
