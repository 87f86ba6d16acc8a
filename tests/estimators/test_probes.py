import math

import pytest
import torch

import spectral
from spectral.errors import OptionError
from spectral.estimators.probes import sampler
from spectral.operators import as_operator

KINDS = ("rademacher", "gaussian", "sphere")


@pytest.mark.parametrize("kind", KINDS)
def test_second_moment_is_the_identity(kind):
    A, n = as_operator(torch.zeros(2, 4, 4, dtype=torch.float64)), 4
    draw = sampler(A, kind, 0)
    Z = torch.cat([draw(4) for _ in range(5000)], -2)
    assert Z.shape == (2, 20000, n)
    assert (Z.mT @ Z / 20000 - torch.eye(n)).abs().max() < 5 * math.sqrt(2 / 20000)
    assert Z.mean(-2).abs().max() < 5 / math.sqrt(20000)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_names_the_probes(kind):
    A = as_operator(torch.zeros(6, 6))
    assert torch.equal(sampler(A, kind, 5)(3), sampler(A, kind, 5)(3))
    assert not torch.equal(sampler(A, kind, 5)(3), sampler(A, kind, 6)(3))
    assert sampler(A, kind, 5)(3).dtype == torch.float32


def test_spheres():
    A, n = as_operator(torch.zeros(9, 9, dtype=torch.float64)), 9
    assert (sampler(A, "sphere", 0)(7).square().sum(-1) - n).abs().max() < 1e-12
    with pytest.raises(OptionError, match="kind is one of"):
        sampler(A, "cauchy", 0)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "sphere"])
def test_variance_of_the_quadratic_form(kind):
    n = 6
    M = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = (M + M.T) / 2
    Z = sampler(as_operator(M), kind, 1)(200_000)
    forms = ((Z @ M.T) * Z).sum(-1)
    square, trace = S.square().sum(), torch.trace(S)
    expected = {
        "rademacher": 2 * (square - torch.diagonal(S).square().sum()),
        "gaussian": 2 * square,
        "sphere": 2 * n / (n + 2) * (square - trace**2 / n),
    }[kind]
    assert forms.var().item() == pytest.approx(expected.item(), rel=0.03)
    assert forms.mean().item() == pytest.approx(trace.item(), abs=5 * math.sqrt(expected / 200_000))


def test_orthogonal_rows_are_a_frame():
    A, n = as_operator(torch.zeros(2, 9, 9, dtype=torch.float64)), 9
    draw = sampler(A, "orthogonal", 0)
    Z = torch.cat([draw(4), draw(2), draw(3)], -2)
    torch.testing.assert_close(Z @ Z.mT, n * torch.eye(n).double().expand(2, n, n), atol=1e-12, rtol=0)
    with pytest.raises(OptionError, match="9 orthogonal rows"):
        draw(1)
    M = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert ((Z @ M.T) * Z).sum(-1).mean(-1)[0].item() == pytest.approx(M.trace().item(), abs=1e-12)


def test_orthogonal_rows_vary_like_draws_without_replacement():
    """2n/(n + 2) (|S|_F^2 - (tr A)^2/n) / m (n - m)/(n - 1) for the mean of m, and an error bar as large."""
    n, m, runs = 8, 5, 20_000
    M = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    S = (M + M.T) / 2
    many = as_operator(M.expand(runs, n, n))
    Z = sampler(many, "orthogonal", 1)(m)
    means = ((Z @ M.T) * Z).sum(-1).mean(-1)
    one = 2 * n / (n + 2) * (S.square().sum() - torch.trace(S) ** 2 / n)
    expected = (one / m * (n - m) / (n - 1)).item()
    assert means.var().item() == pytest.approx(expected, rel=0.04)
    told = spectral.trace(many, method="orthogonal", products=m, seed=1)
    assert told.stderr.square().mean().item() == pytest.approx(expected, rel=0.04)
    torch.testing.assert_close(told.value, means)
    assert spectral.trace(as_operator(M), method="orthogonal", products=n).stderr <= 1e-15
