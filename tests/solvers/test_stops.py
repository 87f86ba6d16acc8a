"""Searches stopped at any moment, by Ctrl-C or their budget: what they tell is true, and nothing is lost."""

import contextlib
import inspect
import sys

import pytest
import torch

from spectral.operators import as_operator
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.golub_kahan import GolubKahanBasis, golub_kahan
from spectral.solvers.krylov import KrylovBasis
from spectral.solvers.krylov_schur import KrylovSchurBasis, krylov_schur
from spectral.solvers.lanczos import lanczos
from spectral.solvers.search import search

TRACED = {
    inspect.getfile(part) for part in (search, Checkpoint, KrylovBasis, GolubKahanBasis, KrylovSchurBasis)
}
# A single start holds one vector of the double value: only the probe finds the other.
VALUES = torch.cat([torch.tensor([2.0, 2.0]), torch.linspace(1.9, 0, 48)]).double()
Q, _ = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
M = (Q * VALUES) @ Q.T
SOLVERS = {
    "lanczos": (lanczos, as_operator(M, symmetric=True)),
    "golub-kahan": (golub_kahan, as_operator(M)),
    "krylov-schur": (krylov_schur, as_operator(M)),
}
KINDS = pytest.mark.parametrize("kind", SOLVERS)


class Interruption:
    """KeyboardInterrupt at the so-many-th line of the search or its bases; None counts the lines."""

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.before)

    def call(self, frame, event, argument):
        return self.line if frame.f_code.co_filename in TRACED else None

    def line(self, frame, event, argument):
        self.lines += event == "line"
        if self.lines == self.at:
            raise KeyboardInterrupt
        return self.line


def solve(kind, k=3, **options):
    solver, A = SOLVERS[kind]
    return solver(A, k, tol=1e-7, basis=10, **options)


def values(kind, found):
    """The values of what was found; and that its vectors are orthonormal and its images their products."""
    right = found.right[0] if kind == "golub-kahan" else found.vectors[0]
    images = found.images[0] if kind == "golub-kahan" else found.images
    torch.testing.assert_close(right @ right.T, torch.eye(len(right)).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(right @ M, images[0], atol=1e-10, rtol=0)
    return torch.linalg.svdvals(right @ M) if len(right) else right[:, 0]


def certified(kind, found):
    """Three values, and the probe's word that there is no other beyond them."""
    torch.testing.assert_close(values(kind, found), VALUES[:3], atol=1e-10, rtol=0)
    assert found.completeness.confidence == 0.99
    assert found.completeness.bound.item() <= 1.9 + 1e-6
    assert not found.notes


@KINDS
@pytest.mark.parametrize("points", [24, pytest.param(1500, marks=pytest.mark.slow)])
def test_an_interruption_loses_nothing(tmp_path, kind, points):
    """At lines spread over the whole solve: restarts, probes, refreshes, tests and writing."""
    path = tmp_path / "solve"
    with Interruption() as whole:
        certified(kind, solve(kind, checkpoint=path))
    for at in range(1, whole.lines, max(1, whole.lines // points)):
        path.unlink(missing_ok=True)
        with Interruption(at), contextlib.suppress(KeyboardInterrupt):  # outside the search it is let through
            found = solve(kind, checkpoint=path)
            values(kind, found)
            if found.notes != ["interrupted"]:
                certified(kind, found)  # nothing was left to do
        certified(kind, solve(kind, checkpoint=path))
        certified(kind, solve(kind, checkpoint=path))  # what was finished stays so


@KINDS
@pytest.mark.parametrize("budgets", [(5, 20, 33), pytest.param(range(4, 70), marks=pytest.mark.slow)])
def test_a_larger_budget_goes_on_where_a_smaller_one_stopped(tmp_path, kind, budgets):
    whole = solve(kind)
    for budget in budgets:
        path = tmp_path / str(budget)
        for _ in range(2):  # the same budget again changes nothing
            values(kind, solve(kind, max_products=budget, checkpoint=path))
        resumed = solve(kind, max_products=5000, checkpoint=path)
        certified(kind, resumed)
        assert resumed.spent["solve"] == whole.spent["solve"]
