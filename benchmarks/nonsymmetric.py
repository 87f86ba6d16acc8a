"""Eigenpairs of matrices that are not symmetric: products to convergence, beside SciPy's eigs.

    python -m benchmarks.nonsymmetric [--write] [--quick]

Test matrices, a lab's published Jacobian, and a lab's BF-CNN on an 80x80 photograph where that data is at
hand, to 1e-3 and 1e-6.  eigs (which="LR") starts from the same vector and is given the best of three sizes of
its basis; its count stands only where the residuals, measured afresh, reach the tolerance.  --write puts the
table into docs/nonsymmetric.md; --quick leaves the networks out.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, eigs
from torch import Tensor

import spectral
from benchmarks.page import BFCNN, LAB, Page, table
from denoisers.commands.console import load_problem
from spectral.operators import LinearOperator, as_operator, from_functions
from spectral.solvers import ComplexTarget, Control, KrylovSchur

N = 4096


def coupled(values: Tensor, coupling: float) -> LinearOperator:
    """Upper bidiagonal: `values` on the diagonal, which are its eigenvalues, and `coupling` beside it."""
    return from_functions(
        lambda V: values * V + coupling * torch.nn.functional.pad(V[:, 1:], (0, 1)),
        n=len(values),
        dtype=values.dtype,
    )


def turned(values: Tensor, angles: Tensor) -> LinearOperator:
    """Planes scaled by `values` and turned by `angles`: eigenvalues values exp(+- i angles)."""
    c, s = values * angles.cos(), values * angles.sin()

    def apply(V: Tensor) -> Tensor:
        x, y = V.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([c * x - s * y, s * x + c * y], dim=-1).flatten(-2)

    return from_functions(apply, n=2 * len(values), dtype=values.dtype)


def convection(side: int, wind: float) -> LinearOperator:
    """Five-point diffusion on a square, eigenvalues in (-8, 0), with a wind along both axes."""

    def apply(V: Tensor) -> Tensor:
        u = torch.nn.functional.pad(V.unflatten(-1, (side, side)), (1, 1, 1, 1))
        before, after = u[:, :-2, 1:-1] + u[:, 1:-1, :-2], u[:, 2:, 1:-1] + u[:, 1:-1, 2:]
        return ((1 + wind) * before + (1 - wind) * after - 4 * u[:, 1:-1, 1:-1]).flatten(-2)

    return from_functions(apply, n=side**2, dtype=torch.float64)


Case = tuple[str, Callable[[], LinearOperator], int, np.ndarray | None]


def problems(quick: bool) -> Iterator[Case]:
    """Names, makers of operators, k, and the eigenvalues where they are known."""
    i = torch.arange(N, dtype=torch.float64)
    values = 1 / (1 + i / 10)
    yield "1 / (1 + i/10), coupled by 0.02", lambda: coupled(values, 0.02), 10, values.numpy()
    for name, size, angle in (("0.97^i", 0.97**i, 0.3), ("1 / (1 + (i/60)^2)", 1 / (1 + (i / 60) ** 2), 0.1)):
        radii, angles = size[: N // 2], torch.full((N // 2,), angle, dtype=torch.float64)
        exact = np.concatenate([radii * np.exp(1j * angle), radii * np.exp(-1j * angle)])
        yield f"{name}, planes turned by {angle}", partial(turned, radii, angles), 10, exact
    side, wind = 32, 0.1
    along = 2 * np.sqrt(1 - wind**2) * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
    exact = (along[:, None] + along - 4).ravel()
    yield f"convection and diffusion, {side} x {side}", lambda: convection(side, wind), 10, exact
    random = np.random.default_rng(0).standard_normal((1000, 1000)) / np.sqrt(1000)
    yield "random, 1000 x 1000", lambda: as_operator(random), 6, np.linalg.eigvals(random)
    if (LAB / "Jacobian_30.npy").is_file():
        J = np.eye(900) - np.load(LAB / "Jacobian_30.npy").astype(float).reshape(900, 900)
        yield "published Jacobian, 30 x 30 pixels", lambda: as_operator(J), 20, np.linalg.eigvals(J)
    if BFCNN.is_file() and not quick:
        problem = load_problem(str(BFCNN), None, 0.15, 0, (60, 180, 80))
        model, noisy = problem.model.double(), problem.noisy.double()  # 1e-6 is near float32's rounding
        yield "BF-CNN, 80 x 80 pixels", lambda: spectral.jacobian(model, noisy), 20, None


def arpack(A: LinearOperator, k: int, tol: float, start: Tensor) -> tuple[int, int, np.ndarray] | None:
    """Products of eigs with its best basis, that basis, and the values; None where tol was not reached."""
    runs = []
    for basis in (2 * k + 1, 4 * k, k + 200):
        before, operator = A.count, A.to_scipy()
        v0 = start[0, 0].numpy().astype(operator.dtype)
        try:
            values, vectors = eigs(operator, k, which="LR", tol=tol, v0=v0, ncv=basis, maxiter=3000)
        except ArpackError:
            continue
        spent = A.count - before
        rows = torch.from_numpy(np.concatenate([vectors.T.real, vectors.T.imag])).to(A.dtype)
        real, imaginary = A.apply(rows).double().numpy().reshape(2, k, -1)
        misses = np.linalg.norm(real + 1j * imaginary - values[:, None] * vectors.T, axis=1)
        if misses.max() <= tol * np.abs(values).max():
            runs.append((spent, basis, values))
    return min(runs, key=lambda run: run[0], default=None)


def row(case: Case, tol: float) -> list[str]:
    """Products of both, the largest error of a real part, and the certificate."""
    name, make, k, exact = case
    A = make()
    start = torch.randn(1, 1, A.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = arpack(A, k, tol, start)
    found = KrylovSchur().solve(A, ComplexTarget(k), Control(tol, start=start))
    values = np.linalg.eigvals((found.vectors[0].double() @ found.AV[0].double().mT).numpy())
    beyond = found.completeness.bound.item() - values.real.min()
    known = exact if exact is not None else values
    return [
        name,
        f"{tol:g}",
        "not reached" if theirs is None else f"{theirs[0]} (ncv {theirs[1]})",
        "" if theirs is None else f"{off(theirs[2], known):.0e}",
        str(found.spent["solve"]),
        "" if exact is None else f"{off(values, known):.0e}",
        str(found.spent["completeness"]),
        "complete" if beyond <= tol * np.abs(values).max() else f"Re lambda_k + {beyond:.0e}",
    ]


def off(values: np.ndarray, known: np.ndarray) -> float:
    """The largest difference of real parts, in decreasing order."""
    count = min(len(values), len(known))
    return np.abs(np.sort(values.real)[::-1][:count] - np.sort(known.real)[::-1][:count]).max()


def products(quick: bool) -> str:
    """The table of both tolerances."""
    head = [
        "matrix",
        "tol",
        "eigs",
        "error",
        "`KrylovSchur` solve",
        "error",
        "+ completeness",
        "certificate",
    ]
    return table(head, [row(case, tol) for case in problems(quick) for tol in (1e-3, 1e-6)])


if __name__ == "__main__":
    page = Page("docs/nonsymmetric.md", __doc__, quick=False)
    page.tell("nonsymmetric", products(page.options.quick))
