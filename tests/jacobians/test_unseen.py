"""What overlaps, is written to unseen, or is read in part: the right value, or an error that says so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import spectral
from spectral.errors import SpectralError
from tests.helpers import differences

F64 = torch.float64
DTYPES = [torch.float64, torch.float32]


def image(*shape, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(11)).to(dtype)


def right(model, y, dtype, within=None):
    """J and J' of the model in a precision are those of differences in float64."""
    truth = differences.dense(copy.deepcopy(model), y)
    J = spectral.jacobian(model, y.to(dtype))
    within = within or {torch.float64: 1e-7, torch.float32: 2e-5}[dtype]
    for M in (J.dense(), J.T.dense().T):
        assert truth.error(M.to(F64)) <= within
    torch.testing.assert_close(J.output, copy.deepcopy(model)(y.to(dtype)).detach())
    return J


def column_reads_its_first(y):
    y.t()[0].add_(y[0, 0])
    return y


def strides_that_meet(y):
    z = y.clone().flatten()
    z[2::2].add_(z[:-2:2], alpha=0.5)
    return z


def rows_moved_on(y):
    z = y.clone()
    z[:, 1:3] = z[:, 0:2]
    return z * y


def product_into_itself(y):
    z = y.clone()
    return torch.mm(z, z, out=z) + 20 * y


def added_into_itself(y):
    z = 0.1 * y
    return z.addmm_(z, z)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", [column_reads_its_first, strides_that_meet, rows_moved_on])
def test_writes_that_read_what_they_have_written(model, dtype):
    """What comes depends on the order in which torch's loops go."""
    with pytest.raises(SpectralError, match="overwritten by then"):
        spectral.jacobian(model, image(6, 6, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", [product_into_itself, added_into_itself])
def test_products_into_what_they_read(model, dtype):
    """Some CPUs' matrix products read all before they write."""
    y = image(6, 6, dtype=dtype)
    given = y if model is product_into_itself else 0.1 * y
    product = given @ given + (20 * y if model is product_into_itself else given)
    if torch.allclose(model(y), product):
        right(model, image(6, 6), dtype)
    else:
        with pytest.raises(SpectralError, match="overwritten by then"):
            spectral.jacobian(model, y)


def test_what_nobody_has_written_yet_may_be_anything():
    """Padding round goes through memory that is written part by part; here the rest of it is NaN."""
    model = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular").requires_grad_(False)
    torch.use_deterministic_algorithms(True)
    try:
        J = spectral.jacobian(model, image(1, 1, 8, 6, dtype=torch.float32))
    finally:
        torch.use_deterministic_algorithms(False)
    assert J.method == "frozen"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_entries_that_are_written_more_than_once(dtype):
    def model(y):
        z = y.clone()
        z.as_strided((5, 3), (2, 1)).mul_(1.5)
        return z

    with pytest.raises(SpectralError, match="more than once"):
        spectral.jacobian(model, image(12, dtype=dtype))


def parts_of_one_storage(y):
    z = torch.complex(y, y.sin())
    z.imag.copy_(z.real * z.imag)
    z.real.add_(z.imag)
    z[1:].mul_(z[:1].conj())
    pairs = torch.view_as_real(z)
    pairs[..., 0].mul_(pairs[..., 1])
    return z.mul_(z).real


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_one_storage_that_do_not_meet(dtype):
    assert right(parts_of_one_storage, image(6, 6), dtype).method == "frozen"


def running_statistics(y):
    mean, variance = y.new_zeros(6), y.new_ones(6)
    out = functional.batch_norm(y, mean, variance, training=True, momentum=0.3)
    out = out + functional.batch_norm(y.sin(), mean, variance, training=True, momentum=0.5)
    return out * mean + variance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 6), (3, 6, 4)])
def test_running_statistics_that_a_norm_keeps_unseen(shape, dtype):
    """torch differentiates through them neither way, and says nowhere that they are written to."""

    def model(y):
        if y.ndim == 2:
            return running_statistics(y)
        return running_statistics(y.transpose(1, 2).flatten(0, 1))

    assert right(model, image(*shape), dtype).method == "frozen"


