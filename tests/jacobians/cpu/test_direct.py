"""Convolutions along one to three axes by compiled code, against torch's in float64."""

import pytest
import torch

import spectral
from spectral.jacobians.cpu import direct, openmp

pytestmark = pytest.mark.skipif(not openmp.vector_bytes(), reason="the kernels are for x86 CPUs with AVX2")

SIZES = [  # images, channels, filters, sides, taps, padding
    (1, 32, 32, (600,), (5,), (2,)),
    (2, 3, 64, (97,), (4,), (1,)),  # an even number of taps
    (5, 1, 33, (7,), (3,), (0,)),  # filters that fill no vector
    (3, 5, 32, (1,), (1,), (0,)),
    (2, 66, 96, (2,), (5,), (4,)),  # all padding but two
    (1, 7, 17, (13,), (3,), (5,)),  # padded by more than the taps reach
    (2, 5, 32, (9, 11), (3, 5), (1, 2)),
    (1, 4, 16, (40, 3), (1, 2), (0, 1)),
    (2, 6, 20, (5, 4, 3), (3, 2, 1), (2, 0, 1)),
    (1, 3, 48, (4, 9, 10), (3, 3, 3), (1, 1, 1)),
    (1, 2, 16, (1, 1, 300), (2, 1, 3), (1, 0, 1)),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution(size, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images, channels, filters, sides, taps, padding = size
    generator = torch.Generator().manual_seed(sum(sides))
    x = torch.randn(images, channels, *sides, generator=generator, dtype=dtype)
    weight = torch.randn(filters, channels, *taps, generator=generator, dtype=dtype)
    assert direct.offered(weight)
    of = direct.Direct(weight, [*padding])
    function = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)
    true = function[len(sides) - 1](x.double(), weight.double(), padding=padding)
    for given in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
        made = of(given)
        assert made.shape == true.shape
        assert made.dtype == dtype
        assert made.movedim(1, -1).is_contiguous()
        assert (made - true).norm() <= 20 * torch.finfo(dtype).eps * true.norm()


def test_what_is_not_offered():
    assert not direct.offered(torch.ones(1, 4, 3))  # fewer filters than half a vector
    assert not direct.offered(torch.ones(64, 4, 3).half())
    assert not direct.offered(torch.ones(64, 0, 3))


def test_vectors_that_torch_is_still_to_negate() -> None:
    """A bit says so, which code that reads memory does not see."""
    model = torch.nn.Conv2d(1, 16, 3, padding=1, bias=False).double()
    J = spectral.jacobian(model, torch.zeros(1, 1, 9, 8, dtype=torch.float64))
    for A in (J, J.T):
        v = torch.randn(A.shape[1], dtype=torch.float64)
        torch.testing.assert_close(A @ torch._neg_view(v), -(A @ v))
