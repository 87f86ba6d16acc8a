"""The whole-array kernels against the Numba ones: in NumPy, in a stand-in as strict as CuPy, on a GPU."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.bases import DCT, BandletFrame, Hartley, Pixels, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.bases.alpert import warped_multiwavelets
from spectral.errors import OptionError
from spectral.kernels import arrays, philox, rotations
from spectral.kernels.arrays import as_array, device_module, namespace, on_host
from spectral.kernels.calpha import Kind, stream, synthesize
from spectral.kernels.device import calpha as device_calpha
from spectral.kernels.device import philox as device_philox
from spectral.kernels.device import shrinkage as device_shrinkage
from spectral.kernels.rotations import apply, cheapest, dense
from spectral.kernels.shrinkage import Rule, risks
from tests.helpers.guarded import stand_in

WORDS = st.integers(0, 2**64 - 1)


def cupy_missing() -> str:
    """Why CuPy cannot run here, or nothing."""
    try:
        device_module("cuda")
    except OptionError as error:
        return str(error)
    return ""


@pytest.fixture(params=["stand-in", "gpu"])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A library for `device="cuda"`: the stand-in everywhere, CuPy where there is a GPU."""
    if request.param == "stand-in":
        with stand_in() as library:
            yield library
    elif reason := cupy_missing():
        pytest.skip(reason)
    else:
        yield device_module("cuda")


def test_the_stand_in_leaves_what_was_imported_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with stand_in():
        importlib.import_module("colorsys")
    assert "colorsys" in sys.modules


@settings(deadline=None)
@given(
    st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.integers(1, 30)
)
def test_draws_are_the_kernels_bit_for_bit(seed: int, keys: list[int], count: int) -> None:
    found = device_philox.uniforms(np, seed, np.array(keys, np.uint64), count)
    for key, row in zip(keys, found, strict=True):
        expected = np.empty(count)
        philox.uniforms(np.uint64(seed), np.uint64(key), expected)
        np.testing.assert_array_equal(row, expected)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(5, 40),
    alpha=st.floats(0.0, 5.0),
    beta=st.floats(0.0, 5.0),
    kind=st.sampled_from(["released", "exact"]),
    seed=WORDS,
    first=st.integers(0, 2**40),
)
def test_images_are_the_kernels(
    size: int, alpha: float, beta: float, kind: Kind, seed: int, first: int
) -> None:
    arguments = {"size": size, "alpha": alpha, "beta": beta, "kind": kind, "seed": seed, "first": first}
    found = device_calpha.synthesize(np, 3, **arguments)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, synthesize(3, **arguments), atol=3e-6)


@pytest.mark.parametrize("rule", ["oracle", "hard", "soft"])
def test_risks_are_the_kernels(rule: Rule) -> None:
    c = np.random.default_rng(0).standard_normal((3, 200)) * np.geomspace(1e-3, 10, 200)
    sigmas = [0.01, 0.3, 2.0]
    np.testing.assert_allclose(
        device_shrinkage.risks(c, sigmas, rule, 3.0), risks(c, sigmas, rule, 3.0), rtol=1e-11
    )


