"""Time of products with J, J' and (J + J') / 2 beside the forward pass, accuracy checked in the same run."""

import functools

import pytest
import torch

import spectral
from benchmarks.products import BLOCK, QUICK, build, errors, image

SIDE = 80
accuracy = functools.cache(errors)


def _product(J, way):
    n = J.shape[1]
    V = torch.randn(BLOCK if way.endswith("8") else 1, n, generator=torch.Generator().manual_seed(1))
    A = {"J": J, "J'": J.T, "S": J.symmetric_part()}[way.split(",")[0]]
    return lambda: A.apply(V)


@pytest.mark.parametrize("way", ["forward", "J", "J'", "S", "J, 8", "J', 8", "S, 8"])
@pytest.mark.parametrize("name", QUICK)
def test_product(benchmark, name, way):
    accuracy(name, SIDE, "cpu")
    model, _ = build(name)
    y = image(SIDE)
    with torch.no_grad():
        call = (lambda: model(y)) if way == "forward" else _product(spectral.jacobian(model, y), way)
        call()
        benchmark(call)
    benchmark.extra_info["threads"] = torch.get_num_threads()
