"""The kernels against a NumPy definition written out in full, and what a sequence of images promises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spectral.errors import OptionError
from spectral.kernels import calpha
from spectral.kernels.calpha import Kind, stream, synthesize
from spectral.kernels.write import write_calpha


def fourier(noise: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """F_s by complex transforms in float64, with integer frequencies and gain 1 at zero."""
    k = np.sqrt(
        sum(f**2 for f in np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in noise.shape), indexing="ij"))
    )
    gain = np.where(k > 0, np.where(k > 0, k, 1) ** -exponent, 1)
    return np.fft.ifftn(np.fft.fftn(noise) * gain).real


def unit(field: NDArray[np.float64]) -> NDArray[np.float64]:
    return (field - field.min()) / (field.max() - field.min())


def definition(
    index: int, size: int, alpha: float, beta: float, kind: Kind, seed: int
) -> NDArray[np.float64]:
    """One image, straight from the docstring."""
    draws = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    curve_noise = 2 * draws.random(size if kind == "released" else 8 * size) - 1
    noises = 2 * draws.random((2, size, size)) - 1
    u, v, coin = draws.random(3)
    mask = np.empty((size, size))
    if kind == "released":
        heights = np.clip(np.rint(size * fourier(curve_noise, alpha)) + size // 2, 0, size)
        hard = np.pad((np.arange(size)[:, None] < heights).astype(float), ((1, 0), (1, 0)), mode="reflect")
        for r in range(size):
            for c in range(size):
                mask[r, c] = hard[r : r + 2, c : c + 2].mean()
        bright, dark = u + (1 - u) * unit(fourier(noises[0], beta)), v * unit(fourier(noises[1], beta))
    else:
        curve = fourier(curve_noise, alpha + 0.5)
        curve = 0.10 * (curve - curve.mean()) / curve.std()
        curve = curve * min(1, 0.42 / np.abs(curve).max()) + 0.45 + 0.1 * u
        for r in range(size):
            for c in range(size):
                mask[r, c] = np.clip(size * curve[8 * c : 8 * c + 8] - r, 0, 1).mean()
        bright, dark = (
            0.6 + 0.4 * unit(fourier(noises[0], beta + 1)),
            0.4 * unit(fourier(noises[1], beta + 1)),
        )
    first, second = (bright, dark) if coin < 0.5 else (dark, bright)
    return mask * first + (1 - mask) * second


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(5, 48),
    alpha=st.floats(0.0, 5.0),
    beta=st.floats(0.0, 5.0),
    kind=st.sampled_from(["released", "exact"]),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**40),
)
def test_images_are_the_definitions(
    size: int, alpha: float, beta: float, kind: Kind, seed: int, index: int
) -> None:
    image = synthesize(1, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, first=index)[0]
    expected = definition(index, size, alpha, beta, kind, seed)
    np.testing.assert_allclose(image, expected, atol=3e-6)


@pytest.mark.parametrize("size", [33, 80])
@pytest.mark.parametrize("kind", ["released", "exact"])
def test_an_image_depends_on_its_seed_and_number_alone(size: int, kind: Kind) -> None:
    together = synthesize(50, size=size, alpha=1.5, kind=kind, seed=3)
    streamed = np.concatenate(list(stream(50, size=size, alpha=1.5, kind=kind, seed=3, batch=7)))
    np.testing.assert_array_equal(together, streamed)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = synthesize(1, size=size, alpha=1.5, kind=kind, seed=3, first=41)[0]
    torch.set_num_threads(before)
    np.testing.assert_array_equal(together[41], alone)
    assert not np.array_equal(together[0], together[1])


def test_contour_spread_is_the_papers() -> None:
    """At 80 pixels the contour's standard deviation is 10.6 rows at alpha 1, 9.0 at alpha 5."""
    for alpha, rows in ((1, 10.6), (5, 9.0)):
        contours = calpha.ingredients(4000, size=80, alpha=alpha).contours * 80
        assert contours.std() == pytest.approx(rows, rel=0.02)


def test_written_images_are_read_back(tmp_path: Path) -> None:
    paths = write_calpha(tmp_path / "new", n=12, size=16, alpha=2, seed=9)
    images = synthesize(12, size=16, alpha=2, seed=9)
    np.testing.assert_array_equal(np.load(paths[0]), images)
    assert [p.name for p in paths[1:3]] == ["00.png", "01.png"]
    picture = np.asarray(Image.open(paths[5]))
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture / 255, images[4], atol=0.5001 / 255)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": -1}, {"size": 0}, {"size": 1}, {"alpha": -0.5}])
def test_bad_arguments_leave_written_images_alone(tmp_path: Path, arguments: Any) -> None:
    paths = write_calpha(tmp_path, n=2, size=8)
    before = [p.read_bytes() for p in paths]
    with pytest.raises(OptionError, match=rf"{next(iter(arguments))}.* must be >= "):
        write_calpha(tmp_path, **{"n": 2, "size": 8, **arguments})
    assert [p.read_bytes() for p in paths] == before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": -1},
        {"size": 1},
        {"alpha": -0.5},
        {"beta": float("nan")},
        {"kind": "sharp"},
        {"seed": -1},
        {"seed": 2**64},
        {"first": -1},
    ],
)
def test_bad_arguments_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        synthesize(**({"n": 1, "size": 8, "alpha": 1.0} | arguments))
