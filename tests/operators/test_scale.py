"""Every question has the same answer for A and for 2^e A, to the last bit, but for the factor."""

import functools

import pytest
import torch

import spectral
from spectral.operators import as_operator
from spectral.operators.base import UnitScale

N = 150
# Multiples of 32, so that what is solved is the same matrix; beyond where squares are lost.
SCALES = [(torch.float32, -96), (torch.float32, 64), (torch.float64, -512), (torch.float64, -544)]
SCALES += [(torch.float64, -960), (torch.float64, 704)]


def matrix(dtype: torch.dtype, symmetric: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(N, N, generator=generator, dtype=torch.float64).div(N**0.5).to(dtype)
    return M + M.T + torch.diag(torch.linspace(0, 6, N, dtype=dtype)) if symmetric else M


def scaled(value, exponent: int):
    value = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    return torch.ldexp(value.real, torch.tensor(exponent)) if value.is_complex() else value * 2.0**exponent


SYMMETRIC = {
    method: functools.partial(spectral.top_eigs, k=3, method=method)
    for method in ("lanczos", "lobpcg", "chebyshev", "dense")
}
SOLVES = SYMMETRIC | {
    "svd": functools.partial(spectral.top_svd, k=3),
    "krylov-schur": functools.partial(
        spectral.top_eigs_full, k=3, left=True, method="krylov-schur", tol=1e-3
    ),
    "dense schur": functools.partial(spectral.top_eigs_full, k=3, left=True, method="dense"),
}
LINEAR = {
    "trace": functools.partial(spectral.trace, products=60),
    "hutchinson": functools.partial(spectral.trace, products=60, method="hutchinson"),
    "frobenius": functools.partial(spectral.frobenius_norm, products=20),
    "diagonal": functools.partial(spectral.diagonal, products=40),
    "nuclear": functools.partial(spectral.schatten_norm, steps=20),
    "high power": functools.partial(spectral.schatten_norm, steps=20, p=800.0),
    "spectral norm": functools.partial(spectral.schatten_norm, p=float("inf")),
}


@functools.cache
def solved(name: str, dtype: torch.dtype):
    """At an everyday scale."""
    return SOLVES[name](matrix(dtype, name in SYMMETRIC))


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
@pytest.mark.parametrize("name", SOLVES)
def test_solves(name, dtype, exponent):
    M = matrix(dtype, name in SYMMETRIC)
    here, there = solved(name, dtype), SOLVES[name](M * 2.0**exponent)
    assert here.converged.all() and here.spent == there.spent
    for field in ("values", "residuals", "errors"):
        assert torch.equal(scaled(getattr(here, field), exponent), getattr(there, field).real), field
    assert torch.equal(scaled(here.completeness.bound, exponent), there.completeness.bound)
    assert bool(here.complete) == bool(there.complete)
    if name not in SYMMETRIC and name != "svd":
        assert torch.equal(scaled(here.schur, exponent), there.schur)
        assert torch.equal(scaled(here.left_residuals, exponent), there.left_residuals)
        assert torch.equal(scaled(here.departure, exponent), there.departure)


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
@pytest.mark.parametrize(
    ("call", "thresholds"),
    [
        (spectral.top_eigs, {"above": 6.0}),
        (spectral.top_eigs, {"between": (5.5, 6.5)}),
        (spectral.top_svd, {"above": 6.0}),
        (functools.partial(spectral.top_eigs_full, method="krylov-schur"), {"above": 6.0}),
    ],
)
def test_thresholds(call, thresholds, dtype, exponent):
    M = matrix(dtype, True)
    unit = 2.0**exponent
    there = call(
        M * unit,
        **{
            name: (at[0] * unit, at[1] * unit) if name == "between" else at * unit
            for name, at in thresholds.items()
        },
    )
    here = call(M, **thresholds)
    assert len(here.values) and torch.equal(scaled(here.values, exponent), there.values.real)
    assert there.above is None or there.above == thresholds["above"] * unit


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
@pytest.mark.parametrize("name", LINEAR)
def test_estimates(name, dtype, exponent):
    M = matrix(dtype, False)
    here, there = LINEAR[name](M), LINEAR[name](M * 2.0**exponent)
    for field in ("value", "stderr"):
        told = torch.as_tensor(getattr(there, field), dtype=torch.float64)
        assert torch.equal(scaled(getattr(here, field), exponent).double(), told), field
    assert torch.as_tensor(here.stderr).gt(0).all() and here.products == there.products


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
def test_estimates_without_a_unit(dtype, exponent):
    M = matrix(dtype, False)
    for call in (spectral.asymmetry, spectral.effective_rank):
        here, there = call(M), call(M * 2.0**exponent)
        assert (here.value, here.stderr) == (there.value, there.stderr)


@pytest.mark.parametrize(("dtype", "exponent"), SCALES)
def test_absolute_targets_and_densities(dtype, exponent):
    M, unit = matrix(dtype, True), 2.0**exponent
    here, there = (spectral.trace(M * s, atol=15 * s, method="hutchinson") for s in (1.0, unit))
    assert here.products == there.products < N and there.value == here.value * unit
    for part in ("symmetric", "singular"):
        here, there = (spectral.spectral_density(M * s, part=part, steps=20) for s in (1.0, unit))
        assert torch.equal(here.nodes * unit, there.nodes) and torch.equal(
            here.deflated * unit, there.deflated
        )
        assert torch.equal(here.weights, there.weights)


def test_problems_of_a_batch_have_scales_of_their_own():
    M = torch.stack([matrix(torch.float32, True) * s for s in (1.0, 2.0**-70, 2.0**60)])
    alone, together = spectral.top_eigs(M[0], k=3), spectral.top_eigs(M, k=3)
    units = torch.tensor([[1.0], [2.0**-70], [2.0**60]], dtype=torch.float64)
    torch.testing.assert_close(together.values / units, alone.values.expand(3, 3), rtol=1e-6, atol=0)
    assert together.converged.all()


def test_a_scale_waits_for_a_product_that_is_not_zero():
    A = UnitScale(as_operator(torch.diag(torch.tensor([0.0, 2.0**-90]))))
    assert A.apply(torch.tensor([[1.0, 0.0]])).eq(0).all()
    assert A.apply(torch.tensor([[0.0, 1.0]]))[0, 1] == 2.0**6
    assert A.scale == 2.0**-96 and A.measure() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everyday_sizes_are_left_alone(dtype):
    M = matrix(dtype, False)
    A = UnitScale(as_operator(M))
    V = torch.ones(2, N, dtype=dtype)
    assert torch.equal(A.apply(V), V @ M.T) and A.scale == 1


def test_an_interval_of_denormal_width_is_one():
    """Scaled, both ends of it may be the same number."""
    star = torch.zeros(133, 133)
    star[0, 1:] = star[1:, 0] = 1e12
    pairs = spectral.top_eigs(star, between=(0.0, 5e-324))
    assert pairs.k == 131 and pairs.values.abs().max() <= pairs.errors.max()
