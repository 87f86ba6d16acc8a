"""What one GPU does: products with J in seconds, a solve of a large image, and synthesis of C^alpha images.

    python -m benchmarks.gpu [--write] [--side 4096] [--pairs 6] [--parts products solve synthesis]

The network is the shipped one of photographs, the image a mirrored photograph with noise on it.  Seconds are
medians of a few, by the host's clock around work that the GPU has done.  A solve that Ctrl-C stops tells what
it verified.  --write puts the tables into docs/scale.md and docs/theory/index.md.
"""

import os
import time

import numpy as np
import torch
from torch import Tensor

import denoisers
import spectral
from benchmarks.page import ROOT, Page, insert, records
from benchmarks.theory.speed import best
from denoisers.commands.console import forward_seconds
from denoisers.images.folder import photograph
from spectral.ambient import float32_as
from spectral.kernels.arrays import on_host
from spectral.kernels.calpha import synthesize

KINDS = ("float32", "tf32")
SIGMA, SIZE, ON_CPU, ON_GPU = 0.15, 80, 4000, 16384
GB = 1e9


def noisy(side: int) -> Tensor:
    """The photograph, mirrored at its lower and right edges up to a side, with noise of SIGMA."""
    x = photograph()
    wide = [(0, 0)] * (x.ndim - 2) + [(0, max(0, side - n)) for n in x.shape[-2:]]
    x = torch.from_numpy(np.ascontiguousarray(np.pad(x, wide, mode="symmetric")[..., :side, :side]))
    return (x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).cuda()


def products(side: int) -> str:
    """A forward pass, J v and J' u, in float32 and TF32."""
    model, y = denoisers.load("photos").cuda(), noisy(side)
    passes = {}
    for kind, as_told in zip(KINDS, ("ieee", "tf32"), strict=True):
        with float32_as(as_told):
            passes[kind] = forward_seconds(model, y, 3)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    J = spectral.jacobian(model, y)
    torch.cuda.synchronize()
    recorded = time.perf_counter() - began
    v, rows = torch.randn(1, y.numel(), device="cuda"), []
    for kind in KINDS:
        A = J.at_precision(kind)
        ahead, back = (forward_seconds(f, v, 3) for f in (A.apply, A.apply_transpose))
        rows.append(
            {
                "pixels": f"{side}x{side}",
                "arithmetic": kind,
                "forward pass, s": f"{passes[kind]:.3f}",
                "J v, s": f"{ahead:.3f}",
                "J' u, s": f"{back:.3f}",
            }
        )
    whole = {
        "recording, s": f"{recorded:.2f}",
        "program, GB": f"{J.program_bytes / GB:.2f}",
        "peak, GB": f"{torch.cuda.max_memory_allocated() / GB:.2f}",
    }
    return records([row | whole for row in rows])


def solve(side: int, k: int) -> str:
    """The k largest eigenpairs of S, to a residual of 1e-3, in float32 and TF32."""
    model, y, rows = denoisers.load("photos").cuda(), noisy(side), []
    spectral.top_eigs(model, noisy(64), k=1, max_products=30)  # libraries load
    for kind in KINDS:
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        pairs = spectral.top_eigs(model, y, k=k, tol=1e-3, precision=None if kind == "float32" else kind)
        torch.cuda.synchronize()
        rows.append(
            {
                "pixels": f"{side}x{side}",
                "arithmetic": kind,
                "k": str(k),
                "seconds": f"{time.perf_counter() - began:.1f}",
                "products": str(pairs.products),
                "converged": f"{int(pairs.converged.sum())} of {pairs.k}",
                "largest residual": f"{float(pairs.residuals.max()):.0e}" if pairs.k else "",
                "peak, GB": f"{torch.cuda.max_memory_allocated() / GB:.2f}",
            }
        )
        print(*rows[-1].values(), *pairs.notes, sep=" | ", flush=True)
    return records(rows)


def synthesis() -> str:
    """C^alpha images a second, by Numba on all threads and by CuPy."""
    rows = []
    for kind in ("released", "exact"):
        here = best(lambda kind=kind: synthesize(ON_CPU, size=SIZE, alpha=3, kind=kind)) / ON_CPU
        there = best(
            lambda kind=kind: on_host(
                synthesize(ON_GPU, size=SIZE, alpha=3, kind=kind, device="cuda")[-1, -1]
            )
        )
        rows.append(
            {
                "kind": f"{kind}, {SIZE}x{SIZE}",
                f"{torch.get_num_threads()} CPU threads, images/s": f"{1e3 / here:.0f}",
                "GPU, images/s": f"{1e3 * ON_GPU / there:.0f}",
            }
        )
    return records(rows)


if __name__ == "__main__":
    page = Page("docs/scale.md", __doc__, side=4096, pairs=6, parts=["products", "solve", "synthesis"])
    options = page.options
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} cores", flush=True)
    if "products" in options.parts:
        page.tell("gpu-products", products(options.side))
    if "synthesis" in options.parts:
        made = synthesis()
        print(made, end="\n\n", flush=True)
        if options.write:
            insert(ROOT / "docs/theory/index.md", "gpu", made)
    if "solve" in options.parts:
        page.tell("gpu-solve", solve(options.side, options.pairs))
