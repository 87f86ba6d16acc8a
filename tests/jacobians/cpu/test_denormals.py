import ctypes
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import spectral
from spectral.jacobians.cpu import openmp
from spectral.jacobians.cpu.denormals import flushed

pytestmark = pytest.mark.skipif(not openmp.vector_bytes(), reason="the switch needs x86 and GNU OpenMP")


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


@pytest.mark.parametrize("when", ["__enter__", "body"])
def test_an_interruption_puts_it_back(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the switch, in the call that makes it, or later; the traceback is still alive."""
    context = flushed()
    if when == "__enter__":
        on = context._on  # type: ignore[attr-defined]

        def interrupted(*exception: object) -> None:
            on(*exception)
            assert not products().any()
            raise KeyboardInterrupt

        monkeypatch.setattr(context, "_on", interrupted)
    with pytest.raises(KeyboardInterrupt) as held, context:
        raise KeyboardInterrupt
    assert held.value.__traceback__ is not None and products().all()


@pytest.mark.parametrize("signals", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_signals_at_any_moment_put_it_back(signals: int) -> None:
    number = torch.full((1,), 1e-40)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    rng, held = random.Random(0), []
    with flushed():
        pass  # compiled: LLVM does not bear interruption
    try:
        for _ in range(signals):
            try:
                # Again and again, since one that falls into a destructor is swallowed.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-4, 2e-3), 0.1)
                while True:
                    with flushed():
                        number.mul(1.0)
            except KeyboardInterrupt as interruption:
                signal.setitimer(signal.ITIMER_REAL, 0)
                held.append(interruption)  # as an interactive session does
            assert number.mul(1.0).item() != 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_threads_made_meanwhile_are_put_back_too() -> None:
    """A smaller team ends a thread, and a larger one makes another, with what its maker has."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert products().all()
        with flushed():
            for threads in (2, 3):
                torch.set_num_threads(threads)
                assert not products().any()
        assert products().all()
    finally:
        torch.set_num_threads(before)


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
