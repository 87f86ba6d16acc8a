"""The derivative of a group norm by compiled code, against the same in float64."""

import pytest
import torch

from spectral.jacobians.cpu import norms, openmp

pytestmark = pytest.mark.skipif(not openmp.vector_bytes(), reason="the kernels are for x86 CPUs with AVX2")

SIZES = [  # images, known images, channels, pixels, groups
    (1, 1, 32, (7, 9), 1),
    (4, 2, 64, (5, 3), 32),  # two vectors for each image; groups of two channels
    (2, 2, 16, (1,), 16),  # one pixel
    (1, 1, 48, (300,), 3),  # several runs of pixels
    (1, 1, 32, (3, 2, 40), 4),
]


def last(t):
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


def drawn(seed, *size):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projected(h, z, groups):
    """h - mean h - z mean(z h), images of z in turn."""
    z = z.repeat(len(h) // len(z), *[1] * (z.ndim - 1))
    h_of, z_of = (t.reshape(len(h), groups, -1) for t in (h, z))
    left = h_of - h_of.mean(-1, keepdim=True) - z_of * (z_of * h_of).mean(-1, keepdim=True)
    return left.reshape(h.shape)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("of_channels", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_formula(size, dtype, of_channels, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images, known, channels, pixels, groups = size
    z = drawn(0, known, channels, *pixels)
    slope = drawn(1, known, channels, *([1] * len(pixels) if of_channels else pixels))
    z, slope = (last(t.to(dtype)) for t in (z, slope))
    assert norms.offered(z, slope)
    compiled = norms.Groups(z, slope, groups)
    t = last(drawn(2, images, channels, *pixels).to(dtype))
    many = slope.double().repeat(images // known, *[1] * (z.ndim - 1))
    ahead = many * projected(t.double(), z.double(), groups)
    back = projected(many * t.double(), z.double(), groups)
    rounding = 50 * torch.finfo(dtype).eps
    for made, true in ((compiled.ahead(t), ahead), (compiled.back(t), back)):
        assert made.dtype == dtype
        assert made.movedim(1, -1).is_contiguous()
        assert (made.double() - true).norm() <= rounding * true.norm()
    torch.testing.assert_close(compiled.ahead(t.contiguous()), compiled.ahead(t), rtol=0, atol=0)


def test_what_is_not_offered():
    z = torch.ones(1, 32, 4, 4)
    assert norms.offered(last(z), torch.ones(1, 32, 1, 1))
    assert not norms.offered(z, torch.ones(1, 32, 1, 1))  # channels come first
    assert not norms.offered(last(z), z)
    assert not norms.offered(last(z), torch.ones(1, 32, 1, 1).double())
    assert not norms.offered(last(z).half(), torch.ones(1, 32, 1, 1).half())
    assert not norms.offered(last(torch.ones(1, 5, 4, 4)), torch.ones(1, 5, 1, 1))
    assert not norms.offered(torch.ones(1, 32, 0), torch.ones(1, 32, 1))