@pytest.mark.parametrize("moments", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("inverse", [False, True])
def test_squares_are_transformed_as_by_rotations(moments: tuple[int, int], width: int, inverse: bool) -> None:
    table, rng = warped_multiwavelets(width, moments), np.random.default_rng(1)
    which = rng.integers(0, 2 * width, 50, dtype=np.int32)
    one = rng.standard_normal((50, width**2))
    other = one.copy()
    apply(one, which, table, inverse)
    apply(other, which, dense(table, width**2), inverse)
    np.testing.assert_allclose(other, one, atol=1e-13)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("block", [2**10, 2**26])
def test_the_cheapest_squares_are_the_rotations(
    hard: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotations.squares_on_device, "_BLOCK", block)
    table, rng = warped_multiwavelets(4, (2, 1)), np.random.default_rng(2)
    squares = rng.standard_normal((16, 45)) * np.exp(-0.3 * np.arange(16))[:, None]
    levels, penalties = np.array([0.01, 0.3, 2.0]), np.array([0.0, 0.1, 5.0])
    costs, which = cheapest(squares, table, levels, penalties, hard)
    others, flows = cheapest(squares, dense(table, 16), levels, penalties, hard)
    np.testing.assert_allclose(others, costs, rtol=1e-12)
    assert (which == -1).any()
    assert (flows == which).mean() > 0.9  # ties may fall either way


def test_images_on_a_device(cupy: Any) -> None:
    for kind in ("released", "exact"):
        found = np.concatenate(
            [on_host(x) for x in stream(5, size=33, alpha=2, kind=kind, seed=3, batch=3, device="cuda")]
        )
        np.testing.assert_allclose(found, synthesize(5, size=33, alpha=2, kind=kind, seed=3), atol=3e-6)


@pytest.mark.parametrize("rule", ["oracle", "hard", "soft"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_risks_on_a_device(cupy: Any, rule: Rule, dtype: type) -> None:
    c = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(dtype)
    found = risks(cupy.asarray(c), [0.1, 1.0], rule)
    assert namespace(found) is cupy
    np.testing.assert_allclose(on_host(found), risks(c, [0.1, 1.0], rule), rtol=1e-11)


@pytest.mark.parametrize(
    "basis",
    [Pixels((8, 12)), DCT((7, 9)), Hartley((8, 5)), Wavelet((16, 24), "db4", 2)],
    ids=lambda b: type(b).__name__,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bases_on_a_device(cupy: Any, basis: Any, dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal((3, *basis.shape)).astype(dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    c = basis.analysis(cupy.asarray(x))
    assert namespace(c) is cupy
    assert c.dtype == dtype
    np.testing.assert_allclose(on_host(c), basis.analysis(x), atol=tolerance)
    np.testing.assert_allclose(on_host(basis.synthesis(c)), x, atol=tolerance)


@pytest.mark.parametrize("frame", [wavelet_bandlets((64, 32), "db4", 2), pixel_bandlets((32, 32))])
@pytest.mark.parametrize("cost", ["oracle", "hard"])
def test_bandlets_on_a_device(cupy: Any, frame: BandletFrame, cost: Any) -> None:
    rows, columns = np.mgrid[: frame.base.shape[0], : frame.base.shape[1]]
    image = (rows + 0.6 * columns > 30) + 0.05 * np.random.default_rng(0).standard_normal(frame.base.shape)
    arguments = {"thresholds": [0.05, 0.3], "cost": cost, "geometry_penalty": 1.0, "split_penalty": 1 / 7}
    c = frame.base.analysis(np.stack([image, image.max() - image]))
    expected, found = frame.search(c, **arguments), frame.search(cupy.asarray(c), **arguments)
    np.testing.assert_allclose(on_host(found.costs), expected.costs, rtol=1e-12)
    basis = found.basis(1, 0)
    on_device = basis.analysis(cupy.asarray(image))
    assert namespace(on_device) is cupy
    np.testing.assert_allclose(on_host(on_device), basis.analysis(image), atol=1e-12)
    np.testing.assert_allclose(on_host(basis.synthesis(on_device)), image, atol=1e-12)


def test_torch_shares_its_memory() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    array = as_array(tensor)
    array[0, 0] = 7
    assert tensor[0, 0] == 7
    back = torch.as_tensor(array)
    assert back.data_ptr() == tensor.data_ptr()


@pytest.mark.skipif(bool(cupy_missing()), reason=cupy_missing() or "CuPy runs")
def test_torch_shares_its_gpu_memory() -> None:
    tensor = torch.arange(6.0, device="cuda").reshape(2, 3)
    array = as_array(tensor)
    array[0, 0] = 7
    assert tensor[0, 0] == 7
    assert torch.as_tensor(array).data_ptr() == tensor.data_ptr() == array.data.ptr


def test_devices_that_are_not_there_are_told() -> None:
    with pytest.raises(OptionError, match="'cpu' or 'cuda'"):
        synthesize(1, size=8, alpha=1, device="tpu")
    if cupy_missing():
        with pytest.raises(OptionError, match=r"CuPy|GPU"):
            synthesize(1, size=8, alpha=1, device="cuda")
    with stand_in() as library, pytest.raises(OptionError, match="finds none"):
        library.cuda.is_available = lambda: False
        arrays.device_module("cuda")
