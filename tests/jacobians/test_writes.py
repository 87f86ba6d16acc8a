"""Operations that overwrite several tensors at once, or are the user's own under a name of torch's."""

import pytest
import torch

import spectral
from spectral.errors import SpectralError
from tests.helpers import differences

F64 = torch.float64


def drawn(*size, dtype=F64):
    return (torch.rand(size, generator=torch.Generator().manual_seed(2), dtype=F64) + 0.2).to(dtype)


def each_after_the_other(y):
    a, b = y.clone(), y.sin()
    torch._foreach_mul_([a, b], [b, a])
    torch._foreach_add_([a, a], [1.0, 2.0])
    return a * b


def several_kinds(y):
    a, b, c = y * y + 1, y.sin() + 2, torch.ones_like(y)
    torch._foreach_sqrt_([a, b])
    torch._foreach_lerp_([a], [b], 0.3)
    torch._foreach_zero_([b])
    torch._foreach_copy_([b, c], [a, y])
    torch._foreach_addcmul_([a], [b], [y], 0.5)
    torch._foreach_clamp_min_([a], [c])
    return a * b + c


def sorted_into(y):
    values, places = torch.empty(0, dtype=y.dtype), torch.empty(0, dtype=torch.long)
    torch.sort(y * y, 1, out=(values, places))
    most, _ = torch.max(y, 1, out=(torch.zeros(4, dtype=y.dtype), torch.empty(4, dtype=torch.long)))
    return values.gather(1, places) * most[:, None]


def decomposed_into(y):
    S = y @ y.T + torch.eye(4, dtype=y.dtype)
    values, Q = (torch.empty(0, dtype=y.dtype) for _ in range(2))
    torch.linalg.eigh(S, out=(values, Q))
    return Q @ torch.diag(values.log()) @ Q.T


def written_into_parts(y):
    arena = torch.zeros(2, 4, 4, dtype=y.dtype)
    torch.cummax(y.sin(), 1, out=(arena[0], torch.empty(4, 4, dtype=torch.long)))
    return arena[0] * y + arena[1]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    "model", [each_after_the_other, several_kinds, sorted_into, decomposed_into, written_into_parts]
)
def test_several_tensors_that_are_overwritten_at_once(model, dtype):
    y = drawn(4, 4)
    J, truth = spectral.jacobian(model, y.to(dtype)), differences.dense(model, y)
    assert J.method == "frozen"
    torch.testing.assert_close(J.output, model(y.to(dtype)))
    for M in (J.dense(), J.T.dense().T):
        assert truth.error(M.to(F64)) < (1e-8 if dtype == F64 else 1e-5)


def test_several_of_which_one_is_read_too_are_refused():
    def model(y):
        z = y * y
        return torch.sort(z, out=(z, torch.empty(9, dtype=torch.long)))[0]

    with pytest.raises(SpectralError, match="several tensors at once"):
        spectral.jacobian(model, drawn(9))


def squared_in_place(x: torch.Tensor) -> None:
    x.mul_(x)


for _name in ("cos_", "abs_"):
    torch.library.custom_op(
        f"spectral_writes::{_name}", squared_in_place, mutates_args=("x",), schema="(Tensor(a!) x) -> ()"
    )


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["cos_", "abs_"])
def test_operations_in_place_that_have_a_name_of_torchs(name, dtype):
    """They are no operation of torch's, and have no derivative; a small share passed for one in float32."""

    def model(y):
        z = (1 * y).clone()
        getattr(torch.ops.spectral_writes, name)(z)
        return y + 0.01 * z

    with pytest.raises(SpectralError, match="no plain form"):
        spectral.jacobian(model, drawn(12, dtype=dtype))
