"""Compiled code on disk: read again, by those alone whom it fits, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import types

from spectral.kernels import compiled
from spectral.kernels.compiled import cfunc, njit

INTEGERS = types.int64(types.int64)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jacobian-spectra"


def double():  # type: ignore[no-untyped-def]
    """A dispatcher made anew, as another process would make it."""
    return njit()(lambda x: 2 * x)


def plus(step: int):  # type: ignore[no-untyped-def]
    return cfunc(INTEGERS)(lambda x: x + step)


def hits(dispatcher) -> int:  # type: ignore[no-untyped-def]
    return sum(dispatcher.stats.cache_hits.values())


def test_code_is_read_again(home: Path) -> None:
    first, second = double(), double()
    assert first(4) == second(4) == 8 and (hits(first), hits(second)) == (0, 1)
    assert first(0.5) == second(0.5) == 1.0 and hits(second) == 2  # a signature each
    assert len(list(home.iterdir())) == 2


def test_constants_closed_over_are_part_of_the_key() -> None:
    made = [plus(step) for step in (1, 2, 1)]
    assert [one.ctypes(5) for one in made] == [6, 7, 6]
    assert [one.cache_hits for one in made] == [0, 0, 1]


def test_functions_closed_over_are_the_same_in_another_process() -> None:
    code = (
        "from spectral.kernels.compiled import *; import numba\n"
        "inner = njit()(lambda x: x + 1)\n"
        "def outer(f): return cfunc(numba.types.int64(numba.types.int64))(lambda x: 2 * f(x))\n"
        "made = outer(inner); print(made.ctypes(3), made.cache_hits)"
    )
    outs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(2)]
    assert outs == [["8", "0"], ["8", "1"]]


@pytest.mark.parametrize("changed", ["sources", "features", "numba"])
def test_code_for_others_is_left_alone(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert double()(4) == 8
    if changed == "sources":
        monkeypatch.setattr(compiled, "sources", lambda: "a kernel was edited")
    elif changed == "numba":
        monkeypatch.setattr(compiled.numba, "__version__", "0.0")
    else:
        from numba.core.codegen import CPUCodegen

        monkeypatch.setattr(CPUCodegen, "magic_tuple", lambda _: ("x86_64", "other", "-avx512f"))
    again = double()
    assert again(4) == 8 and hits(again) == 0


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped"])
def test_damaged_code_is_compiled_again(home: Path, damage: str) -> None:
    assert double()(4) == 8
    (path,) = home.iterdir()
    data = path.read_bytes()
    flipped = data[:-300] + bytes([data[-300] ^ 1]) + data[-299:]
    path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "flipped": flipped}[damage])
    again, healed = double(), double()
    assert again(4) == healed(4) == 8 and (hits(again), hits(healed)) == (0, 1)


def test_every_module_of_kernels_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also `lanes`, whose constants the code of others holds."""
    for name in ("a", "lanes"):
        (tmp_path / f"{name}.py").write_text("ROWS = 6")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "a.py"))
    before = compiled.sources.__wrapped__()
    (tmp_path / "lanes.py").write_text("ROWS = 12")
    assert compiled.sources.__wrapped__() != before
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "none" / "a.py"))
    with pytest.raises(OSError, match="not there to be read"):
        compiled.sources.__wrapped__()


def test_without_source_or_folder_code_is_compiled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("not a folder")
    first, second = double(), double()
    assert first(4) == second(4) == 8 and hits(second) == 0
    home.unlink()
    monkeypatch.setattr(compiled, "sources", lambda: (_ for _ in ()).throw(OSError("no source")))
    assert double()(4) == 8 and not home.exists()


def test_kernels_work_where_nothing_can_be_written() -> None:
    """Numba's own cache, which would fail at import, is never asked."""
    code = (
        "from numba.core import caching; caching.CacheImpl.__init__ = lambda *_: 1 / 0\n"
        "import torch, spectral; from spectral.kernels.calpha import synthesize\n"
        "pairs = spectral.top_eigs(torch.nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 8, 8), 2)\n"
        "print(len(synthesize(1, size=8, alpha=2.0)), bool(pairs.complete))"
    )
    environment = {**os.environ, "HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "1 True\n"