@torch.library.custom_op("spectral_tests::writes_unseen", mutates_args=())
def writes_unseen(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    k.add_(x.mean())
    return x * 1.0


writes_unseen.register_autograd(
    lambda ctx, g: (g, None), setup_context=lambda ctx, inputs, output: ctx.save_for_backward()
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_an_operation_that_writes_to_what_it_is_given(share, dtype):
    def model(y):
        k = y.new_ones(6)
        return writes_unseen(y, k) * (1 + share * k)

    with pytest.raises(SpectralError):
        spectral.jacobian(model, 1 + image(6, 6, dtype=dtype))


def counted(x, k):
    k.add_(1.0)
    return x * 1.0


def test_what_an_operation_writes_is_not_written_again():
    """Trials carry it out on copies: the output is the model's."""
    operation = torch.library.custom_op(
        "spectral_tests::counts_unseen", counted, mutates_args=(), schema="(Tensor x, Tensor k) -> Tensor"
    )
    operation.register_autograd(lambda ctx, g: (g, None), setup_context=lambda ctx, inputs, output: None)

    def model(y):
        k = y.new_ones(6)
        return operation(y, k) * k

    J = spectral.jacobian(model, image(6, 6))
    torch.testing.assert_close(J.output, 2 * image(6, 6))
    torch.testing.assert_close(J.dense(), 2 * torch.eye(36, dtype=F64))


def square_root(y):
    values, Q = torch.linalg.eigh(y @ y.T + torch.eye(6, dtype=y.dtype))
    return Q @ torch.diag(values.sqrt()) @ Q.T


def whitened(y):
    L = torch.linalg.cholesky(torch.cov(y) + 0.1 * torch.eye(6, dtype=y.dtype))
    return torch.linalg.solve_triangular(L, y - y.mean(1, keepdim=True), upper=False)


def by_triangles(y):
    A = 3 * torch.eye(6, dtype=y.dtype) + 0.1 * y  # not symmetric: one triangle is read
    upper = torch.linalg.cholesky_ex(A, upper=True)[0]
    L = torch.linalg.cholesky(A)
    return L + upper + torch.cholesky_inverse(L + y.triu(1)) + torch.cholesky_solve(y, L)


def eigenvalues_of_triangles(y):
    return torch.linalg.eigvalsh(y) + torch.linalg.eigvalsh(y, UPLO="U") * y


def hermitian(y):
    A = torch.complex(y, y.sin())  # its diagonal is taken for real
    return torch.linalg.eigvalsh(A) * y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", [square_root, whitened, by_triangles, eigenvalues_of_triangles, hermitian])
def test_factorisations_of_one_triangle(model, dtype):
    """torch's two derivatives differ where tangents are not symmetric; what is computed has one."""
    assert right(model, image(6, 6), dtype).method == "frozen"


def test_errors_name_the_operation_that_failed():
    """Not the one that asked for its result."""

    @torch.library.custom_op("spectral_tests::two_wrong", mutates_args=())
    def two_wrong(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * x, x.sin()

    two_wrong.register_autograd(
        lambda ctx, a, b: 3 * a * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    with pytest.raises(SpectralError, match=r"two_wrong.*off by"):
        spectral.jacobian(lambda y: two_wrong(y)[0].tanh(), image(6, 6))


class KeptInTraining(nn.Module):
    """Keeps running statistics, which its output shows."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, y):
        out = functional.batch_norm(y, self.norm.running_mean, self.norm.running_var, training=True)
        return out + self.norm.running_mean + self.norm.running_var * y


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics_of_a_module(dtype):
    """They are put back after each call, so that all calls are alike."""
    model, y = KeptInTraining(), image(6, 6)
    before = copy.deepcopy(model.state_dict())

    def fresh(x):
        return copy.deepcopy(model).to(F64)(x)

    truth = differences.dense(fresh, y)
    J = spectral.jacobian(copy.deepcopy(model).to(dtype), y.to(dtype))
    assert J.method == "frozen" and truth.error(J.dense().to(F64)) < 2e-5
    J = spectral.jacobian(model, y.float())
    torch.testing.assert_close(J.output, copy.deepcopy(model)(y.float()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [0, 1, 2])
def test_derivatives_of_one_number(scaled, dtype):
    """torch's way back adds what is overwritten: in <u, J v> = <J' u, v> the halves of u may not cancel."""

    def model(y):
        for _ in range(scaled):
            y = torch.tanh(y)
        return torch.as_strided_scatter(y[:1], y[1:], (1,), (1,), 0)

    for method in ("auto", "jvp"):
        with pytest.raises(SpectralError):
            spectral.jacobian(model, image(2, dtype=dtype), method=method)
