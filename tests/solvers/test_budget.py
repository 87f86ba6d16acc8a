"""No method forms more products than it was given, whatever the size; or it refuses at the door."""

import functools
import itertools

import pytest
import torch

import spectral
from spectral.errors import OptionError
from spectral.solvers import LOBPCG, Lanczos

SYMMETRIC = ("auto", "lanczos", "lobpcg", "chebyshev", "dense")


def matrix(n: int, symmetric: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    M = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    return M + M.T if symmetric else M


def within(call, M: torch.Tensor, budget: int) -> bool:
    """Whether the call was served, within its budget."""
    A = spectral.as_operator(M)
    try:
        found = call(A, max_products=budget)
    except OptionError as refusal:
        assert str(budget) in str(refusal)
        return False
    spent = {name: n for name, n in found.spent.items() if name not in ("checks", "asymmetry", "rounding")}
    sides = 2 if isinstance(found, spectral.SingularTriplets) else 1
    assert "asymmetry" in found.spent or A.count <= sides * sum(found.spent.values())
    residuals = spent.pop("residuals")
    assert sum(spent.values()) <= budget and residuals <= max(found.k + 1, M.shape[0])
    if not found.converged.all() or found.k == 0:
        assert found.notes or found.completeness.confidence == 1
    return True


QUESTIONS = [functools.partial(spectral.top_eigs, k=4, method=method) for method in SYMMETRIC]
QUESTIONS += [
    functools.partial(spectral.top_eigs, k=3, which="magnitude", method="chebyshev"),
    functools.partial(spectral.top_eigs, k=3, which="smallest", method=LOBPCG(3)),
    functools.partial(spectral.top_eigs, above=1.2, method="chebyshev"),
    functools.partial(spectral.top_eigs, above=1.2, method="lobpcg"),
    functools.partial(spectral.top_eigs, above=1.2),
    functools.partial(spectral.top_eigs, between=(0.2, 0.4)),
    functools.partial(spectral.top_eigs, between=(-0.01, 0.01)),
    functools.partial(spectral.top_eigs_full, k=4),
    functools.partial(spectral.top_eigs_full, k=4, method="krylov-schur"),
    functools.partial(spectral.top_svd, k=4),
    functools.partial(spectral.top_svd, k=4, method="golub-kahan"),
]


@pytest.mark.parametrize("ask", QUESTIONS, ids=lambda ask: str(ask.keywords))
def test_a_budget_is_kept(ask):
    served = [
        within(ask, matrix(n), budget)
        for n, budget in itertools.product((8, 40, 80, 150), (4, 7, 12, 30, 60, 100, 200))
    ]
    assert sum(served) >= 8


@pytest.mark.parametrize("budget", [6, 11, 20, 60, 200])
def test_left_vectors_share_it(budget):
    M = matrix(60, symmetric=False)
    ask = functools.partial(spectral.top_eigs_full, k=3, left=True, method="krylov-schur", tol=1e-3)
    assert within(ask, M, budget) == (budget >= 9)


def test_starts_and_blocks_wider_than_a_budget():
    M = matrix(60)
    start = torch.randn(30, 60, dtype=torch.float64)
    assert within(functools.partial(spectral.top_eigs, k=4, method="lobpcg", start=start), M, 12)
    assert not within(functools.partial(spectral.top_eigs, above=1.0, method=Lanczos(8)), M, 7)


def test_a_second_precision_shares_it():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(144, 144), torch.nn.ReLU(), torch.nn.Linear(144, 144)).double()
    y = torch.rand(1, 144, dtype=torch.float64)
    for budget in (20, 60, 400):
        found = spectral.top_eigs(net, y, k=4, precision="float32", max_products=budget)
        spent = {
            name: n for name, n in found.spent.items() if name not in ("asymmetry", "residuals", "rounding")
        }
        assert sum(spent.values()) <= budget
    with pytest.raises(OptionError, match="solves twice"):
        spectral.top_eigs(net, y, k=4, precision="float32", max_products=11)
