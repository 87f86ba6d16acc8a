"""Neural denoisers: networks, images, training, evaluation, and small trained networks that ship."""

from denoisers.zoo import available, load

__all__ = ["available", "load"]
