"""Where tensors are made by default is the user's affair: it changes nothing, and their model sees it."""

import pytest
import torch
from torch import nn

import spectral
from spectral.operators.interop import from_functions


class Network(nn.Module):
    """Gates, norms, attention and Winograd's convolutions, whose kernels are given addresses."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.norm, self.layer, self.last = (
            nn.GroupNorm(8, 32),
            nn.Linear(32, 96),
            nn.Conv2d(32, 3, 3, padding=1),
        )

    def forward(self, y):
        where.append(torch.empty(1).device.type)
        h = nn.functional.silu(self.norm(self.middle(self.first(y).relu())))
        q, k, v = self.layer(h.flatten(2).mT).chunk(3, -1)
        return self.last(h + nn.functional.scaled_dot_product_attention(q, k, v).mT.view_as(h))


where: list[str] = []


@pytest.mark.parametrize("by", ["context", "default"])
def test_a_default_device(by):
    """That of none, "meta", whose tensors have no address, stands for a GPU."""
    torch.manual_seed(0)
    model, y, v = Network().eval(), torch.randn(1, 3, 16, 16), torch.randn(768)
    doors = [
        lambda: spectral.jacobian(model, y) @ v,
        lambda: spectral.top_eigs(model, y, k=2).values,
        lambda: spectral.top_svd(model, y, k=2).values,
        lambda: spectral.top_eigs_full(model, y, k=2).values,
        lambda: spectral.trace(model, y, products=40).value,
        lambda: spectral.diagonal(model, y, products=40).value,
        lambda: spectral.frobenius_norm(model, y, products=20).value,
        lambda: spectral.spectral_density(model, y, probes=2, steps=8).nodes,
        lambda: spectral.sure(model, y, 0.1, products=20).value,
        lambda: spectral.posterior(model, y, 0.1, k=2).deviations,
    ]
    plain, J = [door() for door in doors], spectral.jacobian(model, y)
    plain += [J @ v, J.T @ v]
    doors += [lambda: J @ v, lambda: J.T @ v]
    where.clear()
    try:
        if by == "default":
            torch.set_default_device("meta")
            inside = [door() for door in doors]
        else:
            with torch.device("meta"):
                inside = [door() for door in doors]
    finally:
        torch.set_default_device("cpu")
    assert set(where) == {"meta"}
    for one, other in zip(inside, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_callables_of_an_operator_find_the_default_device_as_outside(transposed):
    """As a model does: what they make without naming a device is to meet the rows that they are given."""
    where = []

    def halved(V):
        where.append(torch.get_default_device().type)
        return V / 2

    A = from_functions(halved, halved if transposed else None, 5, symmetric=not transposed)
    with torch.device("meta"):
        found = spectral.top_svd(A, k=2) if transposed else spectral.top_eigs(A, k=2)
    assert set(where) == {"meta"}
    torch.testing.assert_close(found.values, torch.full((2,), 0.5, dtype=found.values.dtype))
