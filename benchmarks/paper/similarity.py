"""Figures 2, 6, 10, 12 to 14: two networks on disjoint sets draw from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import FigureBase

from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from benchmarks.paper.subject import CONTOURS, Subject
from denoisers.evaluation import Comparison, compare, nearest
from denoisers.evaluation.spread import over_images
from spectral.plots.style import BLUE, INK, ORANGE, STYLE

SHOWN = 2  # samples of each N
H0, BETA, SIGMA_END = (
    0.01,
    0.1,
    0.05,
)  # sigma_end and the first step as in the paper; the step grows as in its code


def pair(subject: Subject, scale: Scale, images: int) -> tuple[Need, Need]:
    """Networks A and B on the first and the second of two disjoint sets."""
    return subject.finite(scale, images, "first"), subject.finite(scale, images, "second")


def needs(subject: Subject, scale: Scale) -> list[Need]:
    """Both networks for each N."""
    return [need for n in subject.counts(scale) for need in pair(subject, scale, n)]


def measure(subject: Subject, scale: Scale, networks: Networks) -> Made:
    """Cosines between samples of A and B, and of samples to the nearest training images; centred ones too."""
    rows, beside = [], []
    audits: dict[str, list[Row]] = {}
    data, found = {}, {}
    count = subject.drawn[scale]
    for n in subject.counts(scale):
        first, second = pair(subject, scale, n)
        a, b = subject.training(first), subject.training(second)
        draw_both = partial(compare, h0=H0, beta=BETA, sigma_end=SIGMA_END, count=count)
        both = found[n] = draw_both(networks(first), networks(second), a, b)
        apart = {
            centred: nearest(torch.from_numpy(a[:200]), b, centred=centred).similarity
            for centred in (False, True)
        }
        for centred in (True, False):
            values = both.similarities(centred)
            own = torch.cat([values["first"], values["second"]])
            kind = "centred cosine" if centred else "cosine"
            into = beside if centred else rows
            says = ("to 1 as N grows", "from 1 as N grows") if not centred else ("", "")
            into += [
                Row.mean(
                    f"{kind} of the two networks' samples, N = {n:,}",
                    values["between"],
                    says=says[0],
                ),
                Row.mean(
                    f"{kind} of samples to the nearest training image, N = {n:,}",
                    own,
                    says=says[1],
                ),
                Row.mean(
                    f"{kind} of images of S1 to the nearest of S2 (figure 6), N = {n:,}",
                    apart[centred],
                ),
            ]
        beside.append(
            Row(
                f"samples that came to sigma = {SIGMA_END:g}, share, N = {n:,}",
                float(torch.cat([both.first.converged, both.second.converged]).double().mean()),
                digits=2,
            )
        )
        # Network A of each N is looked at in figure 1.
        audits[f"B, N = {n:,}"], audited = audit(
            networks(second), subject.held_out(second), second.config.size
        )
        data[f"n_{n}"] = {
            name: {key: value.tolist() for key, value in both.similarities(centred).items()}
            | {"sets": apart[centred].tolist()}
            for name, centred in (("cosine", False), ("centred", True))
        } | {"audit": audited}
    settings = (
        f"{subject.words(first)}, {first.config.size}x{first.config.size}; "
        f"{count} samples of each network, h0 = {H0:g} growing, beta = {BETA:g}, "
        f"down to sigma = {SIGMA_END:g}"
    )
    figure = draw.canvas(11.4, 3.7)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.5])
    _dots(left, data)
    if not subject.name:
        _samples(right, found)
        return Made(rows, settings, figure, beside, audits, data, _note(found))
    _histograms(right, data)
    shown = draw.canvas(8.1, 3.7)
    _samples(shown, found)
    return Made(rows, settings, figure, beside, audits, data, _note(found), shown)


def _note(found: dict[int, Comparison]) -> str:
    """From which N on the two networks draw nearer to one another than to what they were trained on."""
    means = {}
    for n, both in found.items():
        values = both.similarities(True)
        own = torch.cat([values["first"], values["second"]])
        means[n] = over_images(values["between"]), over_images(own)
    nearer = [
        n for n, (between, own) in means.items() if float(between.interval()[0]) > float(own.interval()[1])
    ]
    if not nearer:
        return "At no N are the two networks' samples nearer to one another than to the training images."
    n = min(nearer)
    between, own = (float(mean) for mean in means[n])
    return (
        f"By their centred cosines the samples of the two networks are nearer to one another than to the "
        f"nearest training image from N = {n:,} on ({between:.2f} and {own:.2f}), where the paper's "
        "networks, on faces and bedrooms of 80x80, need 10^5."
    )


GROUPS = (
    ("between", "the two networks", BLUE),
    ("own", "nearest training image", ORANGE),
    ("sets", "S1 to S2", "#999999"),
)
TWO = ("between", "own")  # that cross
KINDS = {"cosine": "cosine similarity", "centred": "centred cosine"}


def _values(told: Mapping[str, list[float]], key: str) -> np.ndarray:
    return np.array(told["first"] + told["second"] if key == "own" else told[key])


def _dots(figure: FigureBase, data: dict[str, Any]) -> None:
    """Each similarity, and the means, by N."""
    axes = figure.subplots(2, 1, sharex=True)
    rng = np.random.default_rng(0)
    for axis, (kind, words) in zip(axes, KINDS.items(), strict=True):
        for j, (key, label, colour) in enumerate(GROUPS):
            means = []
            for i, told in enumerate(data.values()):
                values = _values(told[kind], key)
                x = i + 0.22 * (j - 1)
                axis.plot(
                    x + 0.05 * rng.standard_normal(len(values)), values, ".", ms=2, alpha=0.4, color=colour
                )
                means.append((x, values.mean()))
            axis.plot(*zip(*means, strict=True), "o-", ms=4, lw=1, color=colour, label=label)
        draw.labelled(axis, "", words)
    axes[1].set_xticks(range(len(data)), [f"{_number(name):,}" for name in data])
    axes[1].set_xlabel("training images N", **STYLE)
    draw.legend(axes[1], "lower right")


def _histograms(figure: FigureBase, data: dict[str, Any]) -> None:
    """Of the same similarities, one of both kinds for each N, as the paper's figure 2 has them."""
    grid = figure.subplots(2, len(data), sharex="row", squeeze=False)
    for row, (kind, words) in zip(grid, KINDS.items(), strict=True):
        everything = np.concatenate([_values(told[kind], key) for told in data.values() for key in TWO])
        bins = np.linspace(float(everything.min()), 1, 31)
        for axis, (name, told) in zip(row, data.items(), strict=True):
            for key, label, colour in GROUPS[: len(TWO)]:
                values = _values(told[kind], key)
                share = np.full(len(values), 1 / len(values))
                axis.hist(values, bins, weights=share, color=colour, alpha=0.6, label=label)
            top = f"N = {_number(name):,}" if kind == "cosine" else ""
            draw.labelled(axis, words, "share of samples" if axis is row[0] else "", top)
    draw.legend(grid[1, 0], "upper left")


def _samples(figure: FigureBase, found: dict[int, Comparison]) -> None:
    """Some samples of each N between their nearest training images."""
    names = ("nearest to A", "drawn by A", "drawn by B", "nearest to B")
    grid = figure.subplots(4, SHOWN * len(found))
    for i, (n, both) in enumerate(found.items()):
        near = both.neighbours(True)
        rows = (near[0].images, both.first.images, both.second.images, near[1].images)
        for j in range(SHOWN):
            for row, images in zip(grid, rows, strict=True):
                draw.image(row[i * SHOWN + j], images[j])
        grid[0, i * SHOWN].set_title(f"N = {n:,}", fontsize=8, color=INK, loc="left")
    for row, name in zip(grid, names, strict=True):
        draw.row_name(row[0], name)


def _number(name: str) -> int:
    return int(name.removeprefix("n_"))


def of(subject: Subject) -> PaperFigure:
    """The figure on images of a kind."""
    return PaperFigure(
        "similarity",
        "figures 2, 6, 10 and 12 to 14",
        "Two networks on disjoint sets, from the same noise",
        partial(needs, subject),
        partial(measure, subject),
        subject.name,
    )


SIMILARITY = of(CONTOURS)
