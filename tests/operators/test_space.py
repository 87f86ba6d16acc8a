"""Spaces: blocks of rows made orthonormal, and solvers and estimators that add up entries by them alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral.estimators.exchangeable import xtrace
from spectral.estimators.probes import sampler
from spectral.estimators.quadrature import golub_kahan_rule, lanczos_rule
from spectral.estimators.sketch import Sketch
from spectral.operators.base import Derived, LinearOperator
from spectral.operators.interop import as_operator
from spectral.operators.space import Space
from spectral.solvers import LOBPCG, Chebyshev, Control, GolubKahan, KrylovSchur, Lanczos, Target
from spectral.solvers.certificate import certify, certify_triplets, measured_rounding
from spectral.solvers.checks import check_operator
from spectral.solvers.invariant import certify_full
from spectral.solvers.target import ComplexTarget


class Twice(Space):
    """R^n, each vector kept twice, copies side by side: a sum over a row is twice what it stands for."""

    def __init__(self, dimension: int) -> None:
        super().__init__(2 * dimension)
        self.dimension = dimension

    def inner(self, U, V):
        return super().inner(U, V) / 2

    def dots(self, U, V):
        return super().dots(U, V) / 2

    def norms(self, V):
        return super().norms(V) / math.sqrt(2)

    def qr(self, V):
        Q, R = Space(self.dimension).qr(V[..., : self.dimension])
        return torch.cat([Q, Q], -1), R

    def normal(self, *size, generator):
        half = Space(self.dimension).normal(*size, generator=generator)
        return torch.cat([half, half], -1)

    def signs(self, *size, generator):
        half = Space(self.dimension).signs(*size, generator=generator)
        return torch.cat([half, half], -1)


class Doubled(Derived):
    """A on such vectors."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A, spaces=(Twice(A.shape[0]), Twice(A.shape[1])), symmetric=A.symmetric)

    def _apply(self, V):
        return self.A.apply(V[..., : self.A.shape[1]]).repeat(*(1,) * (V.ndim - 1), 2)

    def _apply_transpose(self, V):
        return self.A.apply_transpose(V[..., : self.A.shape[0]]).repeat(*(1,) * (V.ndim - 1), 2)


def matrix(r=60, n=60):
    return torch.randn(r, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(n)


TOL = 1e-9
M = matrix()
S = (M + M.T) / 2


@pytest.mark.parametrize(
    "method", [Lanczos(), Lanczos(block=3, basis=20), LOBPCG(width=6), Chebyshev(degree=12)], ids=repr
)
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenpairs(method, which):
    A, target = Doubled(as_operator(S, symmetric=True)), Target(3, which)
    found = method.solve(A, target, Control(tol=TOL))
    proof = certify(A.domain, found.vectors, found.AV, descending=True, magnitude=which == "magnitude")
    values = torch.linalg.eigvalsh(S)
    order = values.abs() if which == "magnitude" else values if which == "largest" else -values
    expected = values[order.argsort(descending=True)[:3]]
    torch.testing.assert_close(proof.values[0].sort().values, expected.sort().values, atol=10 * TOL, rtol=0)
    assert proof.orthogonality < 1e-12 and proof.residuals.max() < 10 * TOL
    assert found.completeness.confidence == 0.99 and found.vectors.shape == (1, 3, 120)
    assert measured_rounding(A, found.vectors, found.AV, torch.Generator()).max() < 1e-13
    assert check_operator(A) == 4


def test_singular_triplets():
    R = matrix(40, 70)
    A = Doubled(as_operator(R))
    found = GolubKahan(basis=20).solve(A, Target(3), Control(tol=TOL))
    proof = certify_triplets(A, found)
    torch.testing.assert_close(proof.values[0], torch.linalg.svdvals(R)[:3], atol=10 * TOL, rtol=0)
    assert proof.orthogonality < 1e-12 and found.completeness.confidence == 0.99
    assert check_operator(A) == 5


def test_complex_eigenpairs():
    A, target = Doubled(as_operator(M)), ComplexTarget(3, "magnitude", left=True)
    found = KrylovSchur(basis=30).solve(A, target, Control(tol=TOL))
    proof = certify_full(A.domain, found, target)
    expected = torch.linalg.eigvals(M).abs().sort(descending=True).values[: len(proof.values)]
    torch.testing.assert_close(proof.values.abs(), expected, atol=100 * TOL, rtol=0)
    assert proof.orthogonality < 1e-12 and proof.residuals.max() < 100 * TOL
    assert proof.left_residuals is not None and proof.left_residuals.max() < 1000 * TOL


def test_estimators_are_the_same():
    """Of probes that are the same, in a space where each vector is kept twice."""
    A, alone = Doubled(as_operator(M)), as_operator(M)
    for kind in ("rademacher", "gaussian", "sphere", "orthogonal"):
        rows = [sampler(X, kind, 3)(4) for X in (A, alone)]
        torch.testing.assert_close(rows[0], torch.cat([rows[1], rows[1]], -1))
    values = [xtrace(Sketch(X, sampler(X, "sphere", 1), 8)) for X in (A, alone)]
    assert values[0].value == pytest.approx(values[1].value) and values[0].stderr == pytest.approx(
        values[1].stderr
    )
    starts = [X.domain.normal(2, generator=torch.Generator().manual_seed(0)) for X in (A, alone)]
    starts = [V / X.domain.norms(V).unsqueeze(-1) for V, X in zip(starts, (A, alone), strict=True)]
    for rule, part in ((lanczos_rule, lambda X: X.symmetric_part()), (golub_kahan_rule, lambda X: X)):
        ours, true = (rule(part(X), V, 9)[0] for X, V in zip((A, alone), starts, strict=True))
        torch.testing.assert_close(ours.nodes, true.nodes)
        torch.testing.assert_close(ours.weights, true.weights)


@given(
    st.integers(1, 40), st.integers(1, 8), st.integers(0, 6), st.sampled_from([torch.float32, torch.float64])
)
def test_complements_are_orthonormal(n, m, held, dtype):
    held, space, generator = min(held, n - 1), Space(n), torch.Generator().manual_seed(n)
    m, eps = min(m, n - held), torch.finfo(dtype).eps
    V = space.qr(space.normal(2, held, generator=generator).to(dtype))[0]
    W = space.normal(2, m, generator=generator).to(dtype)
    X = space.complement(W, V)
    assert X.shape == (2, m, n) and space.overlap(torch.cat([V, X], 1)).max() < 50 * n * eps
    H, rest = space.orthogonalise(W, V)
    torch.testing.assert_close(H.to(dtype) @ V + rest, W, atol=50 * n * eps, rtol=0)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_lengths_do_not_overflow(size):
    V = torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * size
    torch.testing.assert_close(Space(2).lengths(V), torch.tensor([5 * size, 0.0]))


def test_dots_do_not_round_by_the_length():
    n = 1 << 22
    V = torch.full((1, n), 0.1)
    assert Space(n).dots(V, V).item() == pytest.approx(n * float(V[0, 0].double()) ** 2, rel=1e-13)
