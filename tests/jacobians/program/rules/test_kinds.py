"""Operations that jump, and those that only share a name with one."""

import pytest
import torch

import spectral
from spectral.jacobians.program.rules import kinds


def sign_of_complex(y):
    return torch.complex(y, y.flip(-1)).sgn().real


def sign_written_in_place(y):
    z = torch.complex(y, y.flip(-1)).clone()
    z.sgn_()
    return z.imag


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize("unit", [sign_of_complex, sign_written_in_place])
def test_the_sign_of_a_complex_number_has_a_derivative(unit, share, dtype):
    def model(y):
        return y.sin() + share * unit(y)

    y = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    J, exact = spectral.jacobian(model, y), torch.autograd.functional.jacobian(model, y).reshape(16, 16)
    for M in (J.dense(), J.T.dense().mT):
        torch.testing.assert_close(M, exact, rtol=1e-5, atol=1e-5)
    assert J.method == "frozen" and not J.notes


@pytest.mark.parametrize("share", [0.01, 0.004])
def test_what_is_wrongly_taken_for_a_jump_is_found_out(monkeypatch, share):
    """Nothing in the model makes two derivatives of it: its differences tell which is right."""
    monkeypatch.setattr(kinds, "JUMPING", {*kinds.JUMPING, torch.ops.aten.tanh.default})

    def model(y):
        return y.sin() + share * y.tanh()

    y = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = spectral.jacobian(model, y)
    torch.testing.assert_close(J.dense(), torch.diag((y.cos() + share / y.cosh() ** 2).flatten()))
    assert J.method != "frozen"
