"""Convolutions along one axis by compiled code, against torch's in float64."""

import pytest
import torch

from spectral.jacobians.cpu import lines, openmp

pytestmark = pytest.mark.skipif(not openmp.vector_bytes(), reason="the kernels are for x86 CPUs with AVX2")

SIZES = [  # images, channels, filters, length, taps, padding
    (1, 32, 32, 500, 5, 2),
    (2, 3, 64, 97, 4, 1),  # an even number of taps
    (5, 1, 32, 7, 3, 0),
    (3, 5, 32, 1, 1, 0),
    (2, 66, 96, 2, 5, 4),  # all padding but two
    (1, 7, 32, 13, 3, 5),  # padded by more than the taps reach
    (1, 4, 32, 200, 9, 4),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution(size, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images, channels, filters, length, taps, padding = size
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(images, channels, length, generator=generator, dtype=dtype)
    weight = torch.randn(filters, channels, taps, generator=generator, dtype=dtype)
    assert lines.offered(weight)
    of = lines.Lines(weight, padding)
    true = torch.nn.functional.conv1d(x.double(), weight.double(), padding=padding)
    for given in (x, x.mT.contiguous().mT):
        made = of(given)
        assert made.shape == true.shape
        assert made.dtype == dtype
        assert (made - true).norm() <= 20 * torch.finfo(dtype).eps * true.norm()


def test_what_is_not_offered():
    assert not lines.offered(torch.ones(31, 4, 3))
    assert not lines.offered(torch.ones(64, 4, 3).half())
    assert not lines.offered(torch.ones(64, 0, 3))
