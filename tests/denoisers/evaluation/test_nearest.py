"""The nearest of a training set against every pair multiplied and added up without rounding."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers.evaluation import cosine_similarity, nearest
from denoisers.evaluation.nearest import _rough, _unit, rounding


@pytest.fixture
def module():
    import sys

    return sys.modules["denoisers.evaluation.nearest"]


def brute(images, training, centred=False):
    """(index, similarity) of each, sums by math.fsum; the first of equals."""

    def unit(x):
        rows = x.double().flatten(1).numpy()
        if centred:
            rows = np.array([row - math.fsum(row) / len(row) for row in rows])
        sizes = [math.sqrt(math.fsum(row * row)) for row in rows]
        return [row / size if size else row for row, size in zip(rows, sizes, strict=True)]

    queries, known = unit(images), unit(training)
    table = np.array([[math.fsum(q * t) for t in known] for q in queries])
    return table.argmax(1), table.max(1), table


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(2, 9),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_is_what_every_pair_tells(count, many, channels, side, centred, seed):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(count, channels, side, side, generator=g)
    training = torch.rand(many, channels, side, side, generator=g)
    found = nearest(images, training, centred=centred)
    index, similarity, _ = brute(images, training, centred)
    assert found.index.tolist() == index.tolist()
    np.testing.assert_allclose(found.similarity, similarity, rtol=0, atol=1e-14)
    assert torch.equal(found.images, training[found.index])


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("block", [1 << 22, 500, 64])
def test_near_ties_that_float32_cannot_tell(module, monkeypatch, centred, block):
    """Cosines 0.9 + k 1e-12 in a random order, which float32 does not see, with the best in any block."""
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(5)
    axes = np.linalg.qr(np.concatenate([np.ones((64, 1)), rng.standard_normal((64, 40))], 1))[0].T
    ways = 0.9 + 1e-12 * np.array([rng.permutation(30) for _ in range(4)]).ravel()
    known = [c * axes[1 + i // 30] + math.sqrt(1 - c * c) * axes[5 + i % 30] for i, c in enumerate(ways)]
    images = torch.from_numpy(3 * axes[1:5] + centred).reshape(4, 1, 8, 8)
    training = torch.from_numpy(7 * np.array(known) + 2 * centred).reshape(120, 1, 8, 8)
    found = nearest(images, training, centred=centred)
    index, similarity, table = brute(images, training, centred)
    assert found.index.tolist() == index.tolist()
    np.testing.assert_allclose(found.similarity, similarity, rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.sort(table, 1)[:, -2], similarity - 1e-12, rtol=0, atol=2e-15)
    rough = _unit(images, centred).astype(np.float32) @ _unit(training, centred).astype(np.float32).T
    assert (rough.argmax(1) != index).any()  # float32 alone is wrong here


@pytest.mark.parametrize("block", [1 << 22, 300])
def test_of_equals_the_first_is_taken(module, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    images = torch.rand(3, 1, 10, 10)
    training = torch.cat([torch.rand(7, 1, 10, 10), images, images, images[:1], 0.5 * images])
    found = nearest(images, training)
    assert found.index.tolist() == [7, 8, 9]
    np.testing.assert_allclose(found.similarity, 1, atol=1e-15)


def test_blocks_change_nothing(module, monkeypatch):
    images, training = torch.rand(9, 3, 6, 6), torch.rand(200, 3, 6, 6)
    whole = nearest(images, training)
    for block, most in ((108, 1 << 11), (2000, 1 << 11), (1 << 22, 3)):
        monkeypatch.setattr(module, "BLOCK", block)
        monkeypatch.setattr(module, "ROWS", most)
        parted = nearest(images, training.numpy())
        assert torch.equal(parted.index, whole.index)
        assert torch.equal(parted.similarity, whole.similarity)


def test_most_pairs_are_excluded_without_float64():
    images, training = torch.rand(10, 1, 16, 16), torch.rand(1000, 1, 16, 16)
    assert nearest(images, training, centred=True).compared < 0.02 * 10 * 1000


@pytest.mark.parametrize("entries", [1, 7, 511, 512, 513, 5000, 200_000])
@pytest.mark.parametrize("kind", ["normal", "positive", "constant", "spiked", "tiny"])
def test_float32_is_off_by_no_more_than_the_bound(entries, kind):
    rng = np.random.default_rng(entries)
    a, b = {
        "normal": lambda: rng.standard_normal((2, 3, entries)),
        "positive": lambda: rng.random((2, 3, entries)),
        "constant": lambda: np.full((2, 3, entries), 0.1),
        "spiked": lambda: 10.0 ** rng.uniform(-8, 0, (2, 3, entries)),
        "tiny": lambda: np.concatenate([np.ones((2, 3, 1)), np.full((2, 3, entries), 1e-39)], 2),
    }[kind]()
    a, b = _unit(a, False), _unit(b, False)
    exact = [[float(sum(map(Fraction, p * q))) if entries < 600 else math.fsum(p * q) for q in b] for p in a]
    assert np.abs(_rough(a, b) - exact).max() <= rounding(entries) < 4e-5


def test_the_bound_holds_for_the_worst_order_of_adding():
    """One after another, in float32, numbers of one sign: nearly the error that the bound allows for."""
    a = _unit(np.full((1, 512), 0.1) * (1 + 1e-4 * np.arange(512)), False)[0]
    total = np.float32(0)
    for x in a.astype(np.float32):
        total = np.float32(total + np.float32(x * x))
    assert 1e-7 < abs(float(total) - math.fsum(a * a)) <= rounding(512)


def test_memory_is_bounded_by_blocks_also_where_all_images_are_equal(module, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1 << 13)
    monkeypatch.setattr(module, "ROWS", 64)
    one = np.random.default_rng(0).random((1, 1, 16, 16)).astype(np.float32)

    class Many:
        def __len__(self):
            return 4000

        def __getitem__(self, part):
            return np.repeat(one, len(range(*part.indices(len(self)))), 0)

    images = torch.from_numpy(one).repeat(8, 1, 1, 1)
    tracemalloc.start()
    found = nearest(images, Many())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.index.tolist() == [0] * 8 and found.compared == 8 * 4000
    assert peak < 1e6  # 8.2 MB hold all in float64


def test_images_without_a_direction_are_similar_to_none():
    images = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.1), torch.rand(1, 4, 4)])
    found = nearest(images, torch.cat([torch.full((1, 1, 4, 4), 0.7), torch.rand(3, 1, 4, 4)]), centred=True)
    assert found.similarity[:2].tolist() == [0, 0] and found.index[:2].tolist() == [0, 0]
    assert found.similarity[2] != 0
    assert cosine_similarity(images, images).tolist() == pytest.approx([0, 1, 1])


def test_cosines_of_corresponding_images():
    x, y = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64)
    a, b = x.flatten(1).numpy(), y.flatten(1).numpy()
    plain = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    np.testing.assert_allclose(cosine_similarity(x, y), plain, rtol=1e-13)
    centred = [np.corrcoef(p, q)[0, 1] for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(cosine_similarity(x, y, centred=True), centred, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8])
def test_images_of_any_precision_are_left_as_they_are(dtype):
    images, training = (255 * torch.rand(2, 6, 1, 4, 4)).to(dtype)
    before = images.clone(), training.clone()
    found = nearest(images, training, centred=True)
    index, similarity, _ = brute(images, training, centred=True)
    assert found.index.tolist() == index.tolist()
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-14)
    assert torch.equal(images, before[0]) and torch.equal(training, before[1])


def test_what_cannot_be_compared_is_refused():
    images = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="no training images"):
        nearest(images, torch.rand(0, 1, 4, 4))
    with pytest.raises(ValueError, match="compared with training images of"):
        nearest(images, torch.rand(5, 1, 4, 5))
    with pytest.raises(ArithmeticError, match="finite images"):
        nearest(images, torch.full((1, 1, 4, 4), math.nan))
    with pytest.raises(ArithmeticError, match="finite images"):
        nearest(images.double() * 1e200, images)
    with pytest.raises(ValueError, match="one shape"):
        cosine_similarity(images, images[:1])
