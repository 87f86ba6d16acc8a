"""Near-duplicates against all pairs, whatever the block."""

import numpy as np
import pytest

from denoisers.images import distinct
from spectral.errors import OptionError, ShapeError

RNG = np.random.default_rng(0)


def by_all_pairs(images, correlation):
    """One after another, on features formed by hand: means of 2x2 pixels for sides of 40."""
    n, channels = images.shape[:2]
    pooled = images.astype(np.float64).reshape(n, channels, 20, 2, 20, 2).mean((3, 5)).reshape(n, -1)
    pooled -= pooled.mean(1, keepdims=True)
    kept = []
    for i, x in enumerate(pooled):
        cosines = [x @ pooled[j] / np.linalg.norm(x) / np.linalg.norm(pooled[j]) for j in kept]
        if not cosines or max(cosines) <= correlation:
            kept.append(i)
    return kept


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_the_same_as_all_pairs(channels, block):
    base = RNG.random((10, channels, 40, 40)).astype(np.float32)
    near = base[RNG.integers(10, size=30)]
    # Brighter, of more contrast, and with noise, some of it just too much.
    near = 0.1 + 0.8 * near + RNG.uniform(0, 0.2, (30, 1, 1, 1)) * RNG.standard_normal(near.shape)
    images = np.concatenate([base, near])[RNG.permutation(40)].astype(np.float32)
    expected = by_all_pairs(images, 0.95)
    assert 10 < len(expected) < 40
    assert distinct(images, 0.95, block=block).tolist() == expected


def test_edges():
    flat = np.full((3, 1, 40, 40), 0.5, dtype=np.float32)
    assert distinct(flat).tolist() == [0, 1, 2]  # without contrast: like no other
    assert distinct(flat[:0]).tolist() == []
    small = RNG.random((2, 1, 5, 7)).astype(np.float32)
    assert distinct(np.concatenate([small, small])).tolist() == [0, 1]
    with pytest.raises(ShapeError):
        distinct(flat[0])
    for bad in ({"correlation": 0.0}, {"correlation": 1.1}, {"block": 0}):
        with pytest.raises(OptionError):
            distinct(flat, **bad)
