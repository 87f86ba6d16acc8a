"""Whole solves: beside SciPy's eigsh over torch.func, and at a size where the matrix cannot exist.

    python -m benchmarks.whole [--write] [--rounds 3] [--large photos ...]

At 80x80, k 20, tol 1e-3: all of top_eigs (recording the network, solving, certifying) against eigsh over a
fresh torch.func.jvp and a kept torch.func.vjp, interleaved in one run, eigenvalues compared.  --large names
the networks, or weights files, for 512x512
pixels of the shipped photograph (d = 262,144), each in a process of its own, whose peak memory is measured
above that of the loaded model; by default `photos` and, where it has been trained (`denoisers train unet`),
the paper's UNet.  --write puts the tables into docs/whole.md.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

import spectral
from benchmarks.page import BFCNN, ROOT, Page, in_a_process, records
from benchmarks.products import mark_memory, resident
from denoisers.commands.console import forward_seconds, load_problem

K, TOL, SIGMA = 20, 1e-3, 0.15
UNET = ROOT / "runs/unet/weights.safetensors"


def by_eigsh(model: nn.Module, y: Tensor) -> tuple[np.ndarray, int]:
    """The K largest eigenvalues of (J + J')/2, and its products, as one would write it by hand."""
    model.requires_grad_(False)
    pull, count = torch.func.vjp(model, y)[1], 0

    def product(column: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        v = torch.as_tensor(column, dtype=y.dtype).reshape(y.shape)
        with torch.no_grad():
            return ((torch.func.jvp(model, (y,), (v,))[1] + pull(v)[0]) / 2).flatten().numpy()

    S = LinearOperator((y.numel(),) * 2, matvec=product, dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(y.numel()).astype(np.float32)
    return eigsh(S, K, which="LA", tol=TOL, v0=start)[0][::-1], count


def against(name: str, denoiser: str, rounds: int) -> dict[str, str]:
    """Seconds of both and their ratio, medians of interleaved runs."""
    problem = load_problem(denoiser, None, SIGMA, 0, (60, 180, 80))
    ours, theirs, ratio = [], [], []
    for _ in range(rounds):
        marks = [time.perf_counter()]
        pairs = spectral.top_eigs(problem.model, problem.noisy, K, tol=TOL)
        marks.append(time.perf_counter())
        theta, count = by_eigsh(problem.model, problem.noisy)
        marks.append(time.perf_counter())
        for taken, seconds in zip((ours, theirs), np.diff(marks), strict=True):
            taken.append(seconds)
        ratio.append(theirs[-1] / ours[-1])
    apart = np.abs(pairs.values.numpy() - theta).max()
    if apart > 2 * TOL * theta[0]:
        raise ArithmeticError(f"eigenvalues differ by {apart:.1e}")
    return {
        "network": name,
        "eigsh, s (products)": f"{statistics.median(theirs):.1f} ({count})",
        "`top_eigs`, s (products)": f"{statistics.median(ours):.1f} ({pairs.products})",
        "ratio": f"{statistics.median(ratio):.2f}",
        "difference": f"{apart:.0e}",
        "certificate": "complete" if pairs.complete else pairs.completeness_text(),
    }


def large(denoiser: str) -> dict[str, str]:
    """One solve at 512x512: seconds, forward passes, products, and memory in GB above the loaded model."""
    problem = load_problem(denoiser, None, SIGMA, 0)
    parameters = sum(p.numel() for p in problem.model.parameters())
    loaded = mark_memory()
    unit = forward_seconds(problem.model, problem.noisy, 3)
    forward = resident("VmHWM") - loaded
    pairs = spectral.top_eigs(problem.model, problem.noisy, K, tol=TOL, progress=True)
    return {
        "network": f"`{Path(denoiser).stem}`, {parameters / 1e6:.1f} M parameters",
        "seconds": f"{pairs.seconds:.0f}",
        "forward passes": f"{pairs.seconds / unit:.0f}",
        "products": f"{pairs.products} ({', '.join(f'{n} {p}' for n, p in pairs.spent.items())})",
        "lambda_1, lambda_20": f"{pairs.values[0]:.4f}, {pairs.values[-1]:.4f}",
        "worst residual": f"{(pairs.residuals.max() / pairs.values[0]).item():.1e}",
        "certificate": pairs.completeness_text(),
        "a forward pass, GB": f"{forward / 1024:.2f}",
        "the solve, GB": f"{(resident('VmHWM') - loaded) / 1024:.2f}",
    }


if __name__ == "__main__":
    trained = [str(UNET)] if UNET.is_file() else []
    page = Page("docs/whole.md", __doc__, rounds=3, large=["photos", *trained], one="")
    options = page.options
    if options.one:
        print(json.dumps(large(options.one)))
        sys.exit()
    if options.rounds:
        subjects = [("`photos`", "photos"), *([("BF-CNN, 21 layers", str(BFCNN))] if BFCNN.is_file() else [])]
        page.tell("against", records([against(*subject, options.rounds) for subject in subjects]))
    if options.large:
        told = [in_a_process("benchmarks.whole", "--one", name) for name in options.large]
        page.tell("large", records(told))
