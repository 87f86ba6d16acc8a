"""Patches of pictures: every place and symmetry, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers.images import Patches
from spectral.errors import OptionError, ShapeError


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(6, 12), st.integers(6, 12), st.integers(0, 2**31))
def test_every_patch_is_a_square_of_a_picture_up_to_symmetry(size, rows, columns, seed):
    # Every pixel has its own value, so a patch's values tell where it was cut.
    whole = np.arange(rows * columns, dtype=np.float32).reshape(1, rows, columns)
    pictures = [whole + 1000 * i for i in range(3)]
    for patch in Patches(pictures, size)(8, seed=seed)[:, 0]:
        values = patch.astype(int)
        picture = pictures[values.flat[0] // 1000][0]
        top, left = divmod(values.min() % 1000, columns)
        square = picture[top : top + size, left : left + size]
        turned = [np.rot90(s, k) for s in (square, square.T) for k in range(4)]
        assert any(np.array_equal(patch, s) for s in turned)


def test_all_pictures_places_and_symmetries_come():
    pictures = [np.arange(6, dtype=np.float32).reshape(1, 2, 3) + 10 * i for i in range(2)]
    seen = {tuple(p.ravel()) for p in Patches(pictures, 2)(2000)}
    assert len(seen) == 2 * 2 * 8


def test_zoom_takes_averages_of_pictures_too():
    """Each scale as often, none that is smaller than a patch; without it patches are what they were."""
    fine = np.random.default_rng(0).random((1, 12, 13), dtype=np.float32)
    halves = fine[:, :, :12].reshape(6, 2, 6, 2).mean((1, 3))
    at = {
        r: {square[i : i + 5, j : j + 5].tobytes() for i in range(len(square) - 4) for j in range(9)}
        for r, square in ((1, fine[0]), (2, halves))
    }
    seen = Patches([fine], 5, zoom=4)(400)[:, 0]
    turned = [[np.ascontiguousarray(np.rot90(s, k)) for s in (p, p.T) for k in range(4)] for p in seen]
    scales = [next(r for r in at if any(one.tobytes() in at[r] for one in all_)) for all_ in turned]
    assert 150 < scales.count(2) < 250
    np.testing.assert_array_equal(Patches([fine], 5, zoom=1)(9), Patches([fine], 5)(9))
    with pytest.raises(OptionError, match="zoom"):
        Patches([fine], 5, zoom=0)


def test_channels_stay_together():
    grey = np.random.default_rng(0).random((1, 9, 9), dtype=np.float32)
    patches = Patches([np.concatenate([grey, grey + 1, grey + 2])], 4)(20)
    np.testing.assert_array_equal(patches[:, 1], patches[:, 0] + 1)
    np.testing.assert_array_equal(patches[:, 2], patches[:, 0] + 2)


def test_what_cannot_be_cut():
    grey = np.zeros((1, 9, 4), dtype=np.float32)
    with pytest.raises(ShapeError, match="picture 1 is 9x4, and patches have 5"):
        Patches([np.zeros((1, 9, 9), dtype=np.float32), grey], 5)
    with pytest.raises(ShapeError, match="not \\(C, H, W\\)"):
        Patches([grey, np.zeros((3, 9, 9), dtype=np.float32)], 2)
    with pytest.raises(OptionError, match="no pictures"):
        Patches([], 2)
