"""Figures 4, 16, 17, 18: PSNR slopes and bases of C^alpha images, and contour and background apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import spectral
from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Changes, Scale, blind, sharper, short_of_paper
from benchmarks.theory import gaussian
from denoisers.evaluation import PSNRCurve, add_noise, psnr_curve
from denoisers.evaluation.figures import curves_on
from denoisers.images.calpha import CAlpha
from spectral.kernels.calpha import synthesize
from spectral.plots.style import COLOURS, INK

INPUTS = np.arange(0.0, 34.1, 2)  # dB, as in docs/theory
WINDOW = (float(INPUTS[0]), float(INPUTS[-1]))
LOW = (0.0, 20.0)  # the part of it where the noise is high
REFERENCES: dict[Scale, int] = {"small": 64, "gpu": 32, "paper": 16}  # images of the Gaussian reference
SIGMA = 0.15  # of the bases
K = 7  # eigenvectors shown
FAR = 20  # eigenvalues whose decay is told
LOOKED = 8  # images whose spectra are
SEED = 7  # of images that no network is trained on


@dataclass(frozen=True)
class Kind:
    """One kind of images.

    alpha, beta: exponents of the contour and of the backgrounds (0: alpha).
    slope: the paper's.
    emphasis: that of `sharper`, 0 for none.
    """

    alpha: float
    beta: float = 0.0
    slope: float | None = None
    emphasis: float = 0.0

    @property
    def name(self) -> str:
        """For the figure."""
        ground = f", background {self.beta:g}" if self.beta else ""
        return f"alpha = {self.alpha:g}{ground}"

    def need(self, scale: Scale) -> Need:
        """The network that learned these images."""
        brief: Changes = {"small": {"steps": 2000}, "gpu": {"steps": 4000}} if self.beta else {}
        need = blind(scale, "calpha", brief, alpha=self.alpha, beta=self.beta)
        return sharper(scale, need, self.emphasis) if self.emphasis else need

    def images(self, n: int, size: int) -> torch.Tensor:
        """Images that it was not trained on."""
        return torch.from_numpy(CAlpha(size, self.alpha, self.beta or None)(n, seed=SEED))

    def exact(self, n: int, size: int) -> torch.Tensor:
        """Images of the corrected generator, whose contour and backgrounds have the exponents themselves."""
        made = synthesize(n, size=size, alpha=self.alpha, beta=self.beta or None, kind="exact", seed=SEED)
        return torch.from_numpy(made).unsqueeze(1)

    def reference(self, n: int, size: int) -> PSNRCurve | None:
        """The posterior of Gaussian regions whose contour is known but for its place, at this size.

        None where the backgrounds' exponent is another than the contour's: there it is not made.
        """
        if self.beta:
            return None
        sigmas = 10 ** (-INPUTS / 20)
        risks = [
            gaussian.risk(e, sigmas) for e in gaussian.spectra(n, size=size, alpha=self.alpha, seed=SEED)
        ]
        denoised = -10 * torch.from_numpy(np.stack(risks, 1) / size**2).log10()
        noisy = torch.from_numpy(np.repeat(INPUTS[:, None], n, 1))
        return PSNRCurve(torch.from_numpy(sigmas), noisy, denoised)


ALPHAS = (
    Kind(1, slope=0.46),
    Kind(2, slope=0.61),
    Kind(3, slope=0.75, emphasis=1.25),
    Kind(5, slope=0.83, emphasis=1.5),
)
CONTOURS = (Kind(1.5, 8), Kind(2, 8), Kind(4, 8))


def covered(vectors: torch.Tensor) -> torch.Tensor:
    """Mean of 1 / (d sum e^4) over vectors e of norm 1, (K, ...): 1 where constant, 1/d of a pixel."""
    each = vectors.double().flatten(1)
    return (1 / (each.shape[1] * each.pow(4).sum(1))).mean()


@dataclass(frozen=True)
class Slopes:
    """A figure of several kinds of images."""

    kinds: tuple[Kind, ...]

    def needs(self, scale: Scale) -> list[Need]:
        """A network for each kind."""
        return [kind.need(scale) for kind in self.kinds]

    def measure(self, scale: Scale, networks: Networks) -> Made:
        """Slopes beside the paper's and beside alpha / (alpha + 1); bases at an image of each kind."""
        size = self.kinds[0].need(scale).config.size
        rows: list[Row] = []
        beside: list[Row] = []
        curves: dict[str, PSNRCurve] = {}
        bases, data = [], {}
        audits: dict[str, list[Row]] = {}
        references: dict[str, PSNRCurve] = {}
        whole, low = (f"input PSNR {a:g} to {b:g} dB" for a, b in (WINDOW, LOW))
        for kind in self.kinds:
            need = kind.need(scale)
            model = networks(need)
            curve = psnr_curve(model, kind.images(128, size), 10 ** (-INPUTS / 20))
            curves[kind.name] = curve
            limit = kind.alpha / (kind.alpha + 1)
            says = f"{kind.slope:g} (alpha / (alpha + 1) = {limit:.2f})" if kind.slope else "rises with alpha"
            rows += [
                Row.of(f"slope, {kind.name}, {text}", curve.slope(*window), kind.slope, says)
                for text, window in ((whole, WINDOW), (low, LOW))
            ]
            clean = kind.images(LOOKED, size)
            noisy = add_noise(clean, SIGMA, 0)
            found = [spectral.top_eigs(model, y[None], FAR, tol=1e-3) for y in noisy]
            bases.append((kind, clean[0], noisy[0], found[0]))
            values = torch.stack([pairs.values for pairs in found])
            spread = torch.stack([covered(pairs.vectors[:K]) for pairs in found])
            at = f"{kind.name}, sigma = {SIGMA:g}"
            rows += [
                Row.mean(
                    f"lambda_{FAR} / lambda_1, {at}",
                    values[:, -1] / values[:, 0],
                    says="falls as alpha grows",
                ),
                Row.mean(
                    f"share of the pixels that e_1, ..., e_{K} cover, {at}",
                    spread,
                    says="rises with alpha",
                ),
            ]
            beside.append(
                Row(
                    f"root mean square distance of the curve to its line, {kind.name}, {whole}, dB",
                    curve.misfit(*WINDOW),
                    digits=2,
                )
            )
            corrected = psnr_curve(model, kind.exact(128, size), 10 ** (-INPUTS / 20))
            beside.append(
                Row.of(
                    f"slope on images of the `exact` generator, {kind.name}, {whole}",
                    corrected.slope(*WINDOW),
                )
            )
            if need.start:
                c = need.start.config
                before = psnr_curve(networks(need.start), kind.images(128, size), 10 ** (-INPUTS / 20))
                text = f"slope after {c.batch * c.steps:,} images, {kind.name}, {whole}"
                beside.append(Row.of(text, before.slope(*WINDOW)))
            reference = kind.reference(REFERENCES[scale], size)
            if reference is not None:
                references[kind.name] = reference
                beside += [
                    Row.of(f"slope of the Gaussian reference, {kind.name}, {text}", reference.slope(*window))
                    for text, window in ((whole, WINDOW), (low, LOW))
                ]
            audits[kind.name], audited = audit(model, kind.images, size)
            data[kind.name] = {
                "sigmas": curve.sigmas.tolist(),
                "input_psnr": curve.noisy.mean(1).tolist(),
                "output_psnr_each": curve.denoised.tolist(),
                "reference": reference and reference.mean().value.tolist(),
                "output_psnr_exact": corrected.mean().value.tolist(),
                "values": values.tolist(),
                "covered": spread.tolist(),
                "audit": audited,
            }
        settings = (
            f"128 images of {size}x{size} of each kind, `released` generator, none of them trained on; "
            f"slopes by least squares for each image, {whole} (the paper's are at 80x80), those on `exact` "
            "images by the networks of the `released` ones; "
            f"bases of {LOOKED} images at sigma = {SIGMA:g}, those of the first drawn"
        )
        if references:
            settings += (
                f"; Gaussian reference: mean over {REFERENCES[scale]} of the images, the posterior of a "
                "denoiser that knows the contour but for its rows' places"
            )
        drawn = self._draw(curves, references, bases)
        return Made(rows, settings, drawn, beside, audits, data, self._note(scale, curves, references))

    def _note(self, scale: Scale, curves: dict[str, PSNRCurve], references: dict[str, PSNRCurve]) -> str:
        """How far slopes lie from the paper's, and how much of it the size and the window account for."""
        kinds = [kind for kind in self.kinds if kind.slope is not None and kind.name in references]
        if not kinds:
            return ""

        def off(of: dict[str, PSNRCurve], window: tuple[float, float]) -> str:
            return ", ".join(f"{float(of[k.name].slope(*window)) - (k.slope or 0):+.3f}" for k in kinds)

        def below(i: int) -> str:
            n = REFERENCES[scale]
            each = [(references[k.name].denoised[i] - curves[k.name].denoised[i, :n]).mean() for k in kinds]
            return ", ".join(f"{float(mean):.1f}" for mean in each)

        alphas = ", ".join(f"{kind.alpha:g}" for kind in kinds)
        at = {f"{a:g} to {b:g} dB": (a, b) for a, b in (WINDOW, LOW)}
        told = [f"{off(curves, window)} over {text}" for text, window in at.items()]
        best = [f"{off(references, window)} over {text}" for text, window in at.items()]
        note = (
            f"For alpha = {alphas} the slopes differ from the paper's by {' and by '.join(told)}. Those of "
            f"the Gaussian reference, which is not trained, differ by {' and by '.join(best)}: so much is of "
            f"this size and window. The networks lie {below(0)} dB below the reference at {INPUTS[0]:g} dB "
            f"in, {below(len(INPUTS) // 2)} dB at {INPUTS[len(INPUTS) // 2]:g} dB and {below(-1)} dB at "
            f"{INPUTS[-1]:g} dB; it knows the contour but for its rows' places, which they have to find"
        )
        return f"{note}. {short_of_paper(self.kinds[0].need(scale))}".rstrip()

    def _draw(
        self,
        curves: dict[str, PSNRCurve],
        references: dict[str, PSNRCurve],
        bases: list[tuple[Kind, torch.Tensor, torch.Tensor, spectral.EigenPairs]],
    ) -> Figure:
        figure = draw.canvas(10.4, 1.05 * max(len(bases), 3) + 0.5)
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6])
        axis = left.subplots()
        curves_on(axis, curves)
        for i, (kind, *_) in enumerate(bases):
            x, y = curves[kind.name].line(*WINDOW)
            axis.plot(x, y, color=INK, lw=0.9, ls=(0, (1, 1.5)), zorder=5)
            if kind.name in references:
                best = references[kind.name].mean().value
                axis.plot(INPUTS, best, color=COLOURS[i], lw=0.9, ls="--", zorder=1)
        handles, names = axis.get_legend_handles_labels()
        slopes = {kind.name: curves[kind.name].slope(*WINDOW) for kind, *_ in bases}
        names = [
            f"{name}: {float(slopes[name]):.3f} $\\pm$ {float(slopes[name].halfwidth()):.3f}"
            if name in slopes
            else name
            for name in names
        ]
        if references:
            handles.append(Line2D([], [], color="#777777", lw=0.9, ls="--"))
            names.append("Gaussian reference")
        axis.legend(
            handles,
            names,
            title="slope",
            fontsize=6.5,
            title_fontsize=6.5,
            frameon=False,
            loc="upper left",
            alignment="left",
        )
        grid = right.subplots(len(bases), K + 2, squeeze=False)
        for i, (row, (kind, clean, noisy, pairs)) in enumerate(zip(grid, bases, strict=True)):
            draw.image(row[0], clean, "" if i else "clean")
            draw.row_name(row[0], kind.name.replace(", ", "\n").replace("alpha", "$\\alpha$"))
            draw.image(row[1], noisy, "" if i else f"$\\sigma$ = {SIGMA:g}")
            for k in range(K):
                draw.vector(row[k + 2], pairs.vectors[k], f"$\\lambda_{{{k + 1}}}$ = {pairs.values[k]:.2f}")
        return figure


def figure(name: str, number: str, title: str, kinds: tuple[Kind, ...]) -> PaperFigure:
    """As one of the figures."""
    slopes = Slopes(kinds)
    return PaperFigure(name, number, title, slopes.needs, slopes.measure)


SLOPES = figure(
    "slopes",
    "figures 4 and 16",
    "C^alpha images: PSNR slopes and bases",
    ALPHAS,
)
APART = figure(
    "contours",
    "figures 17 and 18",
    "Regularity of the contour apart from that of the background",
    CONTOURS,
)
