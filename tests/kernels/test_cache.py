"""The disk cache when all goes well, and when files are damaged, folders missing and writers many."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral import storage
from spectral.bases.alpert import warped_multiwavelets
from spectral.errors import FileContentError
from spectral.kernels import cache
from spectral.kernels.cache import cached, folder


class Maker:
    """Arrays, and how often they were made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> dict[str, NDArray]:
        self.made += 1
        return {"a": np.arange(6.0).reshape(2, 3), "b": np.array([self.made], np.int32)}

    __code__ = __call__.__code__


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jacobian-spectra"


def only_file(home: Path) -> Path:
    (path,) = home.iterdir()
    return path


def test_arrays_are_made_once_for_a_key(home: Path) -> None:
    make = Maker()
    first, again = cached("x", make, width=4), cached("x", make, width=4)
    assert make.made == 1
    for name in ("a", "b"):
        np.testing.assert_array_equal(first[name], again[name])
        assert first[name].dtype == again[name].dtype
    cached("x", make, width=8)
    cached("y", make, width=4)
    assert make.made == 3
    assert len(list(home.iterdir())) == 3


def test_other_code_or_another_numpy_is_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = Maker()
    cached("x", make)
    monkeypatch.setattr(cache.np, "__version__", "0.0")
    cached("x", make)
    assert make.made == 2
    source = tmp_path / "code.py"
    for text in (
        "make = lambda: {'a': __import__('numpy').ones(1)}",
        "make = lambda: {'a': __import__('numpy').zeros(1)}",
    ):
        source.write_text(text)
        scope: dict = {}
        exec(compile(text, str(source), "exec"), scope)
        found = cached("code", scope["make"])
    assert found["a"] == 0


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign", "identity"])
def test_damaged_files_are_made_again(home: Path, damage: str) -> None:
    make = Maker()
    cached("x", make)
    path = only_file(home)
    data = path.read_bytes()
    if damage == "identity":
        storage.write(path, cache.KIND, storage.read(path, cache.KIND)[0], {"identity": json.dumps({})})
    else:
        flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
        path.write_bytes(
            {"empty": b"", "truncated": data[:-5], "flipped": flipped, "foreign": b"GIF89a" * 20}[damage]
        )
    assert cached("x", make)["b"] == 2
    assert cached("x", make)["b"] == 2
    assert make.made == 2


def test_every_truncation_is_noticed(home: Path) -> None:
    make = Maker()
    cached("x", make)
    path = only_file(home)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(FileContentError):
            storage.read(path, cache.KIND)
        cached("x", make)
    assert make.made == 1 + len(range(0, len(data), 7))


def test_without_a_folder_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    make = Maker()
    for root in (blocked, Path("/proc/no/such/place")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(root))
        before = make.made
        assert cached("x", make)["b"] == before + 1
    monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with pytest.raises(OSError, match="no home"):
        folder()
    before = make.made
    assert cached("x", make)["b"] == before + 1


def test_without_source_nothing_is_kept(home: Path) -> None:
    scope: dict = {"np": np}
    exec("make = lambda: {'a': np.ones(1)}", scope)
    assert cached("x", scope["make"])["a"] == 1
    assert not home.exists()


def test_a_full_disk_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.Path, "replace", full)
    make = Maker()
    assert cached("x", make)["b"] == 1
    assert list(home.iterdir()) == []


def test_the_folder_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder() == tmp_path / "jacobian-spectra"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "jacobian-spectra"


def test_the_oldest_files_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    cached("x", make, k=0)
    size = only_file(home).stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 3 * size + 100)
    for k in range(1, 6):
        for age, path in enumerate(sorted(home.iterdir(), key=lambda p: -p.stat().st_mtime)):
            os.utime(path, (1e9 - age, 1e9 - age))
        cached("x", make, k=k)
    assert len(list(home.iterdir())) == 3
    before = make.made
    cached("x", make, k=5)
    assert make.made == before
    cached("x", make, k=0)
    assert make.made == before + 1


def _race(number: int) -> float:
    return float(cached("race", Maker(), k=number % 3)["a"].sum())


def test_many_writers_share_the_folder(home: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert set(pool.map(_race, range(60))) == {15.0}
    assert len(list(home.iterdir())) == 3


def test_dictionaries_are_read_as_they_were_made(home: Path) -> None:
    made = warped_multiwavelets.__wrapped__(16, (2, 2), "float32")
    read = warped_multiwavelets.__wrapped__(16, (2, 2), "float32")
    assert len(list(home.iterdir())) == 1
    for one, other in zip(made, read, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    warped_multiwavelets.__wrapped__(8, (2, 2))
    assert len(list(home.iterdir())) == 1
