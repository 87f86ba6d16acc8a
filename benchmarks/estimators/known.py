"""Estimates beside dense linear algebra: the lab's published Jacobian, its network, the shipped network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import denoisers
from benchmarks.estimators.common import PAGE, SIGMA, covered, percent, photograph, publish, share
from benchmarks.page import BFCNN, LAB, table
from spectral.eigs import top_eigs
from spectral.estimators import (
    Estimate,
    asymmetry,
    diagonal,
    effective_rank,
    frobenius_norm,
    schatten_norm,
    spectral_density,
    trace,
)
from spectral.jacobians import jacobian
from spectral.operators import as_operator
from spectral.plots import estimates as figures

CROP = slice(200, 240)


def published(runs: int = 200) -> list[str]:
    """Everything about the lab's published Jacobian.

    Promised: its trace 156.2665 and norm 10.4077 within the intervals, and all intervals hold in 91 % of the
    runs or more (95 %, less two standard errors and the 1 % that Student's law leaves open).
    """
    J = torch.eye(900, dtype=torch.float64) - torch.as_tensor(np.load(LAB / "Jacobian_30.npy")).double()
    A, S = as_operator(J), (J + J.T) / 2
    rank = (S.trace() / S.norm()).square().item()
    above = (torch.linalg.eigvalsh(S) > 0.5).sum().item()

    def traced(method: Any) -> Callable[[int], Estimate]:
        return lambda seed: trace(A, method=method, products=200, seed=seed)

    cases: list[tuple[str, float, Callable[[int], Estimate]]] = [
        *((f"trace, {m}", 156.2665, traced(m)) for m in ("hutchinson", "hutch++", "xtrace", "auto")),
        ("Frobenius norm", 10.4077, lambda s: frobenius_norm(A, products=200, seed=s)),
        ("asymmetry", ((J - J.T).norm() / J.norm()).item(), lambda s: asymmetry(A, products=200, seed=s)),
        ("effective rank", rank, lambda s: effective_rank(A, products=200, seed=s)),
        (
            "nuclear norm",
            torch.linalg.svdvals(J).sum().item(),
            lambda s: schatten_norm(A, probes=5, steps=20, seed=s),
        ),
        (
            "eigenvalues above 0.5",
            above,
            lambda s: spectral_density(A, probes=4, steps=25, seed=s).count_above(0.5),
        ),
    ]
    rows, missed = [], []
    for name, truth, run in cases:
        found = [run(seed) for seed in range(runs)]
        low, high = found[0].interval()
        hits = share(torch.stack([covered(e, truth) for e in found]))
        rows.append([
            name, f"{truth:.4f}", f"{float(found[0]):.4f}", f"{low:.4f} to {high:.4f}", percent(hits),
            str(found[0].products),
        ])  # fmt: skip
        if hits < 0.91:
            missed.append(f"{name}: {percent(hits)}")
        if name.startswith(("trace", "Frobenius")) and not low <= truth <= high:
            missed.append(f"{name}: {truth} is not in {low:.4f} to {high:.4f}")
    head = ["", "exact", "estimate", "95 % interval", f"covers in {runs} runs", "products"]
    publish("published", table(head, rows))
    return missed


def densities() -> list[str]:
    """The lab's network at d = 1600 against its dense spectrum, three seeds.

    Promised of 30 Lanczos probes of 60 steps, in every one of them: a Wasserstein distance below 1e-3 of the
    spectrum's width, and the count above 0.5 within 1.
    """
    model = denoisers.load(str(BFCNN))
    _, y, _ = photograph(CROP, CROP)
    J = as_operator(jacobian(model, y).dense())
    S = J.symmetric_part().dense().double()
    values = torch.linalg.eigvalsh((S + S.T) / 2)
    singular = torch.linalg.svdvals(J.dense().double())
    pairs = top_eigs(J, above=0.5, tol=1e-4)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("SLQ", {"method": "slq"}),
        ("KPM", {"method": "kpm"}),
        (f"SLQ, {pairs.k} pairs known", {"method": "slq", "deflate": pairs}),
        (f"KPM, {pairs.k} pairs known", {"method": "kpm", "deflate": pairs}),
        ("SLQ, singular values", {"method": "slq", "part": "singular"}),
    ]
    rows, missed = [], []
    for name, options in cases:
        truth = singular if options.get("part") else values
        width, above = (truth.max() - truth.min()).item(), int((truth > 0.5).sum())
        found = [spectral_density(J, probes=30, steps=60, seed=seed, **options) for seed in range(3)]
        distances = [each.distance(truth) / width for each in found]
        counted = [each.count_above(0.5) for each in found]
        off = max(abs(float(count) - above) for count in counted)
        rows.append([
            name, f"{distances[0]:.1e}", f"{max(distances):.1e}", str(above),
            f"{float(counted[0]):.2f} +- {float(counted[0].halfwidth()):.2f}", f"{off:.2f}",
            str(found[0].products),
        ])  # fmt: skip
        if name.startswith("SLQ") and max(distances) >= 1e-3:
            missed.append(f"{name}: distance {max(distances):.1e} of the width")
        if name.startswith("SLQ") and off > 1:
            missed.append(f"{name}: count off by {off:.2f}")
        if options == {"method": "slq", "deflate": pairs}:
            figures.density(found[0], 0.5, "lab's BF-CNN, 40x40, sigma 0.15").savefig(
                PAGE.parent / "density.png"
            )
    note = (
        f"Spectrum from {values[0]:.3f} to {values[-1]:.3f}; finding the known pairs took {pairs.products} "
        "products with (J + J')/2.\n\n"
    )
    head = ["", "W / width", "worst of 3", "above 0.5", "estimated (95 %)", "worst error of 3", "products"]
    publish("density", note + table(head, rows))
    return missed


def diagonals() -> list[str]:
    """Error over pixels of diag J of the shipped network, against the dense Jacobian.

    Promised: 92 to 97 % of the pixels' intervals hold the exact value.
    """
    model, y, _ = photograph(CROP, CROP)
    J = jacobian(model, y)
    truth = J.dense().double().diagonal().reshape(y.shape)
    rows, missed = [], []
    for products in (60, 100, 200):
        cells = [str(products)]
        for method in ("hutchinson", "xdiag", "probing", "auto"):
            found = diagonal(J, method=method, products=products)
            error = (torch.as_tensor(found.value) - truth).square().mean().sqrt() / truth.mean()
            hits = share(covered(found, truth))
            cells.append(f"{100 * error:.1f} % ({percent(hits)})")
            if not 0.92 <= hits <= 0.97:
                missed.append(f"{method}, {products} products: {percent(hits)}")
        rows.append(cells)
    note = f"sigma = {SIGMA:g}, d = {truth.numel()}.\n\n"
    publish("diagonal", note + table(["products", "Hutchinson", "XDiag", "probing", "auto"], rows))
    return missed
