"""Figures 1, 9, 11: output PSNR of training and of held-out images, by the number N of training images."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from benchmarks.paper.subject import CONTOURS, LOOKED, Subject
from denoisers.evaluation import PSNRCurve, PSNRGap, psnr_gap
from denoisers.evaluation.figures import curves_on
from denoisers.evaluation.spread import parts
from spectral.plots.style import INK

INPUTS = np.arange(0.0, 34.1, 4)
TOLD = (10.0, 20.0)


def needs(subject: Subject, scale: Scale) -> list[Need]:
    """A network for each N, on the first of the two disjoint sets."""
    return [subject.finite(scale, n) for n in subject.counts(scale)]


def measure(subject: Subject, scale: Scale, networks: Networks) -> Made:
    """The gap between training and held-out images at each N and level, with Welch's intervals."""
    levels = [*(10 ** (-INPUTS / 20)), *(10 ** (-np.array(TOLD) / 20))]
    gaps: dict[int, PSNRGap] = {}
    rows: list[Row] = []
    audits: dict[str, list[Row]] = {}
    data = {}
    wanted = needs(subject, scale)
    for need in wanted:
        c = need.config
        seen = subject.training(need)[np.arange(LOOKED) % c.images]
        unseen = subject.held_out(need)
        model = networks(need)
        gap = gaps[c.images] = psnr_gap(model, seen, unseen(LOOKED, c.size), levels)
        last = need is wanted[-1]
        for p, each in zip(TOLD, parts(gap.difference)[len(INPUTS) :], strict=True):
            says = ("0" if scale == "paper" else "0 at N = 10^5") if last else "falls as N grows"
            paper = 0.0 if last and scale == "paper" else None
            rows.append(
                Row.of(f"train less test PSNR at {p:g} dB in, N = {c.images:,}, dB", each, paper, says)
            )
        audits[f"N = {c.images:,}"], audited = audit(model, unseen, c.size)
        data[f"n_{c.images}"] = {
            "sigmas": gap.training.sigmas.tolist(),
            "training": gap.training.denoised.tolist(),
            "held_out": gap.held_out.denoised.tolist(),
            "audit": audited,
        }
    c = wanted[0].config
    settings = (
        f"{subject.words(wanted[0])}, {c.size}x{c.size}; "
        f"{LOOKED} of each set, those of a smaller training set several times with other noise; all networks "
        f"are shown {c.batch * c.steps:,} images"
    )
    return Made(rows, settings, _drawn(gaps), [], audits, data, _note(subject, gaps))


def _note(subject: Subject, gaps: dict[int, PSNRGap]) -> str:
    """From which N on a network does as well on images that it has not seen."""
    apart = {n: parts(gap.difference)[len(INPUTS) :] for n, gap in gaps.items()}
    even = [n for n, each in apart.items() if all(abs(float(g)) <= float(g.halfwidth()) for g in each)]
    at = " and ".join(f"{p:g}" for p in TOLD)
    most = max(gaps)
    alone = left_alone(gaps[most].held_out, f"held-out images of the network of N = {most:,}")
    if not even:
        return f"At {at} dB in training images do better than held-out ones at every N.{alone}"
    return (
        f"At {at} dB in the gap is within its interval from N = {min(even):,} on, where the paper's networks "
        "need 10^5: theirs are faces and bedrooms of 80x80, these smaller images"
        + ("." if subject.name else " of one kind.")
        + alone
    )


def left_alone(curve: PSNRCurve, images: str) -> str:
    """From which input PSNR on images are worse denoised than not, in a sentence; "" where nowhere."""
    noisy, denoised = curve.noisy.mean(1), curve.denoised.mean(1)
    worse = noisy[denoised < noisy]
    if not len(worse):
        return ""
    return f" From {float(worse.min()):.0f} dB in on {images} come out worse than they went in."


def _drawn(gaps: dict[int, PSNRGap]) -> Figure:
    figure = draw.canvas(9.0, 3.5)
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, name, title in ((left, "training", "training images"), (right, "held_out", "held-out images")):
        curves_on(axis, {f"N = {n:,}": getattr(gap, name) for n, gap in gaps.items()})
        axis.set_title(title, fontsize=8, color=INK, loc="left")
    right.set_ylabel("")
    right.get_legend().remove()  # the lines are those on the left
    return figure


def of(subject: Subject) -> PaperFigure:
    """The figure on images of a kind."""
    return PaperFigure(
        "generalization",
        "figures 1, 9 and 11",
        "Training and held-out PSNR by the number of images",
        partial(needs, subject),
        partial(measure, subject),
        subject.name,
    )


GENERALIZATION = of(CONTOURS)
