"""Traces of the XTrace paper's five spectra: errors at one budget, products to a target."""

from __future__ import annotations

import math

import torch

from benchmarks.estimators.common import copies, publish, rotated, spectra
from benchmarks.page import table
from spectral.estimators import trace

METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace", "auto")
HEAD = ["Hutchinson", "Hutch++", "XTrace", "XNysTrace", "auto"]
REFERENCE = {  # mean relative errors of an independent implementation over 30 trials
    "flat 1..3": (8e-4, 1.6e-3, 1.0e-3),
    "i^-2": (7e-2, 3.4e-4, 2.2e-4),
    "0.9^i": (1.5e-2, 1.2e-5, 2.0e-7),
    "0.7^i": (5e-2, 8.9e-8, 1.1e-10),
    "step 1 / 1e-3": (1.7e-2, 1.2e-2, 6.6e-6),
}
NOISE = math.sqrt((math.pi / 2 - 1) / 30)  # relative standard error of a mean of 30 |N(0, 1)|


def errors(trials: int = 1000, alone: int = 200) -> list[str]:
    """Mean relative errors, n = 1000, of `trials` runs, or of `alone` for "auto", which decides run by run.

    Promised: no worse than the reference by more than 30 %, as far as 30 of its trials and ours can tell
    (two standard errors of the difference); "auto" within twice the best of the reference's three methods.
    """
    rows, missed = [], []
    for name, values in spectra(1000).items():
        A, truth, budget = rotated(values), values.sum().item(), 240 if name == "0.9^i" else 120
        means, cells = {}, [name, str(budget)]
        for column, method in enumerate(METHODS):
            if method == "auto":  # a batch would decide for its worst problem
                each = [float(trace(A, products=budget, seed=s)) for s in range(alone)]
                found = torch.tensor(each, dtype=torch.float64)
            else:
                blocks = [
                    trace(copies(A, 25), method=method, products=budget, seed=s).value
                    for s in range(trials // 25)
                ]
                found = torch.cat([torch.as_tensor(block) for block in blocks])
            off = (found - truth).abs() / truth
            mean, error = off.mean().item(), off.std().item() / math.sqrt(len(off))
            means[method], known = mean, ""
            if column < 3:
                reference = REFERENCE[name][column]
                known = f" ({reference:.1e})"
                if mean - 1.3 * reference > 2 * math.hypot(error, 1.3 * NOISE * reference):
                    missed.append(f"{method}, {name}: {mean:.2e} against {reference:.1e}")
            cells.append(f"{mean:.1e}{known}")
        best = min(means[method] for method in METHODS[:3])
        if means["auto"] > 2 * best:
            missed.append(f"auto, {name}: {means['auto']:.2e}, the best {best:.2e}")
        rows.append(cells)
    note = f'{trials} trials; {alone} of "auto".\n\n'
    publish("spectra", note + table(["spectrum", "products", *HEAD], rows))
    return missed


def targets(runs: int = 100) -> list[str]:
    """Products to a target, and how often the truth is within it.

    Promised: in 95 % of the runs, less two standard errors of that share.
    """
    least = 0.95 - 2 * math.sqrt(0.95 * 0.05 / runs)
    rows, missed = [], []
    for name, values in spectra(1000).items():
        A, truth = rotated(values), values.sum().item()
        for rtol in (1e-2, 1e-4):
            cells = [name, f"{rtol:g}"]
            for method in METHODS:
                found = [trace(A, method=method, rtol=rtol, seed=seed) for seed in range(runs)]
                spent = sum(run.products for run in found) / runs
                met = sum(abs(float(run) - truth) <= rtol * truth for run in found) / runs
                cells.append(f"{spent:.0f} ({100 * met:.0f} %)")
                if met < least:
                    missed.append(f"{method}, {name}, rtol {rtol:g}: met in {100 * met:.0f} %")
            rows.append(cells)
    publish("targets", f"{runs} runs.\n\n" + table(["spectrum", "rtol", *HEAD], rows))
    return missed
