"""Two networks from the same noise: those that agree, those that have learned by heart, and neither."""

import pytest
import torch

from denoisers.evaluation import Comparison, compare, cosine_similarity, nearest
from tests.helpers.interrupted import interrupted

QUICK = {"h0": 0.5, "beta": 1.0, "sigma_end": 0.05}


def by_heart(training):
    """The optimal denoiser of a set of one image after another: always its nearest to what it is given."""

    def model(y):
        return training[torch.cdist(y.flatten(1), training.flatten(1)).argmin(1)]

    return model


@pytest.fixture
def sets():
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 6, 1, 8, 8, generator=g)


def test_networks_that_know_their_images_draw_these(sets):
    found = compare(*map(by_heart, sets), *sets, count=5, **QUICK)
    for drawn, near, training in (
        (found.first, found.first_nearest, sets[0]),
        (found.second, found.second_nearest, sets[1]),
    ):
        torch.testing.assert_close(drawn.images, training[near.index])
        torch.testing.assert_close(near.similarity, torch.ones(5, dtype=torch.float64))
        assert torch.equal(near.images, training[near.index])
    assert (found.between < 0.9).all()
    assert float(found.mean()["first"]) == pytest.approx(1)
    assert "5 samples of each" in repr(found)


def test_networks_that_agree_draw_the_same(sets):
    def smooth(y):
        return torch.nn.functional.avg_pool2d(y, 3, 1, 1)

    found = compare(smooth, smooth, *sets, count=3, **QUICK)
    torch.testing.assert_close(found.between, torch.ones(3, dtype=torch.float64))
    assert (found.first_nearest.similarity < 0.999).all()


def test_both_begin_with_the_same_noise_and_another_seed_with_another(sets):
    given = []

    def watching(y):
        given.append(y.clone())
        return sets[0][:1].expand_as(y)

    starts = []
    for seed in (0, 1):
        compare(watching, lambda y: watching(y) + 0, *sets, count=2, seed=seed, **QUICK)
        half = len(given) // 2
        assert torch.equal(given[0], given[half])
        starts.append(given[0])
        given.clear()
    assert not torch.equal(*starts)


def test_similarities_are_those_of_what_it_holds(sets, tmp_path):
    found = compare(lambda y: 0.3 * y + 0.2, lambda y: 0.2 * y + 0.3, *sets, count=4, **QUICK)
    a, b = found.first.images, found.second.images
    for centred in (False, True):
        told = found.similarities(centred)
        assert torch.equal(told["between"], cosine_similarity(a, b, centred=centred))
        assert torch.equal(told["first"], nearest(a, sets[0], centred=centred).similarity)
        assert torch.equal(told["second"], nearest(b, sets[1], centred=centred).similarity)
    assert not torch.equal(found.between, found.between_centred)
    read = Comparison.load(found.save(tmp_path / "compare.safetensors"))
    assert torch.equal(read.second_nearest.index, found.second_nearest.index) and repr(read) == repr(found)


def test_training_sets_of_two_shapes_are_refused(sets):
    with pytest.raises(ValueError, match="bring them to one shape"):
        compare(lambda y: y, lambda y: y, sets[0], sets[1][..., :4])


def test_ctrl_c_leaves_no_half_of_a_comparison(sets):
    with pytest.raises(KeyboardInterrupt):
        compare(interrupted(lambda y: 0.5 * y, 3), lambda y: y, *sets, count=2, **QUICK)
