"""Denoisers of the package deepinv; the package itself is not imported."""

from __future__ import annotations

from typing import Any

from denoisers.adapters.diffusion import Diffusion
from denoisers.adapters.schedule import Exploding


def from_deepinv(model: Any, *, lowest: float = 1e-4, highest: float = 100.0) -> Diffusion:
    """f(y, sigma) = model(y, sigma), images in [0, 1].

    `spectral` takes model itself, too, with model_kwargs={"sigma": ...}. Here the level is told as (N,), is
    checked, and can be fixed: `f.at(sigma=0.1)`.

    Args:
        model: model(y, sigma).
        lowest, highest: levels that it takes; deepinv does not say at which each was trained, so name them
            where they are known (DRUNet: up to 0.2).

    Raises:
        OptionError: not 0 < lowest < highest.
    """
    return Diffusion(model, Exploding(lowest, highest), "sample", units=(0.0, 1.0))
