"""A 512x512 photograph: what each estimate costs there."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.estimators.common import PAGE, SIGMA, photograph, publish, said
from benchmarks.page import table
from spectral.estimators import Estimate, diagonal, spectral_density, trace
from spectral.estimators.results import Density
from spectral.jacobians import jacobian
from spectral.plots import estimates as figures
from spectral.risk import posterior, sure

Found = TypeVar("Found", Estimate, Density)


def estimates(side: int = 512) -> list[str]:
    """SURE, trace, pixel deviations and density with time and memory, of the middle `side` x `side` pixels.

    Promised: SURE's interval holds the true error; 4 GB suffice.
    """
    middle = slice((512 - side) // 2, (512 + side) // 2)
    model, y, clean = photograph(middle, middle)
    rows: list[list[str]] = []

    def timed(name: str, run: Callable[[], Found], say: Callable[[Found], str]) -> Found:
        wall, busy = time.perf_counter(), time.process_time()
        found = run()
        seconds, processor = time.perf_counter() - wall, time.process_time() - busy
        rows.append([name, say(found), str(found.products), f"{seconds:.0f}", f"{processor:.0f}"])
        print(" | ".join(rows[-1]), flush=True)
        return found

    with torch.no_grad():
        output = model(y)
        began = time.perf_counter()
        output = model(y)
        forward = time.perf_counter() - began
    truth = (output - clean).square().mean().item()
    J = jacobian(model, y)
    risk = timed(
        "SURE", lambda: sure(model, y, SIGMA),
        lambda e: f"{float(e):.4e} +- {float(e.halfwidth()):.1e} (true {truth:.4e})",
    )  # fmt: skip
    timed("tr J to 0.5 %", lambda: trace(J, rtol=0.005), said)
    pixel = timed("diag J", lambda: diagonal(J, products=64, method="probing"), _spread)
    density = timed("density", lambda: spectral_density(J, probes=4, steps=48), _counted)

    size = f"photos, {side}x{side}, sigma {SIGMA:g}"
    deviation = SIGMA * torch.as_tensor(pixel.value).clamp(min=0).sqrt()
    panels = [("noisy", y), ("denoised", output), ("pixel deviation", deviation)]
    figures.images(panels, size).savefig(PAGE.parent / "deviation.png")
    figures.density(density, 0.5, size).savefig(PAGE.parent / "photograph.png")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = (
        f"{side}x{side}, {torch.get_num_threads()} threads; one forward pass takes {forward:.2f} s. The "
        f"whole process peaked at {peak:.1f} GB.\n\n"
    )
    publish(
        "photograph", note + table(["", "found (95 %)", "products", "seconds", "processor seconds"], rows)
    )
    low, high = risk.interval()
    missed = [] if low <= truth <= high else ["SURE's interval does not hold the true error"]
    return missed + ([f"peak memory {peak:.1f} GB"] if peak > 4 else [])


def traversals() -> list[str]:
    """Traversals along three posterior components of an 80x80 crop."""
    model, y, _ = photograph(slice(200, 280), slice(200, 280))
    found = posterior(model, y, SIGMA, 3)
    print(found)
    # One standard deviation, spread over thousands of pixels, is invisible.
    steps = (-20, -10, -5, 0, 5, 10, 20)
    names = [f"component {k + 1}: s.d. {found.deviations[k]:.3f}" for k in range(3)]
    strips = [(name, found.traversal(k, steps)[:, 0]) for k, name in enumerate(names)]
    title = f"f(y) + t s.d. e_k, t = {', '.join(map(str, steps))}"
    figures.strip(strips, title).savefig(PAGE.parent / "traversals.png")
    return []


def _spread(found: Estimate) -> str:
    value, half = torch.as_tensor(found.value), torch.as_tensor(found.halfwidth())
    return f"mean {value.mean():.4f}, each +- {half.mean():.3f}"


def _counted(found: Density) -> str:
    low, high = found.ends
    return f"{said(found.count_above(0.5))} values above 0.5, from {low:.2f} to {high:.2f}"
