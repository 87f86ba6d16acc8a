"""The networks of the figures, at both scales: `paper` has the paper's own settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from benchmarks.paper.need import Need
from denoisers.training import RECIPES, TrainConfig

Scale = Literal["small", "paper"]

# Adam's step is larger at `small` than the paper's, which the few images seen there allow. Squared errors at
# low noise, which the paper's 10^8 images get to in the end, count for more there: of 20,000 images of
# alpha = 3 the output at 30 dB in was 30 dB without `emphasis`, 34 dB with 0.5, and at 0 dB the same.
# At `paper` 10^5 images are seen 1000 times, and Adam's step is halved every 100.
SMALL = TrainConfig(
    data="calpha",
    network_config={"blocks": 2, "width": 16},
    size=24,
    batch=16,
    steps=3600,
    learning_rate=5e-3,
    schedule="cosine",
    warmup=50,
    noise="log-uniform",
    sigma_min=0.01,
    emphasis=0.75,
)
# Of finite sets, as many networks: 12,800 images, by the paper's law of noise and its loss.
BRIEF: dict[str, Any] = {"steps": 800, "noise": "squared", "sigma_min": 0.001, "emphasis": 0.0}
PAPER = TrainConfig(
    data="calpha",
    network_config={"blocks": 3, "width": 64},
    size=80,
    batch=512,
    steps=195_000,
    halvings=9,
)


def blind(scale: Scale, data: str, small: dict[str, Any] | None = None, **changed: Any) -> Need:
    """The bias-free UNet on images of a kind; with other settings yet at `small`."""
    if scale == "small":
        return Need(replace(SMALL, data=data, **changed, **(small or {})))
    return Need(replace(PAPER, data=data, **changed))


def longer(need: Need, emphasis: float, steps: int = 7000) -> Need:
    """The same for more steps from there, low noise counting for yet more.

    Of smooth images the optimum falls faster with the noise, as sigma^(2 alpha / (alpha + 1)).
    """
    return Need(replace(need.config, steps=steps, learning_rate=4e-3, emphasis=emphasis), need)


def finite(scale: Scale, images: int, half: Literal["first", "second"] = "first") -> Need:
    """The bias-free UNet on so many C^alpha images, alpha = 2, again and again: one of two disjoint sets."""
    return blind(scale, "calpha", {**BRIEF, "size": 16}, alpha=2.0, images=images, half=half)


EDM = replace(RECIPES["edm"], network_config={"width": 24, "scales": 3}, alpha=3.0, batch=16)


def consistency(scale: Scale) -> Need:
    """A consistency function, tuned from a denoiser that is told the level."""
    steps = {"small": 300, "paper": 100_000}
    wider = (
        {} if scale == "small" else {"network_config": {"width": 64, "scales": 4}, "size": 64, "batch": 256}
    )
    start = replace(EDM, steps=3000 if scale == "small" else 200_000, **wider)
    tuned = replace(
        start,
        network="Consistency",
        objective="consistency",
        learning_rate=3e-4,
        steps=steps[scale],
        ema=0.99,
    )
    return Need(tuned, Need(start))
