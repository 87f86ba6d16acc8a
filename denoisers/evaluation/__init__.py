"""How well a denoiser does and what it has learned: PSNR, two networks, bases, homogeneity, SURE."""

from denoisers.chunks import denoise
from denoisers.evaluation.basis import BasisAnalysis, basis_at
from denoisers.evaluation.comparison import Comparison, compare
from denoisers.evaluation.gap import PSNRGap, psnr_gap
from denoisers.evaluation.homogeneity import Homogeneity, homogeneity
from denoisers.evaluation.nearest import Nearest, cosine_similarity, nearest
from denoisers.evaluation.psnr import PSNR, PSNRCurve, add_noise, psnr, psnr_curve, psnr_table
from denoisers.evaluation.surecheck import SureCheck, sure_check

__all__ = [
    "PSNR",
    "BasisAnalysis",
    "Comparison",
    "Homogeneity",
    "Nearest",
    "PSNRCurve",
    "PSNRGap",
    "SureCheck",
    "add_noise",
    "basis_at",
    "compare",
    "cosine_similarity",
    "denoise",
    "homogeneity",
    "nearest",
    "psnr",
    "psnr_curve",
    "psnr_gap",
    "psnr_table",
    "sure_check",
]
