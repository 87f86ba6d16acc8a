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
