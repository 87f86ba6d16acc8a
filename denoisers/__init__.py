"""Neural denoisers: networks, images, training, evaluation, sampling, and small networks that ship."""

from denoisers.sampling import Samples, sample, solve
from denoisers.zoo import available, load
from spectral.version import __version__

__all__ = ["Samples", "__version__", "available", "load", "sample", "solve"]
