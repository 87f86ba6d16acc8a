"""Figure 8: on the way, images denoised in one shot; two networks' trajectories part in the middle."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from benchmarks.paper.similarity import BETA, H0, SIGMA_END, pair
from benchmarks.paper.subject import CONTOURS, COUNTS
from denoisers.evaluation import cosine_similarity
from denoisers.evaluation.spread import over_images
from denoisers.sampling import Samples, sample
from spectral.plots.style import COLOURS, INK

DRAWN = 16
LEVELS = np.geomspace(0.8, 0.08, 12)  # noise levels at which the two are compared
TOLD = (0.8, 0.25, 0.08)
SHOWN = 6
PARTING = 0.25  # the level, in the middle of the way, at which the networks are looked at


# Networks of `small` learn no 100 images by heart.
FEW: dict[Scale, tuple[int, ...]] = {"small": (10,), "gpu": (10, 100), "paper": (10, 100)}


def chosen(scale: Scale) -> tuple[int, ...]:
    """Few images, learned by heart; and the most."""
    return *FEW[scale], COUNTS[scale][-1]


def needs(scale: Scale) -> list[Need]:
    """Both networks of each."""
    return [need for n in chosen(scale) for need in pair(CONTOURS, scale, n)]


def measure(scale: Scale, networks: Networks) -> Made:
    """Centred cosines of the two networks' one-shot denoised images, by the noise level of the first."""
    rows, data, curves, strips = [], {}, {}, {}
    audits: dict[str, list[Row]] = {}
    for n in chosen(scale):
        first, second = pair(CONTOURS, scale, n)
        shape = (1, first.config.size, first.config.size)
        a, b = (
            sample(networks(need), shape, DRAWN, h0=H0, beta=BETA, sigma_end=SIGMA_END, every=2)
            for need in (first, second)
        )
        at = [(at_level(a, level), at_level(b, level)) for level in LEVELS]
        each = torch.stack([cosine_similarity(x, y, centred=True) for x, y in at])
        curves[n] = each
        strips[n] = at
        for level in TOLD:
            i = int(np.abs(LEVELS - level).argmin())
            says = "they part in the middle" if n != chosen(scale)[-1] else ""
            rows.append(Row.mean(f"centred cosine at sigma = {LEVELS[i]:.2g}, N = {n:,}", each[i], says=says))
        told = {}
        for need, network in ((first, "A"), (second, "B")):
            audits[f"{network}, N = {n:,}"], told[network] = audit(
                networks(need), CONTOURS.held_out(need), need.config.size, sigma=PARTING
            )
        data[f"n_{n}"] = {"sigmas": LEVELS.tolist(), "centred_cosine": each.tolist(), "audit": told}
    c = needs(scale)[0].config
    settings = (
        f"C^alpha images, alpha = {c.alpha:g} (the paper has faces), {c.size}x{c.size}; {DRAWN} samples from "
        f"the same noise, compared where each has come to the noise level"
    )
    return Made(rows, settings, _drawn(curves, strips), [], audits, data, _note(curves))


def _note(curves: dict[int, torch.Tensor]) -> str:
    """At which levels the networks of few images are apart from where those of the most are."""
    *few, most = curves
    together = over_images(curves[most])
    least = torch.as_tensor(together.interval(0.95)[0])
    told, parted = [], []
    for n in few:
        mean = over_images(curves[n])
        apart = (torch.as_tensor(mean.interval(0.95)[1]) < least).tolist()
        first, last = (round(float(mean.value[i]), 2) + 0.0 for i in (0, -1))
        told.append(f"{first:.2f} and {last:.2f} for N = {n:,}")
        where = f"from sigma = {LEVELS[apart.index(True)]:.2g} on" if any(apart) else "nowhere"
        parted.append(f"{where} for N = {n:,}")
    return (
        f"The mean centred cosine at sigma = {LEVELS[0]:.2g} and {LEVELS[-1]:.2g} is {', '.join(told)}; for "
        f"N = {most:,} it is {float(together.value.min()):.2f} or more all the way. Its interval lies below "
        f"that for N = {most:,} {', '.join(parted)}; the paper's two part in the middle of the way."
    )


def at_level(samples: Samples, level: float) -> torch.Tensor:
    """Of each image the frame nearest to a noise level, (B, C, H, W)."""
    assert samples.trajectory is not None
    out = []
    for i, sigmas in enumerate(samples.sigmas):
        frames = torch.tensor([f for f in samples.frames if f <= int(samples.steps[i])]) - 1
        nearest = (sigmas[frames].log() - np.log(level)).abs().nan_to_num(torch.inf).argmin()
        out.append(samples.trajectory[i, int(nearest)])
    return torch.stack(out)


def _drawn(
    curves: dict[int, torch.Tensor], strips: dict[int, list[tuple[torch.Tensor, torch.Tensor]]]
) -> Figure:
    figure = draw.canvas(10.2, 1 + 1.3 * len(strips))
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.9])
    axis = left.subplots()
    for colour, (n, each) in zip(COLOURS, curves.items(), strict=False):
        mean = over_images(each)
        low, high = (torch.as_tensor(end) for end in mean.interval(0.95))
        axis.fill_between(LEVELS, low, high, color=colour, alpha=0.18, lw=0)
        axis.semilogx(LEVELS, mean.value, "o-", ms=3.5, lw=1, color=colour, label=f"N = {n:,}")
    axis.invert_xaxis()
    axis.set_xticks([0.8, 0.4, 0.2, 0.1], ["0.8", "0.4", "0.2", "0.1"])
    axis.minorticks_off()
    draw.labelled(
        axis,
        "noise level $\\sigma$ on the way",
        "centred cosine of A's and B's images",
        "mean over samples, 95 %",
    )
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.25 * (high - low))  # room for the legend above the bands
    draw.legend(axis, "upper left")
    picked = np.linspace(0, len(LEVELS) - 1, SHOWN).round().astype(int)
    grid = right.subplots(2 * len(strips), SHOWN)
    for i, (n, at) in enumerate(strips.items()):
        for j, k in enumerate(picked):
            for half in (0, 1):
                title = f"$\\sigma$ = {LEVELS[k]:.2f}" if (i, half) == (0, 0) else ""
                draw.image(grid[2 * i + half, j], at[k][half][0], title)
        for half, name in enumerate("AB"):
            draw.row_name(grid[2 * i + half, 0], f"N = {n:,}\n{name}")
    right.suptitle("one sample on the way, denoised in one shot", fontsize=8, color=INK)
    return figure


TRAJECTORIES = PaperFigure(
    "trajectories", "figure 8", "Where the trajectories of two networks part", needs, measure
)
