"""Means over images and their errors, as numbers and as words."""

import math

import pytest
import scipy.stats
import torch

from denoisers.evaluation.spread import over_images, parts, told


def test_mean_error_and_freedom_of_each_row():
    each = torch.rand(3, 5, dtype=torch.float64)
    found = over_images(each)
    assert found.dof == 4 and found.samples == 5
    torch.testing.assert_close(found.value, each.mean(1))
    torch.testing.assert_close(found.stderr, torch.as_tensor(scipy.stats.sem(each.numpy(), axis=1)))
    for whole, part in zip(found.interval()[1].tolist(), parts(found), strict=True):
        assert part.interval()[1] == pytest.approx(whole)


def test_of_one_image_there_is_a_mean_and_no_error(recwarn):
    found = over_images(torch.tensor([2.0]))
    assert found.value == 2 and math.isnan(found.stderr)
    assert told(found, 2) == "2.00" and not recwarn


def test_two_images_tell_no_error():
    """A PSNR of 30 dB +- 91 says nothing, and looks like a fault."""
    two = over_images(torch.tensor([23.0, 37.0]))
    assert two.halfwidth() > 88 and told(two, 2) == "30.00"
    assert "+-" in told(over_images(torch.tensor([23.0, 37.0, 30.0])))


def test_words_have_the_errors_second_digit():
    assert told(over_images(torch.tensor([1.0, 1.1, 1.2]))) == "1.10 +- 0.25"
