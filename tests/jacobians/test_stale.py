"""A Jacobian whose model is another by now says so; the model may hold what changes in any form."""

import pytest
import torch
from torch import nn

import spectral
from spectral.errors import NotDeterministicError, SpectralError

Y = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
V = torch.ones(36)


class Model(nn.Module):
    """What is not a parameter: numbers and masks kept as integers, an attribute, an activation."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer(
            "codes", torch.randint(1, 8, (1, 1, 3, 3), generator=generator, dtype=torch.int8)
        )
        self.register_buffer("mask", torch.arange(36).view(1, 1, 6, 6) % 2 == 0)
        self.register_buffer("order", torch.arange(36).flip(0))
        self.register_buffer("scale", torch.rand(1, 1, 6, 6, generator=generator))
        self.unit, self.gain, self.calls, self.last = nn.SiLU(), 0.1, 0, None

    def forward(self, y):
        h = self.unit(nn.functional.conv2d(y, self.codes.float() * self.gain, padding=1))
        self.calls, self.last = self.calls + 1, h
        return (h * self.mask * self.scale).flatten()[self.order].view(y.shape)


CHANGES = {
    "integers": lambda m: m.codes.add_(1),
    "integers unseen": lambda m: m.codes.data.add_(1),
    "integers replaced": lambda m: setattr(m, "codes", m.codes + 1),
    "a mask": lambda m: m.mask.logical_not_(),
    "places replaced": lambda m: setattr(m, "order", m.order.flip(0)),
    "a buffer replaced": lambda m: setattr(m, "scale", 2 * m.scale),
    "a buffer loaded": lambda m: m.load_state_dict({**m.state_dict(), "scale": 0 * m.scale}, assign=True),
    "a number": lambda m: setattr(m, "gain", 0.2),
    "a layer": lambda m: setattr(m, "unit", nn.Tanh()),
    "a hook": lambda m: m.unit.register_forward_hook(lambda module, given, out: 2 * out),
}
DOORS = {
    "@": lambda J: J @ V,
    "transpose": lambda J: (J + 2 * J.T) @ V,
    "dense": lambda J: J.dense(),
    "trace": spectral.trace,
    "trace of a sum": lambda J: spectral.trace(J + J.T),
    "density": spectral.spectral_density,
    "pairs": lambda J: spectral.top_eigs(J, k=1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_parameter(change, door):
    model = Model().eval()
    J = spectral.jacobian(model, Y)
    J @ V
    CHANGES[change](model)
    with pytest.raises(SpectralError, match="have changed, or what else it holds"):
        DOORS[door](J)


def test_calls_of_the_users_change_nothing_of_it():
    """A count and an activation are others after each, and the function is the same."""
    model = Model().eval()
    J = spectral.jacobian(model, Y)
    before = J @ V
    for _ in range(3):
        model(2 * Y)
        torch.testing.assert_close(J @ V, before)
    assert model.calls == 3 and spectral.trace(J).value == spectral.trace(spectral.jacobian(model, Y)).value


def test_what_a_function_closes_over():
    gain = [2.0]
    J = spectral.jacobian(lambda y: gain[0] * y.sin(), Y)
    gain[0] = 3.0
    with pytest.raises(SpectralError, match="have changed"):
        spectral.trace(J)


def test_a_model_that_is_another_at_each_call_by_now():
    noise = [0.0]
    J = spectral.jacobian(lambda y: y + noise[0] * torch.randn_like(y), Y)
    noise[0] = 1.0
    with pytest.raises(NotDeterministicError):
        spectral.trace(J)


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.Conv2d(1, 1, 3, padding=1)
    J = spectral.jacobian(model, Y)
    J @ V
    with torch.inference_mode():
        model.weight.mul_(2)
    with pytest.raises(SpectralError, match="have changed"):
        J @ V


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_hides_no_module_in_anothers_place(dtype):
    """A hundred roundings are three quarters of an output in bfloat16, ten 8 %; thread counts make two."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)).to(dtype)
    y = torch.randn(1, 1, 8, 8).to(dtype)
    J, v = spectral.jacobian(model, y), torch.randn(64).to(dtype)
    model[1] = nn.SiLU()
    J @ v
    model[1] = nn.ReLU()
    with pytest.raises(SpectralError, match="or what else it holds"):
        J @ v
