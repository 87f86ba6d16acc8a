"""Pictures and tables of results, of one image and of a batch."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import spectral
from spectral.errors import OptionError
from spectral.plots.spectra import MOST

y = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(image):
    return 0.5 * image + 0.1 * image.square()


def every(batched):
    """One of each result that can be plotted, of y or of its first image."""
    image = y if batched else y[:1]
    options = {"batched": batched}
    return {
        "EigenPairs": spectral.top_eigs(model, image, 3, **options),
        "SingularTriplets": spectral.top_svd(model, image, 3, **options),
        "Density": spectral.spectral_density(model, image, probes=2, steps=3, **options),
        "PosteriorComponents": spectral.posterior(model, image, 0.1, 2, products=10, **options),
    }


@pytest.fixture(scope="module")
def batch():
    return every(batched=True)


@pytest.fixture(scope="module")
def single():
    return every(batched=False)


@pytest.mark.parametrize("name", ["EigenPairs", "SingularTriplets", "Density", "PosteriorComponents"])
def test_a_batch_is_drawn_image_by_image(batch, single, name):
    one, many = single[name].plot(), batch[name].plot()
    assert isinstance(one, Figure) and isinstance(many, Figure)
    assert [part.get_suptitle() for part in many.subfigs] == [f"image {i} of 3" for i in (1, 2, 3)]
    assert many.get_figwidth() == one.get_figwidth()
    assert many.get_figheight() == pytest.approx(3 * one.get_figheight())
    # The first image's panel shows what its own figure does: as many lines and the same pictures.
    assert len(many.axes) == 3 * len(one.axes)
    for mine, alone in zip(many.axes, one.axes, strict=False):
        pairs = zip(mine.get_images(), alone.get_images(), strict=True)
        assert all(abs(a.get_array() - b.get_array()).max() < 1e-6 for a, b in pairs)
        assert len(mine.lines) == len(alone.lines)


def test_images_go_with_their_spectra(batch):
    axes = batch["EigenPairs"].plot(y, 2 * y).axes
    clean = [axis.get_images()[0].get_array() for axis in axes if axis.get_title() == "clean"]
    torch.testing.assert_close(torch.tensor(np.stack(clean)), y[:, 0].float())


def test_a_large_batch_is_drawn_in_part(batch):
    pairs = batch["EigenPairs"]
    repeated = {
        f.name: value.repeat_interleave(5, 0)
        for f in dataclasses.fields(pairs)
        if isinstance(value := getattr(pairs, f.name), torch.Tensor)
    }
    bound = dataclasses.replace(pairs.completeness, bound=pairs.completeness.bound.repeat_interleave(5, 0))
    parts = dataclasses.replace(pairs, **repeated, completeness=bound, asymmetry=None).plot().subfigs
    assert len(parts) == MOST and parts[-1].get_suptitle() == f"image {MOST} of 15"


def test_what_is_no_image_is_refused():
    M = torch.diag(torch.arange(1.0, 7.0))
    for result in (
        spectral.top_eigs(M, k=2),
        spectral.top_eigs(M.expand(2, 6, 6).contiguous(), k=2),
        spectral.top_svd(M, k=2),
        spectral.posterior(lambda v: v @ M.double() / 7, torch.rand(6).double(), 0.1, 1, products=10),
    ):
        with pytest.raises(OptionError, match="a figure takes"):
            result.plot()


def test_a_risk_curve_is_drawn():
    curve = spectral.risk_curve(lambda v: v / 2, y, [0.1, 0.2])
    assert len(curve.plot().get_axes()[0].lines) == 3


def test_tables(batch, single):
    pairs = single["EigenPairs"]._repr_html_()
    for text in ("<caption>EigenPairs(3 largest", ">values<", ">completeness<", f"{pairs_value(single)}"):
        assert text in pairs
    for result in (*batch.values(), *single.values(), spectral.sure(model, y[0], 0.1)):
        shown = result._repr_html_()
        assert shown.startswith("<table>") and type(result).__name__ in shown
        names = {f.name for f in dataclasses.fields(result)}
        if not isinstance(result, (spectral.EigenPairs, spectral.SingularTriplets)):
            assert all(f">{name}<" in shown for name in names)
    note = dataclasses.replace(single["EigenPairs"], notes=["a < b & c"])._repr_html_()
    assert "a &lt; b &amp; c" in note


def pairs_value(single):
    return f"{single['EigenPairs'].values[0]:.4f}"
