"""Products to convergence, and what certainty costs, beside SciPy's eigsh.

    python -m benchmarks.solvers [--write] [--seeds 100]

Three diagonal spectra (n 4096, k 10, tol 1e-6), the cluster trap (twelve eigenvalues within 1.1e-4, tol 1e-3)
over many seeds, and networks on an 80x80 photograph (k 20, tol 1e-3): the shipped one, and a lab's BF-CNN
where its data is at hand.  --write puts the tables into docs/solvers.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

import spectral
from benchmarks.page import ROOT, insert, table
from spectral.console import load_problem
from spectral.operators import LinearOperator, from_functions

I = torch.arange(4096, dtype=torch.float64)  # noqa: E741
SPECTRA = {
    "1 / (1 + (i/60)^2)": (1 / (1 + (I / 60) ** 2), 108),
    "1 / (1 + i/10)": (1 / (1 + I / 10), 42),
    "0.97^i": (0.97**I, 51),
}
TRAP = torch.cat([1 + 1.1e-4 * torch.linspace(0, 1, 12), 0.8 * torch.linspace(0, 1, 4084)]).double()
LAB = ROOT / "../shared/data/lab/bfcnn21_celeba160_gray.npz"


def diagonal(values: Tensor) -> LinearOperator:
    """diag(values)."""
    return from_functions(lambda V: V * values, n=len(values), symmetric=True, dtype=values.dtype)


def arpack(S: LinearOperator, k: int, tol: float, seed: int = 0) -> tuple[np.ndarray, int]:
    """The k largest eigenvalues by eigsh from a seeded start, and the products it took."""
    start = np.random.default_rng(seed).standard_normal(S.shape[0]).astype(S.to_scipy().dtype)
    before = S.count
    theta = eigsh(S.to_scipy(), k, which="LA", tol=tol, v0=start, return_eigenvectors=False)
    return np.sort(theta)[::-1], S.count - before


def row(name: str, S: LinearOperator, k: int, tol: float) -> list[str]:
    """Products of both, the certificate, and the largest difference of their eigenvalues."""
    theta, products = arpack(S, k, tol)
    pairs = spectral.top_eigs(S, k=k, tol=tol, method="lanczos", progress=True)
    apart = np.abs(pairs.values.numpy() - theta).max()
    spent = pairs.spent
    verdict = (
        "complete" if pairs.complete else f"lambda_{k} + {pairs.completeness.bound - pairs.values[-1]:.0e}"
    )
    return [name, *map(str, (products, spent["solve"], spent["completeness"])), verdict, f"{apart:.0e}"]


def spectra() -> str:
    """The three spectra, with unrestarted block-1 Lanczos as the yardstick."""
    head = ["spectrum", "eigsh", "`top_eigs` solve", "+ completeness", "certificate", "difference"]
    rows = [
        [*row(f"`{name}`", diagonal(values), 10, 1e-6), str(yardstick)]
        for name, (values, yardstick) in SPECTRA.items()
    ]
    return table([*head, "unrestarted Lanczos"], rows)


def networks() -> str:
    """The shipped network, and the lab's, on 80x80 pixels of the shipped photograph."""
    head = ["network", "eigsh", "`top_eigs` solve", "+ completeness", "certificate", "difference"]
    rows = []
    for name, denoiser in (("`photos`", "photos"), ("BF-CNN, 21 layers", str(LAB))):
        if denoiser == "photos" or Path(denoiser).is_file():
            problem = load_problem(denoiser, None, 0.15, 0, (60, 180, 80))
            rows.append(row(name, spectral.jacobian(problem.model, problem.noisy).symmetric_part(), 20, 1e-3))
    return table(head, rows)


def trap(seeds: int) -> str:
    """How often each misses a member of the cluster."""
    ours, theirs, spent = 0, 0, []
    for seed in range(seeds):
        theirs += arpack(diagonal(TRAP), 10, 1e-3, seed)[0].min() < 0.9
        pairs = spectral.top_eigs(diagonal(TRAP), k=10, tol=1e-3, seed=seed)
        ours += bool(pairs.values.min() < 0.9)
        spent.append((pairs.spent["solve"], pairs.spent["completeness"]))
    solve, completeness = np.mean(spent, axis=0)
    return (
        f"Over {seeds} random starts eigsh returned {theirs} bases with a member of the cluster missing and "
        f"another eigenvalue, wrong by 0.2, in its place; `top_eigs` {ours}. It took {solve:.0f} products on "
        f"average to solve, and {completeness:.0f} to be sure."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/solvers.md")
    parser.add_argument("--seeds", type=int, default=100, help="of the cluster trap")
    options = parser.parse_args()
    for name, text in (("spectra", spectra()), ("trap", trap(options.seeds)), ("networks", networks())):
        print(text, end="\n\n")
        if options.write:
            insert(ROOT / "docs/solvers.md", name, text)
