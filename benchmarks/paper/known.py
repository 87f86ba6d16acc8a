"""Sets of m dimensions, whose optimal denoiser is known: m eigenvectors, slope 1, intercept 10 log10 d/m.

Near an image x of such a set the optimal denoiser projects on its m tangents where the noise is small: m
eigenvalues near 1, the others near 0, a squared error of m sigma^2 for d pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import spectral
from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Changes, Scale, short_of_paper
from denoisers.evaluation import PSNRCurve, add_noise, basis_at, psnr_curve
from denoisers.evaluation.figures import curves_on
from denoisers.evaluation.spread import over_images
from denoisers.images import Source
from denoisers.networks import Denoiser
from spectral.plots.style import COLOURS, INK

INPUTS = np.arange(0.0, 40.1, 4)  # input PSNR, dB
WINDOW = (0.0, 32.0)
SIGMAS = (0.2, 0.1, 0.05)
LOOKED: dict[Scale, int] = {"small": 6, "gpu": 12, "paper": 32}  # images whose spectra are
SMALLER: Changes = {"small": {"size": 16, "steps": 2000}}  # of one and two dimensions
EXTRA = 5  # eigenvalues beyond the m of the optimum
SEED = 7  # of images that no network is trained on


@dataclass(frozen=True)
class Known:
    """A set whose optimal denoiser is known.

    need: scale -> its network.
    source: side -> the set.
    tangents: (side, n) -> (n, m, 1, side, side), of images 0, ..., n - 1 of seed SEED.
    dimension: m.
    about: what the images are.
    slope: what the paper has for the PSNR slope, beside the optimum's 1.
    """

    need: Callable[[Scale], Need]
    source: Callable[[int], Source]
    tangents: Callable[[int, int], NDArray[np.float64]]
    dimension: int
    about: str
    slope: str = "1 (optimum)"

    def measure(self, scale: Scale, networks: Networks) -> Made:
        """Slope, intercept, eigenvalues, angles to the tangent space; and what the paper leaves out."""
        need = self.need(scale)
        model, size, m = networks(need), need.config.size, self.dimension
        d, looked = size**2, LOOKED[scale]

        def images(n: int, side: int) -> Tensor:
            return torch.from_numpy(self.source(side)(n, seed=SEED))

        curve = psnr_curve(model, images(128, size), 10 ** (-INPUTS / 20))
        inside = (WINDOW[0] <= INPUTS) & (WINDOW[1] >= INPUTS)
        gain = over_images((curve.denoised - curve.noisy)[torch.from_numpy(inside)].mean(0))
        optimum = 10 * math.log10(d / m)
        window = f"input PSNR {WINDOW[0]:g} to {WINDOW[1]:g} dB"
        rows = [
            Row.of(f"slope of output against input PSNR, {window}", curve.slope(*WINDOW), 1.0, self.slope),
            Row.of(
                f"intercept of the line of slope 1, dB, {window}",
                gain,
                optimum,
                f"{optimum:.2f} (10 log10 d/{m})",
            ),
        ]
        clean, tangents = images(looked, size), self.tangents(size, looked)
        data: dict[str, object] = {
            "sigmas": curve.sigmas.tolist(),
            "input_psnr": curve.noisy.mean(1).tolist(),
            "output_psnr": curve.denoised.mean(1).tolist(),
            "output_psnr_each": curve.denoised.tolist(),
        }
        counts: list[str] = []
        spectra, shown = {}, None
        for sigma in SIGMAS:
            noisy = add_noise(clean, sigma, 1)[:, None]
            found = [spectral.top_eigs(model, y, m + EXTRA, tol=1e-3) for y in noisy]
            values = torch.stack([pairs.values for pairs in found])
            spectra[sigma] = values
            above = over_images(
                torch.tensor([_above(model, y, p) for y, p in zip(noisy, found, strict=True)])
            )
            counts.append(f"{float(above):.1f}")
            bases = [basis_at(p, x[None], t) for p, x, t in zip(found, clean, tangents, strict=True)]
            angles = torch.stack([b.angles for b in bases if b.angles is not None]).rad2deg()
            traces = [spectral.trace(model, y, rtol=0.05) for y in noisy]
            total = over_images(torch.tensor([float(t) for t in traces], dtype=torch.float64))
            at = f", sigma = {sigma:g}"
            rows += [
                Row.of(f"eigenvalues of (J + J')/2 above 0.5{at}", above, float(m), f"{m} (optimum)"),
                Row.mean(f"lambda_{m}{at}", values[:, m - 1], 1.0, "1 (optimum)"),
                Row.mean(f"lambda_{m + 1}{at}", values[:, m], 0.0, "0 (optimum)"),
                Row.of(f"trace of J{at}", total, float(m), f"{m} (optimum)"),
                Row.mean(
                    f"share of the tangent space in e_1, ..., e_{m}, mean cos^2 of the angles{at}",
                    angles.deg2rad().cos().square().mean(1),
                    1.0,
                    "1 (optimum)",
                ),
                Row.mean(
                    f"the same in e_1, ..., e_{m + EXTRA}{at}",
                    [held(p, t) for p, t in zip(found, tangents, strict=True)],
                    1.0,
                    "1 (optimum)",
                ),
                Row.mean(
                    f"largest angle of the tangent space to e_1, ..., e_{m}, degrees{at}",
                    angles[:, -1],
                    0.0,
                    "0 (optimum)",
                ),
            ]
            data[f"sigma_{sigma:g}"] = {
                "values": values.tolist(),
                "bounds": [float(pairs.completeness.bound) for pairs in found],
                "complete": [bool(pairs.complete) for pairs in found],
                "angles_degrees": angles.tolist(),
                "traces": [float(t) for t in traces],
            }
            shown = shown or (clean[0], noisy[0, 0], found[0], tangents[0])
        rows_of_audit, audited = audit(model, images, size, k=m)
        settings = (
            f"{self.about}; {size}x{size} (d = {d}), 128 images for the curve and {looked} for the spectra, "
            "none of them trained on"
        )
        picture = self._draw(curve, optimum, spectra, model, shown, size)
        audits = {f"`{need.config.data}`": rows_of_audit}
        note = self._note(need, curve, counts)
        return Made(rows, settings, picture, [], audits, {**data, "audit": audited}, note)

    def _note(self, need: Need, curve: PSNRCurve, counts: list[str]) -> str:
        """How far from the optimum: its squared error is m sigma^2, sigma^2 times a chi-square of m degrees.

        The intercept is a mean of dB, in which the optimum's own is 10 log10 d/m and 10 / ln 10 (ln(m/2) -
        digamma(m/2)) more.
        """
        m, half = self.dimension, torch.tensor(self.dimension / 2, dtype=torch.float64)
        inside = torch.from_numpy((WINDOW[0] <= INPUTS) & (WINDOW[1] >= INPUTS))
        error = need.config.size**2 * 10 ** (-curve.denoised[inside] / 10) / curve.sigmas[inside, None] ** 2
        times = float(error.mean()) / m
        more = 10 / math.log(10) * float(half.log() - half.digamma())
        less = short_of_paper(need)
        return (
            f"Over input PSNR {WINDOW[0]:g} to {WINDOW[1]:g} dB the squared error is {times:.1f} times the "
            f"optimum's {m} sigma^2 (as a mean of dB the optimum's own intercept is {more:.1f} dB above 10 "
            f"log10 d/{m}). At sigma = {', '.join(f'{sigma:g}' for sigma in SIGMAS)} the eigenvalues above "
            f"0.5 are {', '.join(counts)} in number, the optimum's {m} as sigma falls. {less}"
        ).rstrip()

    def _draw(
        self,
        curve: PSNRCurve,
        optimum: float,
        spectra: dict[float, Tensor],
        model: Denoiser,
        shown: tuple[Tensor, Tensor, spectral.EigenPairs, NDArray[np.float64]],
        size: int,
    ) -> Figure:
        m = self.dimension
        figure = draw.canvas(9.2, 6.0)
        top, bottom = figure.subfigures(2, 1, height_ratios=[1.5, 1.25])
        left, right = top.subplots(1, 2)
        curves_on(left, {"network": curve}, WINDOW)
        x = np.linspace(0, 40, 2)
        left.plot(x, x + optimum, color="#4c8c4a", lw=1.2, ls="-.", label=f"optimum, {optimum:.1f} dB above")
        draw.legend(left, "lower right")
        left.set_title(f"{size}x{size}: output against input PSNR", fontsize=8, color=INK, loc="left")
        index = np.arange(1, m + EXTRA + 1)
        for colour, (sigma, values) in zip(COLOURS, spectra.items(), strict=False):
            mean = over_images(values.T)
            half = torch.as_tensor(mean.halfwidth()).numpy()
            label = f"$\\sigma$ = {sigma:g}"
            right.errorbar(
                index, mean.value, yerr=half, fmt="o-", ms=3.5, lw=1, capsize=2, color=colour, label=label
            )
        best = (index <= m).astype(float)
        right.step(index, best, where="mid", color="#4c8c4a", lw=1.2, ls="-.", label="optimum")
        right.set_xticks(index)
        draw.labelled(right, "k", "eigenvalue of (J + J')/2", f"mean over {len(values)} images, 95 %")
        draw.legend(right, "upper right")
        clean, noisy, pairs, tangents = shown
        k = min(pairs.k, m + 4)
        grid = bottom.subplots(2, 3 + k, squeeze=False)
        draw.off(grid)
        with torch.no_grad():
            denoised = model(noisy[None])[0]
        offset = 0.5 if float(clean.min()) < 0 else 0.0  # images about 0 are shown about grey
        for axis, (name, one) in zip(
            grid[0], {"clean": clean, "noisy": noisy, "denoised": denoised}.items(), strict=False
        ):
            axis.set_axis_on()
            draw.image(axis, one + offset, name)
        for i in range(k):
            axis = grid[0, 3 + i]
            axis.set_axis_on()
            draw.vector(axis, pairs.vectors[i], f"$e_{{{i + 1}}}$  {pairs.values[i]:.2f}")
        orthonormal = torch.linalg.qr(torch.from_numpy(tangents).flatten(1).mT)[0].mT
        rows = pairs.vectors.flatten(1).double()
        for i in range(m):
            axis = grid[1, 3 + i]
            axis.set_axis_on()
            inside = orthonormal.mT @ (orthonormal @ rows[i])
            draw.vector(axis, inside.reshape(1, size, size), f"{float(inside.norm()):.2f}")
        bottom.suptitle(
            f"eigenvectors and eigenvalues at $\\sigma$ = {SIGMAS[0]:g}; "
            "below, their parts in the tangent space, with norms",
            fontsize=8,
            color=INK,
        )
        return figure

    def figure(self, name: str, number: str, title: str) -> PaperFigure:
        """As one of the figures."""
        return PaperFigure(name, number, title, lambda scale: [self.need(scale)], self.measure)


def held(pairs: spectral.EigenPairs, tangents: NDArray[np.float64]) -> float:
    """|P_E Q|^2 / m: the share of the span of m tangents, Q an orthonormal basis, in that of the vectors."""
    Q = torch.linalg.qr(torch.from_numpy(tangents).flatten(1).mT)[0]
    return float((pairs.vectors.flatten(1).double() @ Q).square().sum() / Q.shape[1])


def _above(model: Denoiser, y: Tensor, pairs: spectral.EigenPairs) -> int:
    """Eigenvalues above 0.5: among the leading ones, or where all of these are, by another solve."""
    if pairs.values[-1] > 0.5:
        pairs = spectral.top_eigs(model, y, above=0.5, tol=1e-3)
    return int((pairs.values > 0.5).sum())
