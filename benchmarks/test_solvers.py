"""Wall time of the solvers and of SciPy's over the same operator, accuracy checked in the same run."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import svds

import spectral
from benchmarks import methods
from benchmarks.solvers import SPECTRA, arpack, diagonal, well
from denoisers.commands.console import load_problem
from spectral.solvers import LOBPCG, GolubKahan, Lanczos


@pytest.mark.parametrize("solver", ["lanczos", "lobpcg", "chebyshev", "eigsh"])
@pytest.mark.parametrize("name", SPECTRA)
def test_diagonal(benchmark, name, solver):
    values = SPECTRA[name]
    found = benchmark(_solve, diagonal(values), 10, 1e-6, solver)
    assert np.abs(found - values[:10].numpy()).max() < 1e-9


@pytest.mark.parametrize("solver", ["golub-kahan", "arpack", "propack"])
@pytest.mark.parametrize("name", SPECTRA)
def test_singular_values(benchmark, name, solver):
    values = SPECTRA[name]

    def solve():
        A = diagonal(values, told=False)
        if solver == "golub-kahan":
            found = methods.solve(GolubKahan(), A, 10, tol=1e-6)
            return torch.linalg.vector_norm(found.AV[0], dim=-1).numpy()
        return np.sort(svds(A.to_scipy(), 10, tol=1e-6, solver=solver)[1])[::-1]

    assert np.abs(benchmark(solve) - values[:10].numpy()).max() < 1e-9


@pytest.mark.parametrize("preconditioned", [False, True])
def test_well(benchmark, preconditioned):
    A, inverse = well()
    method = LOBPCG(preconditioner=inverse if preconditioned else None)
    found = benchmark(methods.solve, method, A, 8, which="smallest", tol=1e-6)
    exact = methods.solve(Lanczos(), A, 8, which="smallest", tol=1e-10)
    assert (_values(found) - _values(exact)).abs().max() < 1e-9


@pytest.mark.parametrize("solver", ["lanczos", "eigsh"])
def test_shipped_network(benchmark, solver):
    problem = load_problem("photos", None, 0.15, 0, (60, 180, 80))
    S = spectral.jacobian(problem.model, problem.noisy).symmetric_part()
    found = benchmark.pedantic(_solve, (S, 20, 1e-4, solver), rounds=3)
    # Against Ritz values of a tighter solve: eigenvalues are good to the square of the residual.
    exact = spectral.top_eigs(S, k=20, tol=1e-5).values.numpy()
    assert np.abs(found - exact).max() < 1e-4
    benchmark.extra_info["threads"] = torch.get_num_threads()


def _solve(S, k, tol, solver):
    if solver == "eigsh":
        return arpack(S, k, tol)[0]
    return spectral.top_eigs(S, k=k, tol=tol, method=solver).values.numpy()


def _values(found):
    return (found.vectors * found.AV).sum(-1)[0]
