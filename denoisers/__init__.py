"""Neural denoisers: networks, images, training, evaluation, and small trained networks that ship."""

from denoisers.zoo import available, load
from spectral.version import __version__

__all__ = ["__version__", "available", "load"]
