"""Errors, coverage and costs of the estimators; writes the tables and figures of docs/estimators.

    python -m benchmarks.estimators SECTION...

SECTION is spectra, targets, coverage, published, density, counts, diagonal, risk, photograph, posterior,
or all.
"""

from __future__ import annotations

import argparse
import functools
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import denoisers
from benchmarks.page import ROOT, insert, table
from denoisers.images import calpha, folder
from spectral.estimators import (
    Estimate,
    asymmetry,
    diagonal,
    effective_rank,
    figures,
    frobenius_norm,
    schatten_norm,
    spectral_density,
    trace,
)
from spectral.estimators.exchangeable import Core, xtrace_samples
from spectral.estimators.probes import sampler
from spectral.estimators.sketch import Sketch
from spectral.operators import LinearOperator, as_operator, jacobian
from spectral.risk import posterior, risk_curve, sure
from spectral.spectra import top_eigs

PAGE = ROOT / "docs/estimators/index.md"
LAB = ROOT / "../shared/data/lab"
METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace", "auto")


def spectra(n: int) -> dict[str, Tensor]:
    """The five spectra of the XTrace paper (Epperly, Tropp, Webber 2024)."""
    i = torch.arange(1, n + 1, dtype=torch.float64)
    return {
        "flat 1..3": 1 + 2 * (i - 1) / (n - 1),
        "i^-2": i**-2,
        "0.9^i": 0.9**i,
        "0.7^i": 0.7**i,
        "step 1 / 1e-3": torch.where(i <= n // 20, 1.0, 1e-3).double(),
    }


def rotated(values: Tensor, seed: int = 0) -> LinearOperator:
    """The symmetric matrix with these eigenvalues and uniformly random eigenvectors."""
    n = len(values)
    G = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q, R = torch.linalg.qr(G)
    A = (Q * R.diagonal().sign() * values) @ (Q * R.diagonal().sign()).T
    return as_operator((A + A.T) / 2)


def write_spectra() -> None:
    """Mean relative error over 100 trials at a fixed budget."""
    budgets = dict(zip(spectra(1000), (120, 120, 240, 120, 120), strict=True))
    reference = {
        "flat 1..3": ("8e-4", "1.6e-3", "1.0e-3"),
        "i^-2": ("7e-2", "3.4e-4", "2.2e-4"),
        "0.9^i": ("1.5e-2", "1.2e-5", "2.0e-7"),
        "0.7^i": ("5e-2", "8.9e-8", "1.1e-10"),
        "step 1 / 1e-3": ("1.7e-2", "1.2e-2", "6.6e-6"),
    }
    rows = []
    for name, values in spectra(1000).items():
        A, truth = rotated(values), values.sum().item()
        cells = [name, str(budgets[name])]
        for column, method in enumerate(METHODS):
            runs = [trace(A, method=method, products=budgets[name], seed=seed) for seed in range(100)]
            error = np.mean([abs(float(run) - truth) / truth for run in runs])
            known = f" ({reference[name][column]})" if column < 3 else ""
            cells.append(f"{error:.1e}{known}")
        rows.append(cells)
    _write(
        "spectra",
        table(["spectrum", "products", "Hutchinson", "Hutch++", "XTrace", "XNysTrace", "auto"], rows),
    )


def write_targets() -> None:
    """Products to a target, mean over 20 runs, and how often it was met in truth."""
    rows = []
    for name, values in spectra(1000).items():
        A, truth = rotated(values), values.sum().item()
        for rtol in (1e-2, 1e-4):
            cells = [name, f"{rtol:g}"]
            for method in METHODS:
                runs = [trace(A, method=method, rtol=rtol, seed=seed) for seed in range(20)]
                spent = np.mean([run.products for run in runs])
                met = np.mean([abs(float(run) - truth) <= rtol * truth for run in runs])
                cells.append(f"{spent:.0f} ({100 * met:.0f} %)")
            rows.append(cells)
    _write(
        "targets", table(["spectrum", "rtol", "Hutchinson", "Hutch++", "XTrace", "XNysTrace", "auto"], rows)
    )


def write_coverage(runs: int = 1000) -> None:
    """The share of runs whose 95 % interval contains the truth, n = 300."""
    n, rows = 300, []
    cases = {name: spectra(n)[name] for name in ("flat 1..3", "i^-2", "step 1 / 1e-3")}
    for products in (24, 60):
        for name, values in cases.items():
            A, truth = rotated(values), values.sum().item()
            cells = [f"tr A, {name}", str(products)]
            for method in METHODS:
                found = (trace(A, method=method, products=products, seed=seed) for seed in range(runs))
                cells.append(_percent(sum(_covers(e, truth) for e in found) / runs))
            cells.append(
                _percent(sum(_covers(_plain_xtrace(A, products, s), truth) for s in range(runs)) / runs)
            )
            rows.append(cells)
    head = ["", "products", "Hutchinson", "Hutch++", "XTrace", "XNysTrace", "auto", "XTrace, as published"]
    text = f"{runs} runs, n = {n}:\n\n" + table(head, rows)

    rows = []
    for name, values in cases.items():
        A = rotated(values)
        M = A.dense()
        truth, cells = M.diagonal(), [name]
        for method in ("hutchinson", "xdiag", "auto"):
            hits = []
            for seed in range(100):
                low, high = diagonal(A, method=method, products=60, seed=seed).interval()
                hits.append(((low <= truth) & (truth <= high)).double().mean().item())
            cells.append(_percent(float(np.mean(hits))))
        norm, rank = M.norm().item(), (M.trace() ** 2 / M.square().sum()).item()
        cells.append(
            _percent(np.mean([_covers(frobenius_norm(A, products=60, seed=s), norm) for s in range(runs)]))
        )
        cells.append(
            _percent(np.mean([_covers(effective_rank(A, products=60, seed=s), rank) for s in range(runs)]))
        )
        rows.append(cells)
    head = ["60 products", "diagonal, Hutchinson", "XDiag", "auto", "Frobenius norm", "effective rank"]
    _write("coverage", text + "\n\n" + table(head, rows))


def _plain_xtrace(A: LinearOperator, products: int, seed: int) -> Estimate:
    """XTrace with the error bar of its paper, from the samples' variance alone."""
    samples = xtrace_samples(Core.of(Sketch(A, sampler(A, "sphere", seed), products // 2)))
    k = len(samples)
    return Estimate(samples.mean().item(), (samples.std() / k**0.5).item(), k, products, "xtrace", k - 1)


def write_published() -> None:
    """Everything about the lab's published Jacobian, beside dense linear algebra."""
    J = torch.eye(900, dtype=torch.float64) - torch.as_tensor(np.load(LAB / "Jacobian_30.npy")).double()
    A, S = as_operator(J.float()), (J + J.T) / 2
    cases: list[tuple[str, float, Callable[[int], Estimate]]] = [
        (f"trace, {m}", J.trace().item(), functools.partial(_trace, A, m))
        for m in ("hutchinson", "hutch++", "xtrace", "auto")
    ]
    skew, rank = ((J - J.T).norm() / J.norm()).item(), (S.trace() / S.norm()).square().item()
    nuclear, above = torch.linalg.svdvals(J).sum().item(), (torch.linalg.eigvalsh(S) > 0.5).sum().item()
    cases += [
        ("Frobenius norm", J.norm().item(), lambda s: frobenius_norm(A, products=200, seed=s)),
        ("asymmetry", skew, lambda s: asymmetry(A, products=200, seed=s)),
        ("effective rank", rank, lambda s: effective_rank(A, products=200, seed=s)),
        ("nuclear norm", nuclear, lambda s: schatten_norm(A, probes=5, steps=20, seed=s)),
        (
            "eigenvalues above 0.5",
            above,
            lambda s: spectral_density(A, probes=4, steps=25, seed=s).count_above(0.5),
        ),
    ]
    rows = []
    for name, truth, run in cases:
        found = [run(seed) for seed in range(200)]
        low, high = found[0].interval()
        covered = np.mean([_covers(e, truth) for e in found])
        rows.append([
            name, f"{truth:.4f}", f"{float(found[0]):.4f}", f"{low:.4f} to {high:.4f}",
            _percent(float(covered)), str(found[0].products),
        ])  # fmt: skip
    head = ["", "exact", "estimate", "95 % interval", "covers in 200 runs", "products"]
    _write("published", table(head, rows))


def _trace(A: LinearOperator, method: str, seed: int) -> Estimate:
    return trace(A, method=method, products=200, seed=seed)  # type: ignore[arg-type]


def write_density() -> None:
    """The lab's network at d = 1600 against its dense spectrum."""
    model = denoisers.load(str(LAB / "bfcnn21_celeba160_gray.npz"))
    clean = torch.from_numpy(folder.photograph())[..., 200:240, 200:240]
    y = clean + 0.15 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    J = as_operator(jacobian(model, y).dense())
    S = J.symmetric_part().dense().double()
    values = torch.linalg.eigvalsh((S + S.T) / 2)
    singular = torch.linalg.svdvals(J.dense().double())
    pairs = top_eigs(J, above=0.5, tol=1e-4)
    rows = []
    for name, options, truth in (
        ("SLQ", {}, values),
        ("KPM", {"method": "kpm"}, values),
        (f"SLQ, {pairs.k} pairs known", {"known": pairs}, values),
        (f"KPM, {pairs.k} pairs known", {"method": "kpm", "known": pairs}, values),
        ("SLQ, singular values", {"part": "singular"}, singular),
    ):
        found = spectral_density(J, probes=30, steps=60, **options)  # type: ignore[arg-type]
        count, width = found.count_above(0.5), (truth[-1] - truth[0]).abs().item()
        rows.append([
            name, f"{found.distance(truth) / width:.1e}", str(int((truth > 0.5).sum())),
            f"{count.value:.2f} +- {count.halfwidth():.2f}", str(found.products),
        ])  # fmt: skip
    found = spectral_density(J, probes=30, steps=60, known=pairs)
    figures.density(found, 0.5, "lab's BF-CNN, 40x40, sigma 0.15").savefig(PAGE.parent / "density.png")
    note = (
        f"Spectrum from {values[0]:.3f} to {values[-1]:.3f}; "
        f"finding the known pairs took {pairs.products} products with (J + J')/2.\n\n"
    )
    _write(
        "density",
        note + table(["", "W / width", "above 0.5", "estimated (95 %)", "products with J, J'"], rows),
    )


def write_counts() -> None:
    """Whether intervals of counts hold where steps are few: 40 thresholds, 20 runs of 10 probes, n = 900."""
    n, rows = 900, []
    i = torch.arange(1, n + 1, dtype=torch.float64)
    cases = {
        "flat 1..3": spectra(n)["flat 1..3"],
        "step 1 / 1e-3": spectra(n)["step 1 / 1e-3"],
        "0.99^i": 0.99**i,
    }
    for name, values in cases.items():
        decays = name.startswith("0.99")
        grid = torch.logspace(-2, -0.02, 40) if decays else torch.linspace(*values.aminmax(), 42)[1:-1] + 1e-4
        at = grid.double()
        truth = (values[:, None] > at).sum(0)
        for method in ("slq", "kpm"):
            cells = [f"{name}, {method}"]
            for steps in (15, 30, 60):
                hits, squares = [], []
                for seed in range(20):
                    A = as_operator(torch.diag(values))
                    found = spectral_density(A, method=method, probes=10, steps=steps, seed=seed).count_above(
                        at
                    )  # type: ignore[arg-type]
                    low, high = found.interval()
                    hits.append(((low <= truth) & (truth <= high)).double().mean().item())
                    squares.append((torch.as_tensor(found.value) - truth).square().mean().item())
                cells.append(f"{_percent(float(np.mean(hits)))} ({np.mean(squares) ** 0.5:.1f})")
            rows.append(cells)
    _write("counts", table(["", "15 steps", "30 steps", "60 steps"], rows))


def write_diagonal() -> None:
    """Root mean square error over pixels of diag J, shipped network, against the dense Jacobian."""
    model, y, _ = _photograph()
    y = y[..., 200:240, 200:240].contiguous()
    J = jacobian(model, y)
    truth = J.dense().double().diagonal().reshape(y.shape)
    rows = []
    for products in (60, 100, 200):
        cells = [str(products)]
        for method in ("hutchinson", "xdiag", "lattice", "auto"):
            found = diagonal(J, method=method, products=products)  # type: ignore[arg-type]
            low, high = (torch.as_tensor(bound) for bound in found.interval())
            error = (torch.as_tensor(found.value) - truth).square().mean().sqrt() / truth.mean()
            covered = ((low <= truth) & (truth <= high)).double().mean().item()
            cells.append(f"{100 * error:.1f} % ({_percent(covered)})")
        rows.append(cells)
    _write("diagonal", table(["products", "Hutchinson", "XDiag", "lattice", "auto"], rows))


def write_risk() -> None:
    """SURE against the true error over noise levels, shipped network, images it has not seen."""
    images = torch.as_tensor(calpha.synthesize(64, size=80, alpha=2.0, seed=987_654))
    sigmas = [0.03, 0.06, 0.12, 0.25, 0.5]
    curve = risk_curve(denoisers.load("calpha"), images, sigmas, seed=1)
    figures.risk(curve, "calpha, 64 images of 80x80").savefig(PAGE.parent / "risk.png")
    mse, estimated, bayes, gap = curve.mean("mse"), curve.mean("sure"), curve.mean("bayes"), curve.gap("sure")
    rows = [
        [
            f"{sigma:g}", f"{mse.value[i]:.3e}", f"{estimated.value[i]:.3e}",
            f"{gap.value[i]:+.1e} +- {gap.halfwidth()[i]:.1e}", _percent(curve.covered()[i].item()),
            f"{bayes.value[i]:.3e}",
        ]
        for i, sigma in enumerate(sigmas)
    ]  # fmt: skip
    head = ["sigma", "true", "SURE", "SURE - true (95 %)", "one image's interval covers", "sigma^2 tr J / d"]
    note = f"{curve.products / len(sigmas):.0f} products an image and level.\n\n"
    _write("risk", note + table(head, rows))


def write_photograph() -> None:
    """Trace, SURE, density and pixel deviations of a 512x512 photograph: processor time and memory."""
    model, y, clean = _photograph()
    rows = []

    def timed(name: str, run: Callable[[], Estimate], say: Callable[[Estimate], str] = _said) -> Estimate:
        began = time.process_time()
        found = run()
        rows.append([name, say(found), str(found.products), f"{time.process_time() - began:.0f}"])
        print(rows[-1], flush=True)
        return found

    with torch.no_grad():
        output = model(y)
        began = time.process_time()
        output = model(y)
        forward = time.process_time() - began
    truth = (output - clean).square().mean().item()
    timed(
        "SURE", lambda: sure(model, y, 0.15),
        lambda e: f"{float(e):.4e} +- {float(e.halfwidth()):.1e} (true {truth:.4e})",
    )  # fmt: skip
    J = jacobian(model, y)
    timed("tr J to 1 %", lambda: trace(J, rtol=0.01))
    pixel = timed("diag J", lambda: diagonal(J, products=50, method="lattice"), _spread)
    timed(
        "values above 0.5, from a density", lambda: spectral_density(J, probes=3, steps=24).count_above(0.5)
    )
    deviation = 0.15 * torch.as_tensor(pixel.value).clamp(min=0).sqrt()
    panels = [("noisy", y), ("denoised", output), ("pixel deviation", deviation)]
    figures.images(panels, "photos, 512x512, sigma 0.15").savefig(PAGE.parent / "deviation.png")
    note = (
        f"Processor time of both cores together; one forward pass takes {forward:.1f} s of it. The whole "
        f"process peaked at {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB.\n\n"
    )
    _write("photograph", note + table(["", "found (95 %)", "products", "processor seconds"], rows))


def _spread(found: Estimate) -> str:
    value, half = torch.as_tensor(found.value), torch.as_tensor(found.halfwidth())
    return f"mean {value.mean():.4f}, each +- {half.mean():.3f}"


def write_posterior() -> None:
    """Traversals along three posterior components of an 80x80 crop."""
    model, y, _ = _photograph()
    found = posterior(model, y[..., 200:280, 200:280].contiguous(), 0.15, 3)
    print(found)
    steps = (
        -20,
        -10,
        -5,
        0,
        5,
        10,
        20,
    )  # one standard deviation, spread over thousands of pixels, is invisible
    names = [f"component {k + 1}: s.d. {found.deviations[k]:.3f}" for k in range(3)]
    strips = [(name, found.traversal(k, steps)[:, 0]) for k, name in enumerate(names)]
    title = f"f(y) + t s.d. e_k, t = {', '.join(map(str, steps))}"
    figures.strip(strips, title).savefig(PAGE.parent / "traversals.png")


def _photograph() -> tuple[torch.nn.Module, Tensor, Tensor]:
    clean = torch.from_numpy(folder.photograph())
    y = clean + 0.15 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    model = denoisers.load("photos").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, y, clean


def _said(found: object) -> str:
    assert isinstance(found, Estimate)
    return f"{float(found):.1f} +- {float(found.halfwidth()):.1f}"


def _covers(found: Estimate, truth: float) -> bool:
    low, high = found.interval()
    return bool(low <= truth <= high)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _write(name: str, text: str) -> None:
    print(text, flush=True)
    insert(PAGE, name, text)


SECTIONS = {
    "spectra": write_spectra,
    "targets": write_targets,
    "coverage": write_coverage,
    "published": write_published,
    "density": write_density,
    "counts": write_counts,
    "diagonal": write_diagonal,
    "risk": write_risk,
    "photograph": write_photograph,
    "posterior": write_posterior,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=[*SECTIONS, "all"])
    asked = parser.parse_args().sections
    for section, write in SECTIONS.items():
        if section in asked or "all" in asked:
            write()
