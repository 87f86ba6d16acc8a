"""Products to a tolerance, by every method here and by SciPy's, each answer checked; what certainty costs.

    python -m benchmarks.solvers [--write] [--only SECTION] [--seeds 100]

Sections: `spectra` and `singular`, three diagonal operators (n 4096, k 10); `network-1e-3`, `network-1e-6`
and `network-svd`, a lab's BF-CNN on an 80x80 photograph (k 20), where its data is at hand; `shipped`, the
shipped network; `inside`, intervals; `preconditioned`, a well on a grid; `many`, hundreds of pairs; `trap`,
twelve eigenvalues within 1.1e-4 from many seeds.  --write puts the tables into docs/solvers.md.

A product is one with a symmetric operator, or for singular values one with A and one with A'.  A count stands
only where the true residuals reached tol max |lambda| and the values are right; peers get the best of a few
settings, and are stopped where they take more than twice what the best of ours did.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import scipy.fft
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, lobpcg, svds
from torch import Tensor

import spectral
from benchmarks.methods import solve
from benchmarks.page import BFCNN, Page, table
from denoisers.commands.console import load_problem
from spectral import operators, solvers
from spectral.solvers import LOBPCG, Chebyshev, GolubKahan, Lanczos
from spectral.solvers.chebyshev import filter_for

I = torch.arange(4096, dtype=torch.float64)  # noqa: E741
SPECTRA = {
    "1 / (1 + (i/60)^2)": 1 / (1 + (I / 60) ** 2),
    "1 / (1 + i/10)": 1 / (1 + I / 10),
    "0.97^i": 0.97**I,
}
TRAP = torch.cat([1 + 1.1e-4 * torch.linspace(0, 1, 12), 0.8 * torch.linspace(0, 1, 4084)]).double()
TOLERANCES = (1e-3, 1e-6)
NONE = "-"

Problem = tuple[str, operators.LinearOperator, int, float, np.ndarray, bool]
"""Its name, the operator, k, tol, the exact values, and whether peers get all their settings."""


class TooManyError(Exception):
    """A peer took more products than are of interest."""


def diagonal(values: Tensor, told: bool = True) -> operators.LinearOperator:
    """diag(values), whose symmetry may be told or not."""

    def apply(V: Tensor) -> Tensor:
        return V * values

    return operators.from_functions(apply, apply, n=len(values), symmetric=told, dtype=values.dtype)


def network(denoiser: str) -> spectral.jacobians.Jacobian:
    """The Jacobian on 80x80 pixels of the shipped photograph, sigma 0.15."""
    problem = load_problem(denoiser, None, 0.15, 0, (60, 180, 80))
    return spectral.jacobian(problem.model, problem.noisy)


def arpack(S: operators.LinearOperator, k: int, tol: float, seed: int = 0) -> tuple[np.ndarray, int]:
    """The k largest eigenvalues by eigsh from a seeded start, and the products it took."""
    start = np.random.default_rng(seed).standard_normal(S.shape[0]).astype(S.to_scipy().dtype)
    before = S.count
    theta = eigsh(S.to_scipy(), k, which="LA", tol=tol, v0=start, return_eigenvectors=False)
    return np.sort(theta)[::-1], S.count - before


def first_vector(A: operators.LinearOperator) -> np.ndarray:
    """The start of every method that has one: a Krylov space's luck is its start."""
    return np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.to_scipy().dtype)


# The true residuals and values, of rows V (k, n)


def good(A: operators.LinearOperator, V: np.ndarray, tol: float, exact: np.ndarray) -> bool:
    """Whether rows are eigenvectors of the exact values, to tol max |lambda|."""
    rows = torch.as_tensor(np.ascontiguousarray(V), dtype=A.dtype)
    W = A.apply(rows).double().numpy()
    theta = (V * W).sum(1)
    residual = np.linalg.norm(W - theta[:, None] * V, axis=1).max()
    scale = np.abs(exact).max()
    rounding = 10 * torch.finfo(A.dtype).eps * scale
    apart = np.abs(np.sort(theta)[::-1] - exact).max()
    return bool(residual <= 1.01 * max(tol * scale, rounding) and apart <= max(tol * scale, rounding))


