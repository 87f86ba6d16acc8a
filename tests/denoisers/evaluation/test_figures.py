"""Figures show the numbers that they are given."""

import numpy as np
import pytest
import torch

from denoisers.evaluation import PSNRCurve, PSNRGap, SureCheck, compare, figures
from spectral.risk import RiskCurve


def curve(count=4, slope=0.5):
    sigmas = torch.tensor([0.03, 0.3, 0.1], dtype=torch.float64)
    noisy = (-20 * sigmas.log10())[:, None].repeat(1, count)
    shift = torch.arange(count, dtype=torch.float64)
    return PSNRCurve(sigmas, noisy, slope * noisy + shift + 10)


def test_curve_its_band_its_line_and_its_slope():
    found = curve()
    (axis,) = found.plot((15, 40), "title").axes
    points, line, identity = axis.lines
    order = [1, 2, 0]
    np.testing.assert_allclose(points.get_xdata(), found.noisy.mean(1)[order])
    np.testing.assert_allclose(points.get_ydata(), found.denoised.mean(1)[order])
    np.testing.assert_allclose(line.get_xdata(), found.noisy.mean(1)[[2, 0]])
    np.testing.assert_allclose(np.diff(line.get_ydata()) / np.diff(line.get_xdata()), 0.5)
    np.testing.assert_allclose(identity.get_xdata(), identity.get_ydata())
    (band,) = axis.collections
    low, high = found.mean().interval(0.95)
    ends = band.get_paths()[0].get_extents()
    assert (ends.y0, ends.y1) == pytest.approx((float(low.min()), float(high.max())))
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["denoised", "its line, slope 0.500", "not denoised"]


def test_one_image_has_no_band_and_a_gap_has_two_curves():
    (axis,) = curve(1).plot().axes
    assert not axis.collections and axis.get_legend().get_title().get_text() == ""
    (axis,) = PSNRGap(curve(4, 0.8), curve(3)).plot().axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "training",
        "held out",
        "not denoised",
    ]
    with pytest.raises(ValueError, match="at least one curve"):
        figures.curves({})


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_stand_between_their_nearest(channels, monkeypatch):
    monkeypatch.setattr(figures, "MOST", 3)
    g = torch.Generator().manual_seed(0)
    sets = torch.rand(2, 5, channels, 8, 8, generator=g)
    found = compare(
        sets[0][:1].expand_as,
        sets[1][1:2].expand_as,
        *sets,
        count=4,
        h0=0.5,
        beta=1.0,
        sigma_end=0.1,
    )
    figure = found.plot(title="A and B")
    axes = np.array(figure.axes).reshape(4, figures.MOST)
    rows = (found.first_nearest.images, found.first.images, found.second.images, found.second_nearest.images)
    for row, images in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=False):
            shown = image.permute(1, 2, 0) if channels == 3 else image[0]
            np.testing.assert_allclose(axis.images[0].get_array(), shown, atol=1e-6)
    centred = found.plot(centred=True)
    for shown, values in ((figure, found.between), (centred, found.between_centred)):
        texts = " ".join(axis.get_title() for axis in shown.axes)
        assert texts.count(f"{values[0]:.3f}") >= figures.MOST


def test_sure_its_bars_and_its_errors_in_units_of_what_it_states():
    sigmas = torch.tensor([0.1, 0.3], dtype=torch.float64)
    true = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], dtype=torch.float64)
    stated = torch.full_like(true, 0.5)
    guess = true + torch.tensor([0.25, -0.5, 2.0], dtype=torch.float64)
    found = SureCheck(RiskCurve(sigmas, true, guess, stated, true, 8))
    left, right = found.plot("title").axes
    for container, values, mean in zip(left.containers, (true, guess), (found.true, found.sure), strict=True):
        np.testing.assert_allclose(container.lines[0].get_ydata(), values.mean(1))
        (bars,) = container.lines[2]
        ends = np.array([segment[:, 1] for segment in bars.get_segments()]).T
        np.testing.assert_allclose(ends, np.stack(mean.interval(0.95)))
    heights = np.array([points.get_ydata() for points in right.lines[1:]])
    np.testing.assert_allclose(heights, [[0.5] * 2, [-1] * 2, [4] * 2])
    assert "67 % in the band" in right.get_title(loc="left")
    alone = SureCheck(RiskCurve(sigmas, true[:, :1], guess[:, :1], stated[:, :1], true[:, :1], 8))
    assert "1 image," in alone.plot().axes[0].get_title(loc="left")
