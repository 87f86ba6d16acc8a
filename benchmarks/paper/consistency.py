"""The report's figure 8: singular values and vectors of a consistency function's Jacobian at one level."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure

import spectral
from benchmarks.paper import draw
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale, consistency
from denoisers.evaluation import add_noise
from denoisers.evaluation.spread import over_images
from denoisers.images.calpha import CAlpha
from denoisers.networks import Denoiser
from spectral.plots.style import COLOURS, INK

SIGMA = 0.3
HIGH = 1.0  # where little but the noise is left
K = 16
COUNTS: dict[Scale, int] = {"small": 3, "gpu": 8, "paper": 8}  # images
SHOWN = 8
SEED = 7


def needs(scale: Scale) -> list[Need]:
    """The consistency function; the denoiser that it was tuned from comes with it."""
    return [consistency(scale)]


def measure(scale: Scale, networks: Networks) -> Made:
    """Singular values, asymmetry, negative eigenvalues; and those of the denoiser that it was tuned from."""
    need = needs(scale)[0]
    assert need.start is not None
    models = {"consistency function": networks(need), "denoiser it was tuned from": networks(need.start)}
    size = need.config.size
    clean = torch.from_numpy(CAlpha(size, need.config.alpha)(COUNTS[scale], seed=SEED))
    noisy, noisier = (add_noise(clean, sigma, 0) for sigma in (SIGMA, HIGH))
    told = {"sigma": SIGMA}
    rows, beside, data, found = [], [], {}, {}
    for name, model in models.items():
        into = rows if not rows else beside
        triplets = [spectral.top_svd(model, y[None], K, tol=1e-3, model_kwargs=told) for y in noisy]
        pairs = [spectral.top_eigs(model, y[None], 5, tol=1e-3, model_kwargs=told) for y in noisy]
        least = [
            spectral.top_eigs(model, y[None], 1, which="smallest", tol=1e-2, model_kwargs=told) for y in noisy
        ]
        values = torch.stack([t.values for t in triplets])
        found[name] = (values, triplets[0])
        into += _falling(values, name, says="falls fast" if into is rows else "")
        beside += [
            _largest(values, name),
            Row.mean(f"lambda_1 of (J + J')/2, {name}", torch.stack([p.values[0] for p in pairs])),
            Row.mean(
                f"least eigenvalue of (J + J')/2 (0 or more for a conditional mean), {name}",
                torch.stack([p.values[0] for p in least]),
            ),
            Row.mean(
                f"|J - J'| / |J|, {name}",
                [float(p.asymmetry) for p in pairs],
            ),
            Row.mean(
                f"angle of the first 5 left to as many right singular vectors, degrees, {name}",
                [
                    math.degrees(float(spectral.subspace_angles(t.left[:5], t.right[:5])[-1]))
                    for t in triplets
                ],
            ),
            _complete(triplets, name),
        ]
        high = [spectral.top_svd(model, y[None], K, tol=1e-3, model_kwargs={"sigma": HIGH}) for y in noisier]
        values_high = torch.stack([t.values for t in high])
        at = f" at sigma = {HIGH:g}"
        falling = _falling(values_high, name, at)
        beside += [_largest(values_high, name, at), *falling, _complete(high, name, at)]
        data[name] = {
            "singular_values": values.tolist(),
            f"singular_values_at_{HIGH:g}": values_high.tolist(),
            "bounds": [float(t.completeness.bound) for t in triplets],
        }
    settings = (
        f"C^alpha images, alpha = {need.config.alpha:g} (the report has photographs of 64x64 and more), "
        f"{size}x{size}, x + sigma z at the level sigma = {SIGMA:g} that the function is told, in evaluation "
        f"mode, without a clamp; {COUNTS[scale]} images"
    )
    drawn = _drawn(found, clean, noisy, models, told)
    return Made(rows, settings, drawn, beside, data=data, note=_note(found, size))


def _largest(values: torch.Tensor, name: str, at: str = "") -> Row:
    """sigma_1 of each image's singular values, (images, K)."""
    return Row.mean(f"sigma_1{at}, {name}", values[:, 0])


def _falling(values: torch.Tensor, name: str, at: str = "", says: str = "") -> list[Row]:
    """The 10th and the last of them beside the first."""
    shares = values / values[:, :1]
    return [Row.mean(f"sigma_{i} / sigma_1{at}, {name}", shares[:, i - 1], says=says) for i in (10, K)]


def _complete(solves: list[spectral.SingularTriplets], name: str, at: str = "") -> Row:
    """How many of the solves are certified to have missed none."""
    share = float(np.mean([bool(t.complete) for t in solves]))
    return Row(f"solves with a certificate of completeness{at}, share, {name}", share, digits=2)


def _note(found: dict[str, tuple[torch.Tensor, spectral.SingularTriplets]], size: int) -> str:
    """Whether the singular values fall as those of the denoiser do."""
    tuned, start = (over_images(values[:, -1] / values[:, 0]) for values, _ in found.values())
    return (
        f"Of {size**2} singular values the {K}th is still {float(tuned):.2f} of the first, and "
        f"{float(start):.2f} of the first in the denoiser that it was tuned from, at this level; the "
        "report's fall fast, on photographs of 64x64 and more."
    )


def _drawn(
    found: dict[str, tuple[torch.Tensor, spectral.SingularTriplets]],
    clean: torch.Tensor,
    noisy: torch.Tensor,
    models: dict[str, Denoiser],
    told: dict[str, float],
) -> Figure:
    figure = draw.canvas(10.4, 4.0)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.1])
    axis = left.subplots()
    for colour, (name, (values, _)) in zip(COLOURS, found.items(), strict=False):
        mean = over_images(values.T)
        low, high = (torch.as_tensor(end) for end in mean.interval(0.95))
        k = np.arange(1, values.shape[1] + 1)
        axis.fill_between(k, low.clamp(min=1e-3), high, color=colour, alpha=0.18, lw=0)
        axis.plot(k, mean.value, "o-", ms=2.5, lw=1, color=colour, label=name)
    axis.set_ylim(0, None)
    draw.labelled(axis, "k", "singular value of J", f"mean over {len(values)} images, 95 %")
    draw.legend(axis, "upper right")
    grid = right.subplots(4, SHOWN + 1)
    draw.off(grid)
    pictures = []
    with torch.no_grad():
        pictures = [clean[:1], noisy[:1], *(model(noisy[:1], **told) for model in models.values())]
    for i, (x, name) in enumerate(
        zip(
            pictures,
            ("clean", f"noisy, $\\sigma$ = {told['sigma']:g}", "consistency", "denoiser"),
            strict=True,
        )
    ):
        draw.image(grid[i, 0], x, name)
        grid[i, 0].set_axis_on()
    for i, (_, triplets) in enumerate(found.values()):
        for half, (vectors, text) in enumerate(((triplets.right, "v"), (triplets.left, "u"))):
            for j in range(SHOWN):
                axis = grid[2 * i + half, j + 1]
                axis.set_axis_on()
                value = f"  {triplets.values[j]:.2f}" if half == 0 else ""
                draw.vector(axis, vectors[j], f"${text}_{{{j + 1}}}${value}")
    right.suptitle(
        "right and left singular vectors: consistency function above, denoiser below", fontsize=8, color=INK
    )
    return figure


CONSISTENCY = PaperFigure(
    "consistency",
    "the report's figure 8",
    "Singular values of a consistency function's Jacobian",
    needs,
    measure,
)