def good_triplets(
    A: operators.LinearOperator,
    U: np.ndarray,
    sigma: np.ndarray,
    V: np.ndarray,
    tol: float,
    exact: np.ndarray,
) -> bool:
    """The same for singular triplets."""
    right, left = (torch.as_tensor(np.ascontiguousarray(X), dtype=A.dtype) for X in (V, U))
    one = np.linalg.norm(A.apply(right).double().numpy() - sigma[:, None] * U, axis=1).max()
    other = np.linalg.norm(A.apply_transpose(left).double().numpy() - sigma[:, None] * V, axis=1).max()
    allowed = max(tol, 10 * torch.finfo(A.dtype).eps) * exact[0]
    return bool(max(one, other) <= 1.01 * allowed and np.abs(np.sort(sigma)[::-1] - exact).max() <= allowed)


# Ours: products to solve, and those that make it certain


def ours(
    A: operators.LinearOperator, k: int, tol: float, exact: np.ndarray, full: bool
) -> dict[str, tuple[int, str]]:
    """Products of the solve of each method, and what it says; `-` where the answer is not good."""
    start = torch.as_tensor(first_vector(A)).reshape(1, 1, -1)
    calls: dict[str, Callable[[], solvers.RitzPairs]] = {
        "`lanczos`": lambda: solve(Lanczos(), A, k, tol=tol, start=start),
        "`lobpcg`": lambda: solve(LOBPCG(), A, k, tol=tol),
        "`chebyshev`": lambda: solve(Chebyshev(degree=4), A, k, tol=tol),
    }
    if not full:
        del calls["`chebyshev`"]  # for the ends of networks' spectra it is never the method
    found = {}
    for name, call in calls.items():
        pairs = call()
        solved = pairs.spent["solve"]
        right = good(A, pairs.vectors[0].double().numpy(), tol, exact)
        found[name] = (solved, f"{solved} + {pairs.spent['completeness']}" if right else NONE)
    return found


# Peers


