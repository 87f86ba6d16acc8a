"""Memory that comes back, and is lent again."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from denoisers.training.memory import kept
from spectral.jacobians.cpu import memory
from spectral.jacobians.cpu.memory import Pool

REAL = torch.float32


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL", 1024)


def test_a_block_is_lent_again_once_nothing_holds_it() -> None:
    lender = Pool()
    first = lender.empty((10, 100), REAL)
    place, view = first.data_ptr(), first.permute(1, 0)[3:]
    del first
    other = lender.empty((1000,), REAL)
    assert other.data_ptr() != place and lender.held == 8000
    view.fill_(1.0)
    del view
    again = lender.empty((5, 200), REAL)
    assert again.data_ptr() == place and again.shape == (5, 200) and again.dtype == REAL


def test_no_more_is_held_than_was_in_use_at_once() -> None:
    lender = Pool()
    for size in (1000, 5000, 300, 4000, 100, 9000, 300):
        lender.empty((size,), REAL)
        assert lender.held <= 4 * 9000
    both = [lender.empty((9000,), REAL), lender.empty((2000,), REAL)]
    assert lender.held == 4 * 11000
    del both
    assert lender.held == 4 * 11000
    lender.empty((50_000,), REAL)
    assert lender.held == 4 * 50_000


def test_where_memory_ends_it_says_so_and_gives_back_what_was_free() -> None:
    lender = Pool()
    lender.empty((1000,), REAL)
    with pytest.raises(torch.OutOfMemoryError, match="allocate"):
        lender.empty((2**50,), REAL)
    assert lender.held == 0
    assert lender.empty((1000,), REAL).shape == (1000,)


def test_small_tensors_are_torchs_own() -> None:
    lender = Pool()
    t = lender.empty((3, 4), torch.float64)
    assert t.shape == (3, 4) and t.dtype == torch.float64 and lender.held == 0


def test_threads_never_share_a_block() -> None:
    lender = Pool()

    def work(i: int) -> bool:
        same = True
        for size in (700, 1100, 700):
            t = lender.empty((size,), REAL).fill_(i)
            same &= bool((t == i).all())
        return same

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(400)))


def test_the_shared_pool_ends_with_its_last_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_current", weakref.ref(Pool()))
    one = memory.shared()
    assert memory.shared() is one
    held = one.empty((1000,), REAL)
    del one
    gc.collect()
    assert memory.shared().held == 0
    held.fill_(2.0)
    assert held.sum() == 2000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
    ],
)
def test_thresholds_that_the_environment_sets_stay(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(
        mallopt=lambda which, size: calls.append((which, size)), malloc_trim=lambda pad: 0
    )
    monkeypatch.setattr(memory, "glibc", lambda: library)
    for variable in (*memory.SET_BY, "GLIBC_TUNABLES"):
        monkeypatch.delenv(variable, raising=False)
    memory.keep_freed()
    with kept():
        assert len(calls) == 4
    calls.clear()
    monkeypatch.setenv(name, value)
    memory.keep_freed()
    with kept():
        pass
    assert not calls
