"""Networks of EDM, ECT and others that come with their preconditioning: D(z, sigma, class_labels)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from denoisers.adapters.diffusion import Diffusion
from denoisers.adapters.schedule import Exploding


def from_edm(
    model: Any,
    *,
    class_labels: Tensor | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    units: tuple[float, float] | None = (-1.0, 1.0),
) -> Diffusion:
    """f(y, sigma) = (D(z, s) - low) / (high - low),  z = low + (high - low) y,  s = (high - low) sigma.

    D(z, s) is the conditional mean itself (Karras et al. 2022), told s as (N,). A consistency network (ECT)
    has the same form and is taken as well; it is no conditional mean, and `spectral.top_svd` the tool for it.
    These networks compute in float32, whatever y is, unless `model` says otherwise.

    Args:
        model: D(z, sigma, class_labels=None).
        class_labels: (1 or N, labels), one-hot, for a network that has classes.
        lowest, highest: levels s that it was trained at; its own sigma_min and sigma_max, where those are
            positive and finite, else 0.002 and 80.
        units: (low, high), what 0 and 1 are to the network; None for latents.

    Raises:
        OptionError: an option out of range.
    """
    low = _end(model, "sigma_min", 0.002) if lowest is None else lowest
    high = _end(model, "sigma_max", 80.0) if highest is None else highest
    condition = None if class_labels is None else {"class_labels": class_labels}
    return Diffusion(model, Exploding(low, high), "sample", units=units, condition=condition)


def _end(model: Any, name: str, otherwise: float) -> float:
    own = float(getattr(model, name, otherwise))
    return own if 0 < own < math.inf else otherwise