def limited(A: operators.LinearOperator, most: float) -> LinearOperator:
    """A for SciPy, that raises TooManyError once `most` vectors have been multiplied."""
    B, begun = A.to_scipy(), A.count

    def guarded(product: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def checked(X: np.ndarray) -> np.ndarray:
            if A.count - begun > most:
                raise TooManyError
            return product(X)

        return checked

    return LinearOperator(
        B.shape,
        dtype=B.dtype,
        matvec=guarded(B.matvec),
        matmat=guarded(B.matmat),
        rmatvec=guarded(B.rmatvec),
        rmatmat=guarded(B.rmatmat),
    )


def best(
    A: operators.LinearOperator,
    settings: list[Callable[[LinearOperator], tuple[np.ndarray, ...]]],
    check: Callable[..., bool],
    most: float,
    price: int = 1,
) -> str:
    """The fewest products, of `price` vectors each, among settings whose answer is good."""
    fewest, passed = math.inf, False
    for setting in settings:
        before = A.count
        try:
            answer = setting(limited(A, min(most * price, fewest)))
        except (TooManyError, SystemError):  # PROPACK wraps what its callback raises
            passed = True
            continue
        except (ArpackError, np.linalg.LinAlgError, ValueError):
            continue
        spent = A.count - before
        if check(*answer):
            fewest = min(fewest, spent)
    if fewest < math.inf:
        return f"{fewest / price:.0f}"
    return f"> {most:.0f}" if passed else NONE


def peers(
    A: operators.LinearOperator, k: int, tol: float, exact: np.ndarray, most: float, full: bool
) -> dict[str, str]:
    """eigsh over sizes of its basis and tolerances, lobpcg without and with guard vectors."""
    n, scale = A.shape[0], float(np.abs(exact).max())
    rng = np.random.default_rng(0)
    kind = A.to_scipy().dtype
    start = first_vector(A)
    block = rng.standard_normal((n, k + 10)).astype(kind)
    # ARPACK's tolerance is relative to each value, ours to the largest.
    slack = float(scale / np.abs(exact).min())
    sizes = [2 * k + 1, 3 * k, 4 * k, 6 * k] if full else [2 * k + 1, 4 * k]
    looser = sorted({1.0, min(slack, 10.0), 3.0, 10.0}, reverse=True) if full else [min(slack, 10.0)]

    def by_eigsh(ncv: int, loose: float) -> Callable[[LinearOperator], tuple[np.ndarray, ...]]:
        return lambda B: (eigsh(B, k, which="LA", tol=loose * tol, v0=start, ncv=ncv)[1].T,)

    def by_lobpcg(guards: int) -> Callable[[LinearOperator], tuple[np.ndarray, ...]]:
        def run(B: LinearOperator) -> tuple[np.ndarray, ...]:
            values, X = lobpcg(B, block[:, : k + guards].copy(), tol=tol * scale, maxiter=2000, largest=True)
            return (X[:, np.argsort(-values)[:k]].T,)

        return run

    def check(V: np.ndarray) -> bool:
        return good(A, V.astype(np.float64), tol, exact)

    eigsh_settings = [by_eigsh(ncv, loose) for ncv in sizes for loose in looser]
    return {
        "SciPy `eigsh`": best(A, eigsh_settings, check, most),
        "SciPy `lobpcg`": best(A, [by_lobpcg(0)], check, most),
        "SciPy `lobpcg`, guards": best(
            A, [by_lobpcg(g) for g in ((2, 5, 10) if full else (5,))], check, most
        ),
    }


def svd_peers(
    A: operators.LinearOperator, k: int, tol: float, exact: np.ndarray, most: float, full: bool
) -> dict[str, str]:
    """svds by its three solvers, each at a few tolerances: what it asks of A'A says little about A."""
    start = first_vector(A)
    tolerances = {
        "arpack": (tol, tol**2, tol**1.5) if full else (tol,),
        "lobpcg": (tol, tol**2, tol**1.5) if full else (tol,),
        "propack": (tol**0.5, 10 * tol, tol, tol / 10) if full else (tol**0.5,),
    }

    def by(solver: str, asked: float) -> Callable[[LinearOperator], tuple[np.ndarray, ...]]:
        def run(B: LinearOperator) -> tuple[np.ndarray, ...]:
            start_of = {"propack": {"v0": start}, "arpack": {"v0": start}}.get(solver, {"rng": 0})
            U, sigma, Vh = svds(B, k, tol=asked, solver=solver, maxiter=2000, **start_of)
            return U.T, sigma, Vh

        return run

    def check(U: np.ndarray, sigma: np.ndarray, V: np.ndarray) -> bool:
        return good_triplets(A, *(x.astype(np.float64) for x in (U, sigma, V)), tol, exact)

    return {
        f"SciPy `svds`, {solver}": best(A, [by(solver, t) for t in asked], check, most, price=2)
        for solver, asked in tolerances.items()
    }


# The sections


def compared(column: Callable[..., dict[str, str]], problems: list[Problem]) -> str:
    """Methods down, problems across."""
    columns = [column(*problem) for _, *problem in problems]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return table(["products", *(name for name, *_ in problems)], rows)


def of_spectra(symmetric: bool) -> list[Problem]:
    """A diagonal operator of each spectrum, to each tolerance."""
    return [
        (f"`{name}`, {tol:g}", diagonal(values, symmetric), 10, tol, values[:10].numpy(), True)
        for name, values in SPECTRA.items()
        for tol in TOLERANCES
    ]


def pairs(A: operators.LinearOperator, k: int, tol: float, exact: np.ndarray, full: bool) -> dict[str, str]:
    """Products for eigenpairs, by method."""
    mine = ours(A, k, tol, exact, full)
    most = 2 * min(solved for solved, told in mine.values() if told != NONE)
    return {name: told for name, (_, told) in mine.items()} | peers(A, k, tol, exact, most, full)


def triplets(
    A: operators.LinearOperator, k: int, tol: float, exact: np.ndarray, full: bool
) -> dict[str, str]:
    """Products for singular triplets, by method."""
    found = solve(GolubKahan(), A, k, tol=tol, start=torch.as_tensor(first_vector(A)).reshape(1, 1, -1))
    sigma = torch.linalg.vector_norm(found.AV[0], dim=-1).double().numpy()
    U, V = (part[0].double().numpy() for part in (found.left, found.right))
    told = f"{found.spent['solve']} + {found.spent['completeness']}"
    mine = {"`golub_kahan`": told if good_triplets(A, U, sigma, V, tol, exact) else NONE}
    return mine | svd_peers(A, k, tol, exact, 2 * found.spent["solve"], full)


def bfcnn(tol: float) -> str:
    """The lab's network; exact are Ritz values of a tighter solve, good to the square of its residual."""
    if not BFCNN.is_file():
        return ""
    S = network(str(BFCNN)).symmetric_part()
    exact = spectral.top_eigs(S, k=20, tol=1e-5, method="lanczos").values.double().numpy()
    return compared(pairs, [(f"BF-CNN, {tol:g}", S, 20, tol, exact, False)])


def bfcnn_svd() -> str:
    if not BFCNN.is_file():
        return ""
    J = network(str(BFCNN))
    exact = spectral.top_svd(J, k=20, tol=1e-5, method="golub-kahan").values.double().numpy()
    return compared(triplets, [("BF-CNN, 0.001", J, 20, 1e-3, exact, False)])


def shipped() -> str:
    S = network("photos").symmetric_part()
    exact = spectral.top_eigs(S, k=20, tol=1e-5, method="lanczos").values.double().numpy()
    return compared(pairs, [(f"`photos`, {tol:g}", S, 20, tol, exact, False) for tol in TOLERANCES])


def inside() -> str:
    """Intervals: what the filter takes, what the way chosen takes, and which that is."""
    above = torch.cat([SPECTRA["0.97^i"][:500], 2 + torch.linspace(0, 1, 1500, dtype=torch.float64)])
    cases = [
        ("`1 / (1 + (i/60)^2)`", SPECTRA["1 / (1 + (i/60)^2)"], (0.205, 0.305)),
        ("`0.97^i`", SPECTRA["0.97^i"], (0.31, 0.41)),
        ("1000 uniform on [-1, 1]", torch.linspace(-1, 1, 1000, dtype=torch.float64), (0.1001, 0.1501)),
        ("`0.97^i`, i < 500, and 1500 from 2 to 3", above, (0.31, 0.61)),
    ]
    rows = []
    for name, values, (low, high) in cases:
        expected = values[(values > low) & (values < high)].sort(descending=True).values
        degree = filter_for(diagonal(values), low, high).degree
        filtered, chosen = (
            solve(Chebyshev(degree=m), diagonal(values), between=(low, high), tol=1e-6)
            for m in (degree, None)
        )
        cells = []
        for found in (filtered, chosen):
            theta = (found.vectors * found.AV).sum(-1)[0]
            right = len(theta) == len(expected) and bool((theta - expected).abs().max() < 1e-9)
            cells.append(str(sum(found.spent.values())) if right else NONE)
        way = (chosen.notes or ["the filter"])[-1]
        rows.append([name, f"({low:g}, {high:g})", str(len(expected)), str(degree), *cells, way])
    return table(["spectrum", "interval", "pairs", "degree", "filter", "chosen", "what was chosen"], rows)


def well(side: int = 64) -> tuple[operators.LinearOperator, Callable[[Tensor], Tensor]]:
    """-Laplacian of a grid with zero walls and a potential well, and the inverse without the well's shape."""
    x = torch.linspace(-1, 1, side, dtype=torch.float64)
    potential = 0.1 * (x[:, None] ** 2 + 2 * (x[None] - 0.3) ** 2)
    one = 2 - 2 * torch.cos(math.pi * torch.arange(1, side + 1, dtype=torch.float64) / (side + 1))
    grid = (one[:, None] + one[None] + potential.mean()).numpy()

    def apply(V: Tensor) -> Tensor:
        X = V.reshape(-1, side, side)
        Y = (4 + potential) * X
        Y[:, 1:] -= X[:, :-1]
        Y[:, :-1] -= X[:, 1:]
        Y[:, :, 1:] -= X[:, :, :-1]
        Y[:, :, :-1] -= X[:, :, 1:]
        return Y.reshape(V.shape)

    def inverse(V: Tensor) -> Tensor:
        sines = scipy.fft.dstn(V.reshape(-1, side, side).numpy(), type=1, axes=(1, 2)) / grid
        return torch.as_tensor(scipy.fft.idstn(sines, type=1, axes=(1, 2))).reshape(V.shape)

    return operators.from_functions(apply, n=side**2, symmetric=True, dtype=torch.float64), inverse


def preconditioned() -> str:
    """The 8 lowest states of a well, with and without a sine-transform preconditioner, and SciPy's lobpcg."""
    A, inverse = well()
    exact = solve(Lanczos(), A, 8, which="smallest", tol=1e-10)
    values = (exact.vectors * exact.AV).sum(-1)[0].numpy()
    rows = []
    for tol in (1e-4, 1e-6):
        M = LinearOperator(
            A.shape,
            matvec=lambda x: inverse(torch.as_tensor(x.reshape(1, -1))).numpy()[0],
            matmat=lambda X: inverse(torch.as_tensor(np.ascontiguousarray(X.T))).numpy().T,
            dtype=np.float64,
        )
        start = np.random.default_rng(0).standard_normal((A.shape[0], 10))
        before = A.count
        theta, _ = lobpcg(A.to_scipy(), start, M=M, tol=tol * values.max(), maxiter=500, largest=False)
        peer = A.count - before if np.abs(np.sort(theta)[:8] - values).max() < tol else NONE
        cells = []
        for call in (
            lambda tol=tol: solve(Lanczos(), A, 8, which="smallest", tol=tol),
            lambda tol=tol: solve(LOBPCG(), A, 8, which="smallest", tol=tol),
            lambda tol=tol: solve(LOBPCG(preconditioner=inverse), A, 8, which="smallest", tol=tol),
        ):
            found = call()
            theta = (found.vectors * found.AV).sum(-1)[0].numpy()
            right = np.abs(theta - values).max() < tol
            cells.append(f"{found.spent['solve']} + {found.spent['completeness']}" if right else NONE)
        rows.append([f"{tol:g}", *cells, str(peer)])
    return table(
        ["tol", "`lanczos`", "`lobpcg`", "`lobpcg`, preconditioned", "SciPy `lobpcg`, preconditioned"], rows
    )


def many() -> str:
    """Hundreds of pairs of an operator that costs nothing: products and seconds, the accuracy checked."""
    values = 1 / (1 + (torch.arange(10_000, dtype=torch.float64) / 300) ** 2)
    k, rows = 200, []
    calls: dict[str, Callable[[operators.LinearOperator], solvers.RitzPairs]] = {
        "`lanczos`": lambda A: solve(Lanczos(), A, k, tol=1e-6),
        "`lanczos`, block 8": lambda A: solve(Lanczos(block=8), A, k, tol=1e-6),
        "`chebyshev`, degree 4, block 8": lambda A: solve(Chebyshev(block=8, degree=4), A, k, tol=1e-6),
        "`chebyshev`, degree 8, block 8": lambda A: solve(Chebyshev(block=8, degree=8), A, k, tol=1e-6),
    }
    for name, call in calls.items():
        A = diagonal(values)
        began = time.perf_counter()
        found = call(A)
        seconds = time.perf_counter() - began
        theta = (found.vectors * found.AV).sum(-1)[0]
        right = bool((theta - values[:k]).abs().max() < 1e-9)
        rows.append([name, str(A.count) if right else NONE, f"{seconds:.1f}" if right else NONE])
        print(rows[-1], flush=True)
    return table(["200 of 10,000, tol 1e-6", "products, all told", "seconds"], rows)


def trap(seeds: int) -> str:
    """How often each misses a member of the cluster."""
    methods: dict[str, Callable[[int], solvers.RitzPairs]] = {
        "`lanczos`": lambda seed: solve(Lanczos(), diagonal(TRAP), 10, tol=1e-3, seed=seed),
        "`lobpcg`": lambda seed: solve(LOBPCG(), diagonal(TRAP), 10, tol=1e-3, seed=seed),
        "`chebyshev`": lambda seed: solve(Chebyshev(), diagonal(TRAP), 10, tol=1e-3, seed=seed),
    }
    theirs = [arpack(diagonal(TRAP), 10, 1e-3, seed) for seed in range(seeds)]
    missed = sum(theta.min() < 0.9 for theta, _ in theirs)
    rows = [["SciPy `eigsh`", f"{missed} of {seeds}", f"{np.mean([p for _, p in theirs]):.0f}", NONE]]
    for name, call in methods.items():
        found = [call(seed) for seed in range(seeds)]
        missed = sum(bool((f.vectors * f.AV).sum(-1).min() < 0.9) for f in found)
        took, sure = (np.mean([f.spent[stage] for f in found]) for stage in ("solve", "completeness"))
        rows.append([name, f"{missed} of {seeds}", f"{took:.0f}", f"{sure:.0f}"])
    return table(["method", "wrong by 0.2", "products to solve, mean", "to be sure, mean"], rows)


if __name__ == "__main__":
    page = Page("docs/solvers.md", __doc__, seeds=100, only="")
    options = page.options
    sections: dict[str, Callable[[], str]] = {
        "spectra": lambda: compared(pairs, of_spectra(True)),
        "singular": lambda: compared(triplets, of_spectra(False)),
        "network-1e-3": lambda: bfcnn(1e-3),
        "network-1e-6": lambda: bfcnn(1e-6),
        "network-svd": bfcnn_svd,
        "shipped": shipped,
        "inside": inside,
        "preconditioned": preconditioned,
        "many": many,
        "trap": lambda: trap(options.seeds),
    }
    for name, section in sections.items():
        if options.only in ("", name) and (text := section()):
            page.tell(name, text)
