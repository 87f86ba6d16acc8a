"""Figure 21: images whose pixels are in another order, the same for all."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale, blind, sharper
from denoisers.evaluation import add_noise, psnr_curve
from denoisers.evaluation.figures import curves_on
from denoisers.evaluation.spread import over_images
from denoisers.images import Shuffled
from denoisers.images.calpha import CAlpha
from spectral.plots.style import INK

ALPHA = 3.0
EMPHASIS = 1.25
INPUTS = np.arange(0.0, 34.1, 4)
TOLD = (10.0, 20.0, 30.0)
SEED = 7


def needs(scale: Scale) -> list[Need]:
    """The same network on both."""
    both = [blind(scale, "calpha", alpha=ALPHA, shuffled=shuffled) for shuffled in (False, True)]
    # The first is then that of the slopes.
    return [sharper(scale, need, EMPHASIS) for need in both] if scale == "gpu" else both


def measure(scale: Scale, networks: Networks) -> Made:
    """What order is worth, in dB, image by image on the same images."""
    plain, shuffled = needs(scale)
    size = plain.config.size
    source = CAlpha(size, ALPHA)
    moved = Shuffled(source)
    clean = torch.from_numpy(source(128, seed=SEED))
    levels = [*(10 ** (-INPUTS / 20)), *(10 ** (-np.array(TOLD) / 20))]
    by_place = psnr_curve(networks(plain), clean, levels)
    by_order = psnr_curve(networks(shuffled), torch.from_numpy(moved(128, seed=SEED)), levels)
    loss = (by_place.denoised - by_order.denoised)[len(INPUTS) :]
    rows = [
        Row.of(f"output PSNR lost by shuffling at {p:g} dB in, dB", over_images(each), says="much worse")
        for p, each in zip(TOLD, loss, strict=True)
    ]

    def images(n: int, side: int) -> torch.Tensor:
        return torch.from_numpy(Shuffled(CAlpha(side, ALPHA))(n, seed=SEED))

    rows_of_audit, audited = audit(networks(shuffled), images, size)
    figure = draw.canvas(8.6, 3.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    axis = left.subplots()
    curves_on(axis, {"in order": by_place, "shuffled": by_order})
    grid = right.subplots(2, 3)
    sigma = 0.15
    for row, need, text in zip(grid, (plain, shuffled), ("in order", "shuffled,\nput back"), strict=True):
        x = clean[:1] if need is plain else torch.from_numpy(moved(1, seed=SEED))
        y = add_noise(x, sigma, 0)
        with torch.no_grad():
            shown = [x, y, networks(need)(y)]
        if need is shuffled:
            shown = [torch.from_numpy(moved.restore(each.numpy())) for each in shown]
        names = ("clean", f"noisy, $\\sigma$ = {sigma:g}", "denoised")
        for column, (one, name) in enumerate(zip(shown, names, strict=True)):
            draw.image(row[column], one, name if need is plain else "")
        draw.row_name(row[0], text)
    right.suptitle("one image", fontsize=8, color=INK)
    what = f"C^alpha images (alpha = {ALPHA:g}; the paper has faces)"
    settings = f"128 {what} of {size}x{size}, none of them trained on"
    data = {
        "sigmas": by_place.sigmas.tolist(),
        "in_order": by_place.denoised.tolist(),
        "shuffled": by_order.denoised.tolist(),
        "audit": audited,
    }
    return Made(rows, settings, figure, [], {"shuffled": rows_of_audit}, data)


SHUFFLED = PaperFigure("shuffled", "figure 21", "Pixels in another order", needs, measure)
