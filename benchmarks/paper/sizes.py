"""Figure 15, Table 1: the train-test gap against N, for images of four sizes, networks of 1 to 4 blocks."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import BRIEF, Scale, blind
from benchmarks.paper.subject import CONTOURS, LOOKED
from denoisers.evaluation import psnr_gap
from denoisers.evaluation.spread import parts
from denoisers.networks import UNet
from spectral.plots.style import COLOURS

# Sides, each with a block more than the one before it, and numbers of training images.
SIDES: dict[Scale, tuple[int, ...]] = {"small": (8, 16, 32), "gpu": (10, 20, 40), "paper": (20, 40, 80, 160)}
COUNTS: dict[Scale, tuple[int, ...]] = {
    "small": (10, 100, 1000),
    "gpu": (100, 1000, 10_000),
    "paper": (100, 1000, 10_000, 100_000),
}
WIDTHS: dict[Scale, int] = {"small": 16, "gpu": 32, "paper": 64}
PARAMETERS = (366_080, 1_825_024, 7_659_264, 30_993_152)  # Table 1
INPUT = 20.0  # dB


def need(scale: Scale, blocks: int, images: int) -> Need:
    """The network of so many blocks on so many images of the side that goes with it."""
    return blind(
        scale,
        "calpha",
        BRIEF,
        alpha=2.0,
        images=images,
        size=SIDES[scale][blocks - 1],
        network_config={"blocks": blocks, "width": WIDTHS[scale]},
    )


def needs(scale: Scale) -> list[Need]:
    """A network for each side and N."""
    return [need(scale, b, n) for b in range(1, len(SIDES[scale]) + 1) for n in COUNTS[scale]]


def parameters(blocks: int) -> int:
    """Of the paper's network, which is built without its numbers."""
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(blocks).parameters())


def measure(scale: Scale, networks: Networks) -> Made:
    """The gap at one level, by side and N; and the parameters of the paper's networks."""
    rows, data = [], {}
    audits: dict[str, list[Row]] = {}
    figure = draw.canvas(5.2, 3.6)
    axis = figure.subplots()
    for blocks, side in enumerate(SIDES[scale], 1):
        gaps = []
        for n in COUNTS[scale]:
            each = need(scale, blocks, n)
            held = CONTOURS.held_out(each)(LOOKED, side)
            seen = CONTOURS.training(each)[np.arange(LOOKED) % n]
            found = psnr_gap(networks(each), seen, held, [10 ** (-INPUT / 20)])
            (gap,) = parts(found.difference)
            gaps.append(gap)
            text = f"train less test PSNR at {INPUT:g} dB in, {side}x{side}, N = {n:,}, dB"
            rows.append(Row.of(text, gap, says="larger for larger images"))
        most = need(scale, blocks, COUNTS[scale][-1])
        name = f"{side}x{side}, N = {most.config.images:,}"
        audits[name], audited = audit(networks(most), CONTOURS.held_out(most), side)
        values = [float(gap) for gap in gaps]
        half = [float(torch.as_tensor(gap.halfwidth())) for gap in gaps]
        style = {"fmt": "o-", "ms": 3.5, "lw": 1, "capsize": 2, "color": COLOURS[blocks - 1]}
        axis.errorbar(COUNTS[scale], values, yerr=half, label=f"{side}x{side}", **style)
        data[str(side)] = {"counts": COUNTS[scale], "gap": values, "half": half, "audit": audited}
    rows += [
        Row(f"parameters, {b} blocks of 64 channels", parameters(b), paper=paper, says=f"{paper:,}", digits=0)
        for b, paper in enumerate(PARAMETERS, 1)
    ]
    axis.set_xscale("log")
    axis.axhline(0, color="#999999", lw=0.8)
    draw.labelled(axis, "training images N", f"train less test PSNR at {INPUT:g} dB in (dB)", "bars: 95 %")
    draw.legend(axis, "upper right")
    settings = (
        f"C^alpha images, alpha = 2 (the paper has faces), {LOOKED} of each set, those of a smaller training "
        "set several times with other noise"
    )
    return Made(rows, settings, figure, [], audits, data)


SIZES = PaperFigure("sizes", "figure 15 and Table 1", "The gap by the size of images", needs, measure)
