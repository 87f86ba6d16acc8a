"""What a diffusion network predicts, and the conditional mean that follows from it."""

from __future__ import annotations

from typing import NamedTuple

from spectral.errors import OptionError
from spectral.options import choice


class Level(NamedTuple):
    """One noise level of z = alpha w + sigma n, n ~ N(0, I), and what the network is told of it.

    Attributes:
        alpha: what the clean image w is multiplied by, >= 0.
        sigma: of the noise in z, > 0.
        time: timestep, continuous time or noise level, as the network was trained with.
    """

    alpha: float
    sigma: float
    time: float

    @property
    def ratio(self) -> float:
        """sigma / alpha, the noise level of z / alpha = w + (sigma / alpha) n."""
        return self.sigma / self.alpha if self.alpha > 0 else float("inf")


_NAMES = {
    "epsilon": "epsilon",
    "noise": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "sample": "sample",
    "x0": "sample",
    "flow": "flow",
    "flow_prediction": "flow",
    "score": "score",
    "edm": "edm",
}

PREDICTIONS = tuple(_NAMES)
"""Words for what a network predicts; several have two names."""


def prediction_of(name: str) -> str:
    """The one name of a prediction: "epsilon", "v", "sample", "flow", "score" or "edm".

    Raises:
        OptionError: it is none of `PREDICTIONS`.
    """
    choice("prediction", name, PREDICTIONS)
    return _NAMES[name]


def mean_from(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(a, b) of E[w | z] = a z + b F, F the network's conditional mean at z = alpha w + sigma n.

        epsilon   F = n                      w = (z - sigma F) / alpha
        v         F = alpha n - sigma w      w = (alpha z - sigma F) / (alpha^2 + sigma^2)
        edm       F = sigma w - alpha n      w = (alpha z + sigma F) / (alpha^2 + sigma^2)
        sample    F = w                      w = F
        flow      F = n - w                  w = (z - sigma F) / (alpha + sigma)
        score     F = -n / sigma             w = (z + sigma^2 F) / alpha

    They are linear, so what holds of n, w and F holds of their means given z. "edm" is the raw network of
    Karras et al. (2022) where w are images over sigma_data.

    Raises:
        OptionError: an unknown prediction; or alpha is 0, and noise alone tells nothing of w.
    """
    kind = prediction_of(prediction)
    if alpha == 0 and kind in ("epsilon", "score"):
        raise OptionError(
            f"at alpha = 0 z is noise alone, and {kind!r} tells nothing of it: take an earlier timestep"
        )
    if kind == "epsilon":
        return 1 / alpha, -sigma / alpha
    if kind == "score":
        return 1 / alpha, sigma**2 / alpha
    if kind == "sample":
        return 0.0, 1.0
    if kind == "flow":
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    whole = alpha**2 + sigma**2
    return alpha / whole, (sigma if kind == "edm" else -sigma) / whole
