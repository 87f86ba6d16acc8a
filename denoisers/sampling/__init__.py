"""Drawing images, and solving linear inverse problems, with a denoiser as the prior."""

from denoisers.sampling.annealed import langevin
from denoisers.sampling.ascent import sample
from denoisers.sampling.flow import ddim, heun
from denoisers.sampling.inverse import solve
from denoisers.sampling.measurement import Measurement
from denoisers.sampling.multistep import consistency
from denoisers.sampling.ready import BlockAverage, Frequencies, Inpainting, RandomProjections
from denoisers.sampling.result import Samples

__all__ = [
    "BlockAverage",
    "Frequencies",
    "Inpainting",
    "Measurement",
    "RandomProjections",
    "Samples",
    "consistency",
    "ddim",
    "heun",
    "langevin",
    "sample",
    "solve",
]
