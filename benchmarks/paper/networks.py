"""The networks of the figures, at each scale: `paper` has the paper's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from benchmarks.paper.need import Need
from denoisers.training import RECIPES, TrainConfig

Scale = Literal["small", "gpu", "paper"]  # in rising order
Changes = Mapping[Scale, Mapping[str, Any]]
"""scale -> settings of that scale alone."""

# Adam's step is larger than the paper's below `paper`, which the few images seen there allow. Squared errors
# at low noise, which the paper's 10^8 images get to in the end, count for more there: of 20,000 images of
# alpha = 3 the output at 30 dB in was 30 dB without `emphasis`, 34 dB with 0.5, and at 0 dB the same.
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
# A million images.
GPU = replace(
    SMALL,
    network_config={"blocks": 2, "width": 32},
    size=40,
    batch=256,
    steps=4000,
    learning_rate=2e-3,
    warmup=200,
    ema=0.999,
    precision="bfloat16",
)
# 10^5 images are seen 1000 times, and Adam's step is halved every 100.
PAPER = TrainConfig(
    data="calpha",
    network_config={"blocks": 3, "width": 64},
    size=80,
    batch=512,
    steps=195_000,
    halvings=9,
)
BASE: dict[Scale, TrainConfig] = {"small": SMALL, "gpu": GPU, "paper": PAPER}

# Of finite sets, as many networks: 12,800 and 768,000 images, by the paper's law of noise and its loss.
LAW: dict[str, Any] = {"noise": "squared", "sigma_min": 0.001, "emphasis": 0.0}
BRIEF: Changes = {"small": {**LAW, "steps": 800}, "gpu": {**LAW, "steps": 3000}}
# 20 is the least side of the paper's figure 15, so that networks are those of `sizes` too.
FINITE_SIDES: Changes = {"small": {"size": 16}, "gpu": {"size": 20}}


def blind(scale: Scale, data: str, at: Changes | None = None, **changed: Any) -> Need:
    """The bias-free UNet on images of a kind; with settings `at` one scale alone, which go first."""
    return Need(replace(BASE[scale], **{"data": data, **changed, **(at or {}).get(scale, {})}))


def sharper(scale: Scale, need: Need, emphasis: float, steps: int = 7000) -> Need:
    """The same, low noise counting for yet more; as it is at `paper`.

    Of smooth images the optimum falls faster with the noise, as sigma^(2 alpha / (alpha + 1)). At `small` it
    counts so for so many more steps from there, at `gpu` from the first step on.
    """
    if scale == "paper":
        return need
    if scale == "gpu":
        # bfloat16 rounds the output of a network of disks by 0.0016 (rms), where at sigma = 0.02 the optimum
        # for 40x40 errs by 0.0011; TF32, which is torch's float32 in a GPU's convolutions, by 0.00012.
        return Need(replace(need.config, emphasis=emphasis, precision="float32"))
    return Need(replace(need.config, steps=steps, learning_rate=4e-3, emphasis=emphasis), need)


def short_of_paper(need: Need) -> str:
    """What a UNet has less of than the paper's, in a sentence; "" where it has no less."""
    c, full = need.config, BASE["paper"]
    seen = c.batch * c.steps + (need.start.config.batch * need.start.config.steps if need.start else 0)
    if seen >= full.batch * full.steps:
        return ""
    has, its = ({"blocks": 3, "width": 64} | (each.network_config or {}) for each in (c, full))
    return (
        f"{has['blocks']} blocks from {has['width']} channels on saw {seen:,} images, in the paper "
        f"{its['blocks']} from {its['width']} on {full.batch * full.steps:,}; to which of the two the "
        "rest is due was not tried."
    )


def finite(scale: Scale, images: int, half: Literal["first", "second"] = "first") -> Need:
    """The bias-free UNet on so many C^alpha images, alpha = 2, again and again: one of two disjoint sets."""
    at = {side: {**BRIEF[side], **FINITE_SIDES[side]} for side in BRIEF}
    return blind(scale, "calpha", at, alpha=2.0, images=images, half=half)


# In float32: what is compared in consistency tuning comes within 0.4 % of one another.
EDM = replace(RECIPES["edm"], alpha=3.0)
EDM_AT: Changes = {
    "small": {"network_config": {"width": 24, "scales": 3}, "batch": 16, "steps": 3000},
    "gpu": {"network_config": {"width": 32, "scales": 3}, "batch": 128, "steps": 2000},
    "paper": {"network_config": {"width": 64, "scales": 4}, "size": 64, "batch": 256, "steps": 200_000},
}
TUNED: dict[Scale, int] = {"small": 300, "gpu": 1000, "paper": 100_000}


def consistency(scale: Scale) -> Need:
    """A consistency function, tuned from a denoiser that is told the level."""
    start = replace(EDM, **EDM_AT[scale])
    tuned = replace(
        start,
        network="Consistency",
        objective="consistency",
        learning_rate=3e-4,
        steps=TUNED[scale],
        ema=0.99,
    )
    return Need(tuned, Need(start))
