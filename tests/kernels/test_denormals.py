import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import spectral
from spectral.kernels import denormals
from spectral.kernels.denormals import flushed

pytestmark = pytest.mark.skipif(not denormals.at_hand(), reason="the switch needs x86 and GNU OpenMP")


def products() -> torch.Tensor:
    """Enough for every thread, each of them a denormal where those exist."""
    return torch.full((1 << 20,), 1e-40) * 1.0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_denormals_are_zero_for_as_long_as_it_lasts(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for _ in range(3):
            assert products().all()
            with flushed():
                assert not products().any()
                with flushed():
                    assert not products().any()
                assert not products().any()
            assert products().all()
        with pytest.raises(ZeroDivisionError), flushed():
            raise ZeroDivisionError
        assert products().all()
    finally:
        torch.set_num_threads(before)


def test_what_a_thread_had_set_stays_set() -> None:
    assert torch.set_flush_denormal(True)
    try:
        with flushed():
            pass
        assert torch.tensor([1e-40]).mul(1.0).item() == 0
    finally:
        torch.set_flush_denormal(False)
    assert torch.tensor([1e-40]).mul(1.0).item() != 0


def test_threads_of_python_have_switches_of_their_own() -> None:
    def both(_: int) -> tuple[bool, bool]:
        with flushed():
            inside = bool(products().any())
        return inside, bool(products().all())

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(both, range(12))) == {(False, True)}


def test_rounding_is_left_alone() -> None:
    """The register holds the rounding mode too, which the C library tells and sets."""
    libm, up = ctypes.CDLL("libm.so.6"), 0x800
    assert libm.fegetround() == 0
    assert libm.fesetround(up) == 0
    try:
        with flushed():
            assert libm.fegetround() == up
        assert libm.fegetround() == up
    finally:
        libm.fesetround(0)


def test_products_with_a_jacobian_meet_no_denormals() -> None:
    class Shrink(nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return 1e-30 * (1e-10 * y)

    y = torch.rand(1 << 16)
    J = spectral.jacobian(Shrink(), y)
    assert (1e-30 * (1e-10 * y)).any()
    assert not J.apply(y.unsqueeze(0)).any()
