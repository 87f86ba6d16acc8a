"""Operations of which torch's derivative is not that of what is computed: the right one, or an error."""

import pytest
import torch
from torch.nn import functional

import spectral
from spectral.errors import AmbiguousError, SpectralError
from tests.helpers import differences

F64 = torch.float64


def drawn(*size, dtype=F64):
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)


def pseudoinverse(y):
    return y + 0.01 * torch.linalg.pinv(y + 8 * torch.eye(6, dtype=y.dtype), hermitian=True)


def old_factor(y):
    return y + 0.02 * torch.cholesky(4 * torch.eye(6, dtype=y.dtype) + 0.3 * y)


def solved_by_a_triangle(y):
    return y + 0.1 * torch.cholesky_solve(y, 4 * torch.eye(6, dtype=y.dtype) + 0.3 * y)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("model", [pseudoinverse, old_factor, solved_by_a_triangle])
def test_a_small_share_of_what_reads_one_triangle(model, dtype):
    """Were it differentiated as a function of all of it, a float32 model's differences would not tell."""
    y = drawn(6, 6)
    try:
        model(y)
    except RuntimeError as failure:
        pytest.skip(f"this torch has it no more: {failure}")
    J = spectral.jacobian(model, y.to(dtype))
    assert J.method == "frozen"
    truth = differences.dense(model, y)
    for M in (J.dense(), J.T.dense().T):
        assert truth.error(M.to(F64)) < (1e-8 if dtype == F64 else 1e-5)


def unpooled_onto_one_place(y):
    places = torch.tensor([0, 5, 5, 9]).view(1, 1, 2, 2)
    return y + functional.max_unpool2d(y.view(1, 1, 2, 2), places, 2).flatten()[:4]


def unpooled_a_little(y):
    places = torch.arange(36).view(1, 1, 6, 6)
    places[..., 1] = 0
    return y + 0.05 * functional.max_unpool2d(y.view(1, 1, 6, 6), places, 1).view_as(y)


def placed_twice(y):
    return y.index_copy(0, torch.tensor([0, 1, 1]), 0.02 * y[:3].square())


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", [unpooled_onto_one_place, unpooled_a_little, placed_twice])
def test_places_that_are_written_twice(model, dtype):
    """In every precision, however little it weighs: ways forwards and backwards may be wrong alike."""
    with pytest.raises(SpectralError):
        spectral.jacobian(model, drawn(36 if model is unpooled_a_little else 4, dtype=dtype))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_phases_that_are_free_count_where_they_are_seen(dtype):
    """Vectors of a complex matrix have any phase: torch's derivative is that of another than is computed."""

    def hermitian(y):
        return torch.complex(y + y.T, y - y.T)

    def whole(y):
        values, Q = torch.linalg.eigh(hermitian(y))
        return (Q @ torch.diag(values.exp().to(Q.dtype)) @ Q.mH).real

    def a_part(y):
        return y + 0.02 * torch.linalg.eigh(hermitian(y))[1].real

    y = drawn(5, 5)
    J = spectral.jacobian(whole, y.to(dtype))
    assert differences.dense(whole, y).error(J.dense().to(F64)) < (1e-7 if dtype == F64 else 1e-4)
    with pytest.raises(SpectralError):
        spectral.jacobian(a_part, y.to(dtype))


def floored(y):
    return torch.div(y, 0.1, rounding_mode="floor") * 0.1


def test_divisions_that_round():
    """They jump as torch.round does: with a straight-through estimator's derivative, or none."""
    y = torch.rand(8, dtype=F64)
    for model, slope in [(floored, 0), (lambda y: y + (floored(y) - y).detach(), 1)]:
        J = spectral.jacobian(model, y)
        torch.testing.assert_close(J.dense(), slope * torch.eye(8, dtype=F64))
        assert any("div" in note for note in J.notes)
    smooth = spectral.jacobian(lambda y: torch.div(y, y + 1, rounding_mode=None), y)
    torch.testing.assert_close(smooth.dense(), torch.diag(1 / (1 + y).square()))


@pytest.mark.parametrize("rest", [torch.remainder, torch.fmod])
def test_remainders_that_round(rest):
    y = torch.rand(8, dtype=F64)
    J = spectral.jacobian(lambda y: y * rest(y, 0.1), y)
    torch.testing.assert_close(J.dense(), torch.diag(rest(y, 0.1) + y))
    with pytest.raises(AmbiguousError, match=rest.__name__):
        spectral.jacobian(lambda y: y + (y - rest(y, 0.1) - y).detach(), y)


def weights_counted(y):
    places = torch.arange(30) % 7
    fixed = torch.bincount(places, weights=y.square(), minlength=9)
    return torch.cat([fixed.to(y.dtype), torch.bincount((2 * y).long().clamp(min=0), y).to(y.dtype)])


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_weights_that_are_counted(dtype):
    """torch adds them up without a derivative."""
    y = torch.linspace(0.1, 2.9, 30, dtype=F64).to(dtype).to(F64)
    J = spectral.jacobian(weights_counted, y.to(dtype))
    assert J.method == "frozen"
    torch.testing.assert_close(J.output, weights_counted(y.to(dtype)))
    truth = differences.dense(weights_counted, y)
    for M in (J.dense(), J.T.dense().T):
        assert truth.error(M.to(F64)) < (1e-2 if dtype == torch.bfloat16 else 1e-6)


def sorted_numbers(y):
    return y.sort()[0] * y


def ranked(y):
    values, places = y.abs().topk(len(y) // 2)
    return torch.zeros_like(y).scatter(0, places, values.square())


def running_maxima(y):
    return (
        y.view(100, -1).cummax(1)[0].flatten()
        + y.view(-1, 50).kthvalue(20, 1, keepdim=True)[0].mul(y.view(-1, 50)).flatten()
    )


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("model", [sorted_numbers, ranked, running_maxima])
def test_many_numbers_that_change_places(model, dtype):
    """Within a step some change with others: differences by two long steps agree, on another slope."""
    y = drawn(20000, dtype=dtype)
    J = spectral.jacobian(model, y)
    assert J.method == "frozen"
    x, v = y.double().requires_grad_(), drawn(len(y), dtype=dtype)
    (true,) = torch.autograd.grad(model(x), x, v.double())
    assert ((J.T @ v).double() - true).norm() <= 30 * torch.finfo(dtype).eps * true.norm()


def test_slopes_that_are_lost_in_rounding():
    """Of 2 - 1e-11 no difference tells that there is a slope."""
    J = spectral.jacobian(torch.erfc, torch.tensor([-5.0], dtype=F64))
    assert J.dense().item() == pytest.approx(-2 / torch.pi**0.5 * torch.tensor(-25.0).exp().item(), rel=1e-4)
