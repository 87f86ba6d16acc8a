"""Adversarial spectra through every front door and method, each answer held against LAPACK in float64.

    python tests/fuzz.py --minutes 20          random cases, from --seed on, at most --cases of them
    python tests/fuzz.py --seed 17 --cases 1   case 17 again, told in full

A case fails where something is wrong and not flagged:

    error        a converged value is further from every eigenvalue than its told error,
    top          all converged and complete, and yet not the top k (or all beyond a threshold), one by one,
    orthogonal   vectors that are not orthonormal, or not as many as asked for,
    raised       an exception, but that of a budget too small for the method.

More eigenvalues beyond the bound of completeness than were returned are a miss.  A confidence of 99 %
concedes one in a hundred probes that; they are counted, and fail together where a binomial law gives so many
a chance below 1e-3.  The exit code is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch

import spectral
from spectral import eigs, eigs_full, svd
from spectral.operators import as_operator

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
METHODS = {
    "eigs": ("auto", "lanczos", "lobpcg", "chebyshev", "dense"),
    "above": ("auto", "lanczos", "lobpcg", "chebyshev", "dense"),
    "between": ("auto", "chebyshev"),
    "svd": ("auto", "golub-kahan", "dense"),
    "full": ("auto", "krylov-schur", "dense"),
}
SCALES = (1.0, 1.0, 1.0, 1e-6, 1e6, 1e-12, 1e12)


# Matrices


def rotated(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Q diag(values) Q', Q random; or the diagonal itself, whose products are exact in most entries."""
    if rng.random() < 0.3:
        return np.diag(rng.permutation(values))
    Q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    M = (Q * values) @ Q.T
    return (M + M.T) / 2


def low_rank(n: int, rng: np.random.Generator) -> np.ndarray:
    values = np.zeros(n)
    rank = int(rng.integers(1, min(n, 8) + 1))
    values[:rank] = rng.choice([1.0, 2e-4, 1e-3, 1e-6, -1e-4], rank)
    return rotated(values, rng)


def multiple(n: int, rng: np.random.Generator) -> np.ndarray:
    return rotated(rng.choice([1.0, 0.5, 0.25, 0.0, -0.5], n), rng)


def cluster(n: int, rng: np.random.Generator) -> np.ndarray:
    width = 10.0 ** -rng.uniform(2, 14)
    draw = rng.uniform(0, 1, n)
    return rotated(
        np.where(np.arange(n) < max(1, n // int(rng.integers(2, 20))), 1 + width * draw, 0.8 * draw), rng
    )


def projector(n: int, rng: np.random.Generator) -> np.ndarray:
    return rotated((np.arange(n) < rng.integers(0, n + 1)).astype(float), rng)


def star(n: int, _: np.random.Generator) -> np.ndarray:
    M = np.zeros((n, n))
    M[0, 1:] = M[1:, 0] = 1
    return M


def clement(n: int, _: np.random.Generator) -> np.ndarray:
    i = np.arange(1.0, n)
    c = np.sqrt(i * (n - i))
    return np.diag(c, 1) + np.diag(c, -1)


def laplacian(n: int, _: np.random.Generator) -> np.ndarray:
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def step(n: int, rng: np.random.Generator) -> np.ndarray:
    return rotated(np.where(np.arange(n) < rng.integers(0, n + 1), 1.0, 10.0 ** -rng.uniform(1, 9)), rng)


SYMMETRIC: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "random": lambda n, rng: rotated(rng.uniform(0, 1, n), rng),
    "indefinite": lambda n, rng: rotated(rng.standard_normal(n), rng),
    "geometric": lambda n, rng: rotated(rng.uniform(0.3, 0.99) ** np.arange(n), rng),
    "cluster": cluster,
    "multiple": multiple,
    "low rank": low_rank,
    "projector": projector,
    "step": step,
    "zero": lambda n, _: np.zeros((n, n)),
    "identity": lambda n, _: np.eye(n),
    "ones": lambda n, _: np.ones((n, n)),
    "star": star,
    "clement": clement,
    "laplacian": laplacian,
}
GENERAL: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "normal": lambda n, rng: rng.standard_normal((n, n)) / n**0.5,
    "jordan": lambda n, rng: rng.choice([0.0, 1.0, 0.5]) * np.eye(n) + np.eye(n, k=1),
    "triangular": lambda n, rng: np.diag(rng.uniform(0, 1, n)) + np.triu(rng.standard_normal((n, n)), 1) / n,
    "rotations": lambda n, rng: np.linalg.qr(rng.standard_normal((n, n)))[0],
    **{name: SYMMETRIC[name] for name in ("multiple", "low rank", "projector", "zero", "identity", "ones")},
}


