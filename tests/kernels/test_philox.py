import numpy as np
import pytest

from spectral.kernels.philox import uniforms


@pytest.mark.parametrize("count", [1, 3, 4, 5, 1001])
@pytest.mark.parametrize("key", [(0, 0), (7, 123456), (2**64 - 1, 2**63)])
def test_draws_are_numpys(count: int, key: tuple[int, int]) -> None:
    out = np.empty(count)
    uniforms(np.uint64(key[0]), np.uint64(key[1]), out)
    numpys = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(count)
    np.testing.assert_array_equal(out, numpys)


def test_float32_draws_round_the_float64_ones() -> None:
    wide, narrow = np.empty(100), np.empty(100, np.float32)
    for out in (wide, narrow):
        uniforms(np.uint64(1), np.uint64(2), out)
    np.testing.assert_array_equal(narrow, wide.astype(np.float32))
