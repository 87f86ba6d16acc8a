"""The report's figure 9: images drawn in one step from noise to which a wave is added, at the same norm."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

import spectral
from benchmarks.paper import draw
from benchmarks.paper.consistency import needs
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.networks import Scale
from denoisers.evaluation.spread import over_images
from denoisers.networks import Denoiser
from spectral.plots.style import BLUE, INK

SIGMA = 10.0  # level of the noise that images are drawn from, far above theirs
SHARE = 0.2  # of |z|, the size of the wave
FREQUENCIES = (1, 2, 3, 4, 6, 8, 12)
COUNT = 32
LOOKED = 4  # noises at which the Jacobian is looked at
SHOWN = (1, 2, 4, 8)


def wave(size: int, n: int, m: int) -> Tensor:
    """sin(2 pi n x / d) sin(2 pi m y / d), of norm 1, (1, 1, d, d)."""
    x = torch.arange(size) / size
    product = torch.outer((2 * math.pi * n * x).sin(), (2 * math.pi * m * x).sin())
    return (product / product.norm())[None, None]


def perturbed(z: Tensor, direction: Tensor, share: float = SHARE) -> Tensor:
    """(z + share |z| w) |z| / |z + share |z| w|, each z of (N, 1, d, d) by itself; w of norm 1."""
    norm = z.flatten(1).norm(dim=1)[:, None, None, None]
    moved = z + share * norm * direction
    return moved * norm / moved.flatten(1).norm(dim=1)[:, None, None, None]


def left_out(model: Denoiser, z: Tensor, spread: Tensor) -> list[Row]:
    """What the report leaves out: is it the wave, is it the Jacobian, and is the Jacobian's top certified.

    The move by noise in another direction at random; J (y' - y) beside f(y') - f(y) at y = sigma z, for the
    wave n = m = 1; its gain |J w| / |w| beside sigma_1; |J - J'| / |J|.
    """
    told, size = {"sigma": SIGMA}, z.shape[-1]
    rng = torch.Generator().manual_seed(1)
    other = torch.randn(z.shape, generator=rng)
    other /= other.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        before = model(SIGMA * z, **told)
        moved = (model(SIGMA * perturbed(z, other), **told) - before).flatten(1).norm(dim=1) / spread
        after = model(SIGMA * perturbed(z, wave(size, 1, 1)), **told)
    missed, gains, tops, asymmetries, complete = [], [], [], [], []
    for i in range(LOOKED):
        y = SIGMA * z[i : i + 1]
        J = spectral.jacobian(model, y, model_kwargs=told)
        triplets = spectral.top_svd(J, k=3, tol=1e-3)
        step = (SIGMA * perturbed(z[i : i + 1], wave(size, 1, 1)) - y).flatten()
        change = (after[i] - before[i]).flatten()
        missed.append(float((change - J @ step).norm() / change.norm()))
        gains.append(float((J @ wave(size, 1, 1).flatten()).norm()))
        tops.append(float(triplets.values[0]))
        asymmetries.append(float(spectral.asymmetry(J, products=200)))
        complete.append(float(bool(triplets.complete)))
    at = f"at {LOOKED} of the noises, sigma = {SIGMA:g}"
    return [
        Row.mean("|f(z') - f(z)| over the mean distance of two images, a direction at random", moved),
        Row.mean(f"|f(y') - f(y) - J (y' - y)| / |f(y') - f(y)|, n = m = 1, {at}", missed),
        Row.mean(f"|J w| of the wave, n = m = 1, {at}", gains),
        Row.mean(f"sigma_1, {at}", tops),
        Row.mean(f"|J - J'| / |J|, {at}", asymmetries),
        Row.mean(f"solves whose certificate says complete, share, {at}", complete),
    ]


def measure(scale: Scale, networks: Networks) -> Made:
    """How far the image moves, over how far the noise does, by the wave's frequency."""
    need = needs(scale)[0]
    model, size = networks(need), need.config.size
    z = torch.randn((COUNT, 1, size, size), generator=torch.Generator().manual_seed(0))
    rows, data, moves, shown = [], {}, {}, {}
    with torch.no_grad():
        drawn = model(SIGMA * z, sigma=SIGMA)
        spread = (drawn[1:] - drawn[:-1]).flatten(1).norm(dim=1)
        for n in FREQUENCIES:
            if 2 * n >= size:
                continue
            other = perturbed(z, wave(size, n, n))
            after = model(SIGMA * other, sigma=SIGMA)
            moves[n] = (after - drawn).flatten(1).norm(dim=1) / spread.mean()
            shown[n] = after[:SHOWN_IMAGES]
            data[str(n)] = moves[n].tolist()
    for n in (1, 2, 4, 12):
        if n in moves:
            says = "outputs move between images" if n == 1 else ""
            text = f"|f(z') - f(z)| over the mean distance of two images, n = m = {n}"
            rows.append(Row.mean(text, moves[n], says=says))
    settings = (
        f"one-step images f(sigma z, sigma), sigma = {SIGMA:g}, of {COUNT} noises; waves of "
        f"{SHARE:g} |z|, then rescaled to |z|; C^alpha images, alpha = {need.config.alpha:g}, "
        f"{size}x{size} (the report has photographs)"
    )
    beside = left_out(model, z, spread.mean())
    return Made(rows, settings, _drawn(moves, drawn, shown), beside, data=data)


SHOWN_IMAGES = 4


def _drawn(moves: dict[int, Tensor], drawn: Tensor, shown: dict[int, Tensor]) -> Figure:
    figure = draw.canvas(9.0, 3.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1.5])
    axis = left.subplots()
    mean = over_images(torch.stack(list(moves.values())))
    axis.errorbar(
        list(moves),
        mean.value,
        yerr=torch.as_tensor(mean.halfwidth()),
        fmt="o-",
        ms=3.5,
        lw=1,
        capsize=2,
        color=BLUE,
    )
    axis.set_ylim(0, None)
    draw.labelled(
        axis,
        "periods a side of the wave, n = m",
        "distance the image moves\n(1: two images of other noise)",
        "mean over noises, 95 %",
    )
    kept = [n for n in SHOWN if n in shown]
    grid = right.subplots(SHOWN_IMAGES, len(kept) + 1)
    for i in range(SHOWN_IMAGES):
        draw.image(grid[i, 0], drawn[i], "from z" if i == 0 else "")
        for j, n in enumerate(kept):
            draw.image(grid[i, j + 1], shown[n][i], f"n = m = {n}" if i == 0 else "")
    right.suptitle("images drawn in one step; a row is one noise", fontsize=8, color=INK)
    return figure


PERTURBED = PaperFigure(
    "perturbed", "the report's figure 9", "Images from noise with a wave in it", needs, measure
)
