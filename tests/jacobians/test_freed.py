"""A Jacobian's memory is free once nothing holds it, without a look for circles of references."""

import contextlib
import gc
import importlib
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import spectral
from denoisers.networks import ConditionalUNet, UNet
from spectral.errors import SpectralError
from spectral.jacobians.jacobian import Jacobian
from spectral.jacobians.program import Recorder


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 8, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        return self.layer(y[:, 0])[0].unsqueeze(1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(1, width=8),
    "conditional": lambda: ConditionalUNet(width=8),
    "outputs that nobody asks for": Recurrent,
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    importlib.import_module("torch._dynamo")  # which holds on to the frames that it is first loaded from
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("method", ["auto", "frozen", "jvp", "double-backward", "differences"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_of_a_jacobian(name: str, method: str) -> None:
    torch.manual_seed(0)
    model, keywords = MODELS[name]().eval(), {"sigma": 0.1} if name == "conditional" else {}
    y = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    J = spectral.jacobian(model.double(), y, method=method, model_kwargs=keywords)
    for _ in range(9):  # a graph may be kept from some product on
        J.apply(torch.rand(1, 64, dtype=torch.float64))
        J.apply_transpose(torch.rand(1, 64, dtype=torch.float64))
    pairs = spectral.top_eigs(J, k=1)
    left = weakref.ref(J)
    del J, pairs
    assert left() is None
    assert not any(type(thing) is Recorder for thing in gc.get_objects())


def held() -> int:
    """Jacobians and records in this process."""
    return sum(type(thing) in (Jacobian, Recorder) for thing in gc.get_objects())


def with_another_size(y: Tensor) -> Tensor:
    return torch.var_mean(y, 0)[0] @ y.new_zeros(3, 3)


def rounded_to_integers(y: Tensor) -> Tensor:
    return y.long()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("model", [with_another_size, rounded_to_integers])
def test_nothing_is_left_of_a_model_that_fails(model: Callable[[Tensor], Tensor]) -> None:
    before = held()
    with contextlib.suppress(RuntimeError, SpectralError):
        spectral.jacobian(model, torch.rand(4, 5))
    assert held() == before
