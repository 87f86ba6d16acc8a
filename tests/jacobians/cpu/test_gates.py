"""Gates as bits, by compiled code and by NumPy's."""

import pytest
import torch

from spectral.jacobians.cpu import gates

# images, gates, C, H, W
SIZES = [(2, 1, 8, 5, 3), (3, 3, 48, 7, 1), (4, 2, 16, 60, 70), (1, 1, 64, 40, 33), (4, 2, 40, 9, 6)]


def drawn(seed, size, dtype, channels_last):
    t = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return t.to(memory_format=torch.channels_last) if channels_last else t


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_bits_are_the_gate(size, dtype, channels_last, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images, known, *image = size
    x, t = drawn(0, (known, *image), dtype, channels_last), drawn(1, (images, *image), dtype, channels_last)
    x[0, 0, 0], x[0, 1, 0, 0] = 0.0, torch.nan  # neither is positive
    bits, gate = gates.packed(x), x > 0
    channels, height, width = image
    assert bits.shape == (known, height, width, channels // 8) and bits.dtype == torch.uint8
    assert torch.equal(gates.unpacked(bits), gate.to(torch.int8))
    assert torch.equal(gates.packed(gate), bits)
    if images % known == 0 and known in (1, images):
        expected = t * gate
        assert torch.equal(gates.times(t, bits, torch.empty_like(t)), expected)
        assert gates.times(t, bits, t) is t and torch.equal(t, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_images_have_the_gates_in_turn(dtype):
    x, t = drawn(0, (2, 16, 9, 5), dtype, True), drawn(1, (6, 16, 9, 5), dtype, True)
    if not gates._compiled(t):
        pytest.skip("by NumPy's: slopes are put beside blocks before")
    found = gates.times(t, gates.packed(x), torch.empty_like(t))
    assert torch.equal(found, t * (x > 0).repeat(3, 1, 1, 1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_code_does_what_numpys_does(channels_last, monkeypatch):
    x, t = (drawn(seed, (2, 32, 70, 50), torch.float32, channels_last) for seed in (0, 1))
    here = gates.packed(x), gates.times(t, gates.packed(x), torch.empty_like(t))
    monkeypatch.setattr(gates.openmp, "lanes", lambda x: 0)
    there = gates.packed(x), gates.times(t, gates.packed(x), torch.empty_like(t))
    assert all(map(torch.equal, here, there))
