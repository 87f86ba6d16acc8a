"""Homogeneity: rounding of a network without constants, and the known error of one with them."""

import math

import pytest
import torch

from denoisers.evaluation import homogeneity
from denoisers.networks import UNet


def test_a_network_without_constants_is_off_by_rounding_alone():
    torch.manual_seed(0)
    model = UNet(blocks=1, width=4)
    model(torch.rand(4, 1, 8, 8))
    found = homogeneity(model, torch.rand(3, 1, 8, 8))
    assert model.training  # and was measured in evaluation mode, where norms do not depend on y
    assert found.errors.shape == (6, 3) and 0 < found.worst < 1e-5
    assert found.worst == found.each.max() == found.errors.max()
    assert "3 images" in repr(found)


def test_a_constant_is_told_by_its_size():
    y = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    found = homogeneity(lambda y: y + 0.1, y, [0.25, 3.0])
    size = (y + 0.1).flatten(1).norm(dim=1)
    for errors, s in zip(found.errors, (0.25, 3.0), strict=True):
        torch.testing.assert_close(errors, 0.1 * 6 * abs(1 - s) / (s * size))
    torch.testing.assert_close(found.each, found.errors.max(1).values)


def test_zero_is_homogeneous_and_what_is_zero_once_is_not():
    y = torch.rand(1, 1, 4, 4)
    assert homogeneity(lambda y: 0 * y, y).worst == 0
    assert homogeneity(lambda y: (y - 2).relu(), y, [10.0]).worst == math.inf


def test_bad_scales_told_models_and_nan_are_refused():
    y = torch.rand(1, 1, 4, 4)
    for scales in ([], [0.0], [-1.0], [math.inf]):
        with pytest.raises(ValueError, match="positive numbers"):
            homogeneity(lambda y: y, y, scales)
    with pytest.raises(ValueError, match="told sigma"):
        homogeneity(lambda y, sigma: y, y)
    with pytest.raises(ArithmeticError, match="NaN or infinity"):
        homogeneity(lambda y: y.log(), y - 2)
    with pytest.raises(ValueError, match="at least one image"):
        homogeneity(lambda y: y, y[:0])
