"""Figure 3: lambda_k, <x, e_k> and eigenvectors at a picture, of the shipped network: nothing is trained."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from matplotlib.figure import Figure

import denoisers
import spectral
from benchmarks.paper import draw
from benchmarks.paper.audit import audit
from benchmarks.paper.figure import Made, Networks, PaperFigure, Row
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from denoisers.evaluation import add_noise, basis_at
from denoisers.images import photograph
from denoisers.networks import Denoiser
from spectral.plots.style import BLUE, INK, ORANGE

NETWORK = "photos"
SIGMA = 0.15
CORNER = (60, 180)  # of the crop: hair, face and background
SIDES: dict[Scale, int] = {"small": 48, "gpu": 64, "paper": 80}
SHOWN = (1, 2, 3, 5, 8, 12, 20, 40, 80, 200)


def crop(side: int) -> torch.Tensor:
    """(1, 1, side, side) of the shipped photograph."""
    top, left = (min(c, 512 - side) for c in CORNER)
    return torch.from_numpy(photograph())[..., top : top + side, left : left + side].contiguous()


def measure(scale: Scale, networks: Networks) -> Made:
    """All eigenvalues from the formed matrix, the energy of the picture in the leading ones; larger crops."""
    model, side = denoisers.load(NETWORK), SIDES[scale]
    clean = crop(side)
    noisy, d = add_noise(clean, SIGMA, 0), side**2
    pairs = spectral.top_eigs(model, noisy, d, method="dense")
    values = pairs.values
    energy = basis_at(pairs, clean).energy
    coefficients = pairs.coefficients(clean).abs()
    leading = next(k for k in range(1, d + 1) if energy[k - 1] >= 0.99)
    sum_of_squares = float(values.square().sum())
    rows = [
        Row("eigenvalues above 0.5, share of d", float((values > 0.5).double().mean()), says="a few"),
        Row(
            "effective rank, (tr S)^2 / (d |S|^2)",
            float(values.sum() ** 2 / sum_of_squares / d),
            says="falls fast",
        ),
        Row("eigenvectors that hold 99 % of |x|^2, share of d", leading / d, says="concentrated"),
        Row(
            "energy of x in the leading 1 % of eigenvectors", float(energy[d // 100 - 1]), says="concentrated"
        ),
    ]
    larger = 4 * side
    far_noisy = add_noise(crop(larger), SIGMA, 0)
    far = spectral.top_eigs(model, far_noisy, 10, tol=1e-3)
    rank = spectral.effective_rank(model, far_noisy, products=64)
    rank_here = spectral.effective_rank(model, noisy)
    rows_of_audit, audited = audit(
        model, lambda n, s: torch.cat([_place(i, s) for i in range(n)]), side, sigma=SIGMA
    )
    beside = [
        Row.of(f"effective rank of J at {side}x{side}, share of d", rank_here.times(torch.tensor(1 / d))),
        Row.of(
            f"effective rank of J at {larger}x{larger}, share of d", rank.times(torch.tensor(1 / larger**2))
        ),
    ]
    data = {
        "values": values.tolist(),
        "coefficients": coefficients.tolist(),
        "energy": energy.tolist(),
        "large_values": far.values.tolist(),
        "audit": audited,
    }
    settings = (
        f"`{NETWORK}` on {side}x{side} pixels of the shipped photograph at {CORNER} (the paper has a face), "
        f"sigma = {SIGMA:g}; all {d} eigenpairs from the formed matrix; no network is trained for it"
    )
    return Made(
        rows,
        settings,
        _drawn(model, clean, noisy, pairs, coefficients, far),
        beside,
        {f"`{NETWORK}`": rows_of_audit},
        data,
    )


def _place(i: int, side: int) -> torch.Tensor:
    """Crop i, of places that do not overlap where they fit."""
    across = max(1, 512 // side)
    top, left = i // across % across * side, i % across * side
    return torch.from_numpy(photograph())[..., top : top + side, left : left + side].contiguous()


def _drawn(
    model: Denoiser,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    pairs: spectral.EigenPairs,
    coefficients: torch.Tensor,
    far: spectral.EigenPairs,
) -> Figure:
    figure = draw.canvas(9.2, 5.6)
    above, below = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    left, right = above.subplots(1, 2)
    d = pairs.k
    k = np.arange(1, d + 1)
    left.semilogx(
        k / d, pairs.values, color=BLUE, lw=1.4, label=f"{clean.shape[-1]}x{clean.shape[-1]}, all {d}"
    )
    share = np.arange(1, far.k + 1) / far.vectors[0].numel()
    left.semilogx(
        share,
        far.values,
        "o",
        ms=2.5,
        color=ORANGE,
        label=f"{4 * clean.shape[-1]}x{4 * clean.shape[-1]}, the first {far.k}",
    )
    left.axhline(0, color="#999999", lw=0.7)
    draw.labelled(left, "k / d", "eigenvalue of (J + J')/2")
    draw.legend(left, "upper right")
    right.loglog(
        k,
        coefficients,
        ".",
        ms=2,
        color=BLUE,
        alpha=0.35,
        rasterized=True,
        label="$|\\langle x, e_k\\rangle|$",
    )
    edges = np.unique(np.geomspace(1, d + 1, 24).astype(int))
    middle = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
    means = [
        math.sqrt(float(coefficients[a - 1 : b - 1].square().mean())) for a, b in itertools.pairwise(edges)
    ]
    right.loglog(middle, means, "o-", ms=3, lw=1, color=INK, label="root mean square")
    right.set_ylim(1e-4 * float(coefficients.max()), 2 * float(coefficients.max()))
    draw.labelled(right, "k", "coefficient of the clean picture")
    draw.legend(right, "upper right")
    columns = 3 + len(SHOWN) // 2
    grid = below.subplots(2, columns)
    draw.off(grid)
    with torch.no_grad():
        pictures = {"clean": clean, f"noisy, $\\sigma$ = {SIGMA:g}": noisy, "denoised": model(noisy)}
    for axis, (name, x) in zip(grid[0], pictures.items(), strict=False):
        draw.image(axis, x.clamp(0, 1), name)
        axis.set_axis_on()
    for i, index in enumerate(SHOWN):
        axis = grid[i // (columns - 3), 3 + i % (columns - 3)]
        draw.vector(axis, pairs.vectors[index - 1], f"$e_{{{index}}}$  {pairs.values[index - 1]:.2f}")
        axis.set_axis_on()
    return figure


def needs(scale: Scale) -> list[Need]:
    """None."""
    return []


PHOTOGRAPH = PaperFigure(
    "photograph", "figure 3", "Eigenvalues, coefficients and eigenvectors at a picture", needs, measure
)
