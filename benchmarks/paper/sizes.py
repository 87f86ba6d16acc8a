"""Figure 15, Table 1: the train-test gap against N, for images of four sizes, networks of 1 to 4 blocks."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.generalization import LOOKED, SEED, held_out, training
from benchmarks.paper.need import Need
from benchmarks.paper.networks import BRIEF, Scale, blind
from denoisers.evaluation import psnr_gap
from denoisers.evaluation.spread import parts
from denoisers.images.calpha import CAlpha
from spectral.plots.style import COLOURS

# Sides, each with a block more than the one before it, and numbers of training images.
SIDES: dict[Scale, tuple[int, ...]] = {"small": (8, 16, 32), "paper": (20, 40, 80, 160)}
COUNTS: dict[Scale, tuple[int, ...]] = {"small": (10, 100, 1000), "paper": (100, 1000, 10_000, 100_000)}
PARAMETERS = (366_080, 1_825_024, 7_659_264, 30_993_152)  # Table 1
INPUT = 20.0  # dB


def need(scale: Scale, blocks: int, images: int) -> Need:
    """The network of so many blocks on so many images of the side that goes with it."""
    width = {"small": 16, "paper": 64}[scale]
    return blind(
        scale,
        "calpha",
        BRIEF,
        alpha=2.0,
        images=images,
        size=SIDES[scale][blocks - 1],
        network_config={"blocks": blocks, "width": width},
    )


def needs(scale: Scale) -> list[Need]:
    """A network for each side and N."""
    return [need(scale, b, n) for b in range(1, len(SIDES[scale]) + 1) for n in COUNTS[scale]]


def measure(scale: Scale, networks: Networks) -> Made:
    """The gap at one level, by side and N; and the parameters of the networks."""
    rows, data = [], {}
    audits: dict[str, list[Row]] = {}
    figure = draw.canvas(5.2, 3.6)
    axis = figure.subplots()
    for blocks, side in enumerate(SIDES[scale], 1):
        gaps = []
        for n in COUNTS[scale]:
            each = need(scale, blocks, n)
            held = CAlpha(side, each.config.alpha)(LOOKED, seed=SEED)
            seen = training(each)[np.arange(LOOKED) % n]
            found = psnr_gap(networks(each), seen, held, [10 ** (-INPUT / 20)])
            (gap,) = parts(found.difference)
            gaps.append(gap)
            text = f"train less test PSNR at {INPUT:g} dB in, {side}x{side}, N = {n:,}, dB"
            rows.append(Row.of(text, gap, says="larger for larger images"))
        most = need(scale, blocks, COUNTS[scale][-1])
        model = networks(most)
        audits[f"{side}x{side}, N = {COUNTS[scale][-1]:,}"], audited = audit(model, held_out(most), side)
        parameters = sum(p.numel() for p in model.parameters())
        paper = float(PARAMETERS[blocks - 1]) if scale == "paper" else None
        says = f"{PARAMETERS[blocks - 1]:,} (64 channels)"
        rows.append(Row(f"parameters, {blocks} blocks", parameters, paper=paper, says=says, digits=0))
        values = [float(gap) for gap in gaps]
        half = [float(torch.as_tensor(gap.halfwidth())) for gap in gaps]
        style = {"fmt": "o-", "ms": 3.5, "lw": 1, "capsize": 2, "color": COLOURS[blocks - 1]}
        axis.errorbar(COUNTS[scale], values, yerr=half, label=f"{side}x{side}", **style)
        data[str(side)] = {"counts": COUNTS[scale], "gap": values, "half": half, "audit": audited}
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
