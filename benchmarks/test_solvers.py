"""Wall time of the solver and of SciPy's eigsh over the same operator, accuracy checked in the same run."""

import numpy as np
import pytest
import torch

import spectral
from benchmarks.solvers import SPECTRA, arpack, diagonal
from spectral.console import load_problem


@pytest.mark.parametrize("solver", ["top_eigs", "eigsh"])
@pytest.mark.parametrize("name", SPECTRA)
def test_diagonal(benchmark, name, solver):
    values, _ = SPECTRA[name]
    found = benchmark(_solve, diagonal(values), 10, 1e-6, solver)
    assert np.abs(found - values[:10].numpy()).max() < 1e-9


@pytest.mark.parametrize("solver", ["top_eigs", "eigsh"])
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
    return spectral.top_eigs(S, k=k, tol=tol, method="lanczos").values.numpy()