def rectangular(n: int, rng: np.random.Generator) -> np.ndarray:
    """(r, n) with singular values of one of the symmetric kinds."""
    r = int(rng.choice([n, max(1, n // 3), min(3 * n, 400), 1]))
    m = min(r, n)
    kind = rng.choice(list(SYMMETRIC))
    values = np.abs(np.linalg.eigvalsh(SYMMETRIC[kind](m, rng)))
    left, right = (np.linalg.qr(rng.standard_normal((size, m)))[0] for size in (r, n))
    return (left * values) @ right.T


# Cases


@dataclass(frozen=True)
class Case:
    """A matrix in its dtype, what is asked of it, and how."""

    door: str
    kind: str
    M: torch.Tensor
    options: dict[str, Any]

    def __str__(self) -> str:
        shape = "x".join(str(n) for n in self.M.shape)
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.door} of {self.kind} {shape} {str(self.M.dtype).removeprefix('torch.')}, {options}"


def drawn(seed: int, largest: int) -> Case:
    """Case number `seed`."""
    rng = np.random.default_rng([seed, 7])
    n = int(rng.choice([rng.integers(1, 12), rng.integers(2, 201), rng.integers(129, 201)]))
    if rng.random() < 0.02:
        n = int(rng.integers(500, largest + 1))
    door = str(rng.choice(["eigs", "eigs", "above", "between", "svd", "svd above", "full", "full above"]))
    if door.startswith("svd"):
        kind, M = "rectangular", rectangular(n, rng)
    else:
        kinds = GENERAL if door.startswith("full") else SYMMETRIC
        kind = str(rng.choice(list(kinds)))
        M = kinds[kind](n, rng)
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    tensor = torch.as_tensor(M * rng.choice(SCALES)).to(dtype)
    values = exact(tensor, door)
    method = str(rng.choice(METHODS[door.removesuffix(" above")]))
    options: dict[str, Any] = {
        "method": method,
        "tol": float(10.0 ** -rng.integers(2, 7 if dtype == torch.float32 else 11)),
        "seed": int(rng.integers(2**31)),
        "block": int(rng.choice([1, 1, 1, 2, 5])),
    }
    if not door.startswith("svd"):
        options["which"] = str(rng.choice(["largest", "smallest", "magnitude"]))
    if door == "between":
        options["which"] = "largest"
    if door == "between":
        low, high = sorted(threshold(values, rng) for _ in range(2))
        options["between"] = (low, high if high > low else low + max(abs(low), 1e-3))
    elif door.endswith("above"):
        options["above"] = threshold(height(values, str(options.get("which", "largest"))), rng)
        if options.get("which") == "smallest":
            options["above"] = -float(options["above"])
    else:
        # All pairs of a long one are minutes of one case; those of the short ones are a second.
        most = min(*tensor.shape, 200 if n < 500 else 30)
        options["k"] = int(rng.choice([1, min(3, most), rng.integers(1, most + 1), most]))
    block = int(options.pop("block"))
    if method != "auto":
        tables = {"svd": svd.METHODS, "full": eigs_full.METHODS}
        settings = {} if method == "dense" else {"block": block}
        options["method"] = tables.get(door.split(maxsplit=1)[0], eigs.METHODS)[method](**settings)
    if rng.random() < 0.15:
        options["max_products"] = 2 * options.get("k", 1) + 5 + int(rng.integers(0, 2 * n + 2))
    return Case(door, kind, tensor, options)


def threshold(values: np.ndarray, rng: np.random.Generator) -> float:
    """At an eigenvalue, next to one, or anywhere."""
    at = float(rng.choice(values))
    size = float(np.abs(values).max()) or 1.0
    return float(rng.choice([at, np.nextafter(at, 9e99), at + 1e-7 * size, rng.uniform(-0.2, 1.1) * size]))


def exact(M: torch.Tensor, door: str) -> np.ndarray:
    matrix = M.double().numpy()
    if door.startswith("svd"):
        return np.linalg.svd(matrix, compute_uv=False)
    return np.linalg.eigvals(matrix) if door.startswith("full") else np.linalg.eigvalsh(matrix)


def height(values: np.ndarray, which: str) -> np.ndarray:
    """What `which` orders by, the larger the sooner."""
    return np.abs(values) if which == "magnitude" else values.real * (-1 if which == "smallest" else 1)


# Verdicts


@dataclass
class Verdict:
    """What is wrong with an answer; whether its completeness is a probe's, and whether that missed."""

    faults: list[str]
    probed: bool = False
    missed: bool = False


def judged(case: Case) -> tuple[Verdict, Any]:
    """The answer to a case, and what is wrong with it."""
    which = str(case.options.get("which", "largest"))
    if case.door.startswith("svd"):
        answer = spectral.top_svd(case.M, **case.options)
    elif case.door.startswith("full"):
        answer = spectral.top_eigs_full(case.M, **case.options)
    else:
        answer = spectral.top_eigs(as_operator(case.M, symmetric=True), **case.options)
    values, found = exact(case.M, case.door), answer.values.numpy()
    size, n = float(np.abs(values).max()), max(case.M.shape)
    # LAPACK's own error, in float64.
    reference = 10 * n * 2.0**-52 * size
    faults = []

    sure = answer.converged.numpy().astype(bool)
    # Without left vectors the errors of `top_eigs_full` are told to be estimates.
    if len(found) and not case.door.startswith("full"):
        off = np.abs(values[:, None] - found).min(0)
        wrong = sure & (off > answer.errors.numpy() + reference)
        if wrong.any():
            worst = (off / answer.errors.numpy().clip(1e-300))[wrong].max()
            faults.append(f"error: {int(wrong.sum())} values off by up to {worst:.3g} times the error told")
    if not answer.orthogonality <= 100 * EPS[case.M.dtype] * max(1, n**0.5):
        faults.append(f"orthogonal: {answer.orthogonality.item():.2g}")
    most = len(found) + (case.door == "full")
    if "k" in case.options and not case.options["k"] <= len(found) <= int(case.options["k"]) + 1:
        faults.append(f"orthogonal: {len(found)} pairs")

    seen = answer.completeness
    proven = seen.confidence > 0
    if case.door.startswith("full"):  # the bound is on eigenvalues of J + E
        condition = min(np.linalg.cond(np.linalg.eig(case.M.double().numpy())[1]), 1e99)
        reference = condition * (reference + answer.schur_residual.item() + EPS[case.M.dtype] * size)
    reference += EPS[case.M.dtype] * size
    if case.door == "between":
        low, high = case.options["between"]
        depth = seen.bound.item()
        beyond = int(((values > low + depth + reference) & (values < high - depth - reference)).sum())
    else:
        sign = -1 if which == "smallest" else 1
        beyond = int((height(values, which) > sign * seen.bound.item() + reference).sum())
    missed = proven and beyond > most
    if missed and seen.confidence == 1:
        faults.append(f"top: {beyond} values beyond the bound, {len(found)} returned, and certain")
    if not missed and proven and sure.all() and bool(answer.complete) and not case.door.startswith("full"):
        slack = reference + 2 * float(answer.errors.max() if len(found) else 0)
        if "k" in case.options:
            best = np.sort(height(values, which))[::-1][: len(found)]
            got = np.sort(height(found, which))[::-1]
            apart = np.abs(best - got).max() - float(answer.residuals.max())
            if apart > slack:
                faults.append(f"top: converged and complete, and not the top k by {apart:.3g}")
        elif case.door != "between":
            level = sign * float(case.options["above"])
            sought = int((height(values, which) > level + slack).sum())
            if sought > len(found):
                faults.append(f"top: {sought} beyond the threshold, {len(found)} returned, and complete")
    return Verdict(faults, 0 < seen.confidence < 1, missed and seen.confidence < 1), answer


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=30_000, help="at most so many")
    parser.add_argument("--largest", type=int, default=1500, help="length of the longest vectors")
    asked = parser.parse_args()
    if asked.largest < 500:
        parser.error("--largest is at least 500")
    torch.set_num_threads(1)
    end, probes, misses, failed, done = time.monotonic() + 60 * asked.minutes, 0, [], 0, 0
    for seed in range(asked.seed, asked.seed + asked.cases):
        if time.monotonic() > end:
            break
        case = drawn(seed, asked.largest)
        answer: Any = None
        try:
            verdict, answer = judged(case)
        except spectral.errors.OptionError as refusal:  # a budget that the method cannot keep
            verdict = Verdict([] if "products" in str(refusal) else [f"refused: {refusal}"])
        except Exception:
            verdict = Verdict([f"raised: {traceback.format_exc().strip().splitlines()[-1]}"])
            if asked.cases == 1:
                traceback.print_exc()
        done, probes = done + 1, probes + verdict.probed
        if asked.cases == 1:
            print(case, answer, sep="\n")
        if verdict.missed:
            misses.append(seed)
            print(f"{seed}: missed: {case}", flush=True)
        if verdict.faults:
            failed += 1
            print(f"{seed}: {'; '.join(verdict.faults)}: {case}", flush=True)
    chance = scipy.stats.binom.sf(len(misses) - 1, probes, 0.01) if misses else 1.0
    conceded = f"{len(misses)} of {probes} probes missed; 1 % conceded makes as many a chance of {chance:.2g}"
    print(f"{done} cases, {failed} failed; {conceded}")
    return int(failed > 0 or chance < 1e-3)


if __name__ == "__main__":
    sys.exit(main())
