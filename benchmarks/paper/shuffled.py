"""Figure 21: images whose pixels are in another order, the same for all."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from matplotlib.figure import FigureBase

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.generalization import left_alone
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from benchmarks.paper.subject import CONTOURS, LOOKED, Subject
from denoisers.evaluation import add_noise, psnr_curve
from denoisers.evaluation.figures import curves_on
from denoisers.images import Shuffled
from spectral.plots.style import INK

INPUTS = np.arange(0.0, 34.1, 4)
TOLD = (10.0, 20.0, 30.0)
SIGMA = 0.15  # of the image that is shown


def needs(subject: Subject, scale: Scale) -> list[Need]:
    """The same network on both."""
    return [*subject.orders(scale)]


def measure(subject: Subject, scale: Scale, networks: Networks) -> Made:
    """What order is worth, in dB, image by image on the same images."""
    both = subject.orders(scale)
    size = both[0].config.size
    levels = [*(10 ** (-INPUTS / 20)), *(10 ** (-np.array(TOLD) / 20))]
    by_place, by_order = (
        psnr_curve(networks(need), subject.held_out(need)(LOOKED, size), levels) for need in both
    )
    loss = (by_place.denoised - by_order.denoised)[len(INPUTS) :]
    rows = [
        Row.mean(f"output PSNR lost by shuffling at {p:g} dB in, dB", each, says="much worse")
        for p, each in zip(TOLD, loss, strict=True)
    ]
    audited, numbers = audit(networks(both[1]), subject.held_out(both[1]), size)
    settings = f"{LOOKED} of {subject.words(both[0])}, {size}x{size}, none of them trained on"
    data = {
        "sigmas": by_place.sigmas.tolist(),
        "in_order": by_place.denoised.tolist(),
        "shuffled": by_order.denoised.tolist(),
        "audit": numbers,
    }
    curves = {"in order": by_place, "shuffled": by_order}
    note = "".join(left_alone(curve, f"images {name}") for name, curve in curves.items()).strip()
    if subject.name:
        figure, one = draw.canvas(4.7, 3.4), draw.canvas(3.9, 3.0)
        curves_on(figure.subplots(), curves)
        _one_image(one, subject, both, networks)
        return Made(rows, settings, figure, [], {"shuffled": audited}, data, note, one)
    figure = draw.canvas(8.6, 3.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    curves_on(left.subplots(), curves)
    _one_image(right, subject, both, networks)
    return Made(rows, settings, figure, [], {"shuffled": audited}, data, note)


def _one_image(figure: FigureBase, subject: Subject, both: tuple[Need, Need], networks: Networks) -> None:
    grid = figure.subplots(2, 3)
    for row, need, text in zip(grid, both, ("in order", "shuffled,\nput back"), strict=True):
        x = subject.held_out(need)(1, need.config.size)
        y = add_noise(x, SIGMA, 0)
        with torch.no_grad():
            shown = [x, y, networks(need)(y)]
        if need.config.shuffled:
            restore = Shuffled(subject.source(both[0])).restore
            shown = [torch.from_numpy(restore(each.numpy())) for each in shown]
        names = ("clean", f"noisy, $\\sigma$ = {SIGMA:g}", "denoised")
        for column, (one, name) in enumerate(zip(shown, names, strict=True)):
            draw.image(row[column], one, "" if need.config.shuffled else name)
        draw.row_name(row[0], text)
    figure.suptitle("one image", fontsize=8, color=INK)


def of(subject: Subject) -> PaperFigure:
    """The figure on images of a kind."""
    return PaperFigure(
        "shuffled",
        "figure 21",
        "Pixels in another order",
        partial(needs, subject),
        partial(measure, subject),
        subject.name,
    )


SHUFFLED = of(CONTOURS)
