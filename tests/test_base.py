"""Every public result: saved, loaded to the same bits, refused when one of them has changed."""

import dataclasses
import inspect
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import spectral
from spectral.base import Result
from spectral.errors import FileContentError, OptionError
from spectral.estimators import Estimate
from spectral.solvers import Completeness
from spectral.solvers.checkpoint import Checkpoint

PUBLIC = [c for name in spectral.__all__ if dataclasses.is_dataclass(c := getattr(spectral, name))]
RESULTS = [*PUBLIC, Completeness]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex128]
FILES = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tensors(draw):
    """Of any dtype and up to three axes, some without entries, some with NaN and infinities, some views."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed, dtype = draw(st.integers(0, 99)), draw(st.sampled_from(DTYPES))
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if dtype.is_complex:
        t = torch.complex(t, -t).conj()
    elif dtype.is_floating_point and t.numel():
        t.view(-1)[0] = draw(st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf]))
    t = t.to(dtype)
    return t.mT if t.ndim > 1 and draw(st.booleans()) else t


def contents(hint):
    """What a field of this type may hold."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*map(contents, typing.get_args(hint)))
    if typing.get_origin(hint) is dict:
        return st.dictionaries(st.text(max_size=5), st.integers(0, 1 << 40), max_size=3)
    if typing.get_origin(hint) is list:
        return st.lists(st.text(max_size=20), max_size=3)
    if typing.get_origin(hint) is tuple:
        return st.tuples(*map(contents, typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        return results(hint)
    return {
        Tensor: tensors(),
        float: st.floats() | st.sampled_from([np.float32(0.1), np.float64(np.inf)]),
        int: st.integers(-(1 << 60), 1 << 60),
        str: st.text(max_size=20),
        type(None): st.none(),
    }[hint]


@st.composite
def results(draw, cls):
    hints = typing.get_type_hints(cls)
    return cls(**{f.name: draw(contents(hints[f.name])) for f in dataclasses.fields(cls)})


def same(a, b):
    """Whether two values are of the same type and the same to the bit."""
    if isinstance(a, np.generic):
        a = a.item()
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        a, b = a.resolve_conj().contiguous(), b.contiguous()
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def test_public_results_are_results():
    assert len(PUBLIC) == 10 and all(issubclass(c, Result) for c in RESULTS)
    ours = {c for c in Result.kinds.values() if c.__module__.startswith("spectral.")}
    assert set(RESULTS) == {c for c in ours if not inspect.isabstract(c)} - {spectral.results.Spectrum}


@pytest.mark.parametrize("cls", RESULTS, ids=lambda c: c.__name__)
@FILES
@given(data=st.data())
def test_loading_is_saving_undone(tmp_path, cls, data):
    result = data.draw(results(cls))
    path = result.save(tmp_path / "result.safetensors")  # of strips the name tells which
    assert same(result, cls.load(path))
    assert list(tmp_path.iterdir()) == [path]  # nothing partial is left
    path.unlink()


@pytest.mark.parametrize("cls", Result.kinds.values(), ids=lambda c: c.__name__)
def test_equal_is_identical(cls):
    assert cls.__eq__ is object.__eq__ and cls.__hash__ is object.__hash__


def test_fields_may_share_memory(tmp_path):
    t = torch.arange(6.0)
    again = Estimate.load(Estimate(t, t[:3], 1, 2, "", 3.0).save(tmp_path / "e"))
    assert torch.equal(again.value, t) and torch.equal(again.stderr, t[:3])


def refused(path: Path, load) -> bool:
    try:
        load()
    except FileContentError as failure:
        return str(path) in str(failure)
    return False


def test_every_flipped_bit_is_found(tmp_path):
    estimate = Estimate(torch.linspace(0, 1, 5), 0.25, 3, 4, "exact", float("inf"))
    path = estimate.save(tmp_path / "e.safetensors")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert refused(path, lambda: Estimate.load(path)), bit
    for other in (whole[:-1], whole[:40], whole[:8], b"", whole + b"\0", whole[1:]):
        path.write_bytes(other)
        assert refused(path, lambda: Estimate.load(path))
    path.write_bytes(whole)
    assert same(Estimate.load(path), estimate)


def test_a_checkpoints_flipped_bits_are_found(tmp_path):
    path, target = tmp_path / "c.safetensors", {"k": 2, "which": "largest"}
    kept = Checkpoint(path, spectral.as_operator(torch.eye(5).double()), "lanczos")
    kept.write(target, [({"basis": torch.rand(3, 5)}, {"stage": "solve"})])
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):  # coprime to 8
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert refused(path, lambda: kept.read(target)), bit
    path.write_bytes(whole)
    assert kept.read(target)[0][1] == {"stage": "solve"}


def test_files_of_other_classes_are_refused(tmp_path):
    path = Estimate(1.0, 0.0, 1, 1, "exact", 1.0).save(tmp_path / "e")
    for cls in RESULTS:
        if cls is not Estimate:
            with pytest.raises(FileContentError, match=f"holds Estimate, not {cls.__name__}"):
                cls.load(path)


def test_tensors_that_torch_is_still_to_negate_are_kept_negated(tmp_path):
    """A bit says so, which no file keeps."""
    path = spectral.storage.write(tmp_path / "e", "E", {"t": torch._neg_view(torch.ones(3))}, {})
    assert spectral.storage.read(path, "E")[0]["t"].tolist() == [-1.0, -1.0, -1.0]


def test_files_with_other_fields_are_refused(tmp_path):
    path = spectral.storage.write(tmp_path / "e", "Estimate", {}, {"value": 1.0, "colour": "red"})
    with pytest.raises(FileContentError, match="another version"):
        Estimate.load(path)


@pytest.mark.parametrize("name", ["x.npz", "x.PT", "x.json"])
def test_names_of_other_kinds_of_files_are_refused(tmp_path, name):
    with pytest.raises(OptionError, match=r"name it x\.safetensors"):
        spectral.trace(torch.eye(3), method="exact").save(tmp_path / name)
    assert not list(tmp_path.iterdir())
