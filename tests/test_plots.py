"""Pictures and tables of results, of one image and of a batch."""

import base64
import dataclasses
import io
import itertools
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import spectral
from spectral.errors import OptionError
from spectral.plots import inline
from spectral.plots.spectra import MOST
from spectral.plots.style import COLOURS

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


def pictures(text):
    """The images in a page, as arrays."""
    encoded = re.findall(r"data:image/png;base64,([^\"]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in encoded]


def test_a_notebook_shows_values_and_vectors(batch, single):
    pairs = single["EigenPairs"]
    shown = pairs._repr_html_()
    first, *_, last = re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', shown)
    assert float(first) < float(last)  # values fall, and SVG counts from above
    drawn = pictures(shown)
    assert len(drawn) == 3 and drawn[0].shape == (6, 6, 3)
    e = pairs.vectors[0].numpy().squeeze()
    red, _, blue = drawn[0][np.unravel_index(e.argmax(), e.shape)]
    assert red > blue
    (turned,) = pictures(inline.images([("-e", -pairs.vectors[0], True)]))
    red, _, blue = turned[np.unravel_index(e.argmax(), e.shape)]
    assert red < blue
    assert "of image 1 of 3" in batch["EigenPairs"]._repr_html_()
    assert len(pictures(single["PosteriorComponents"]._repr_html_())) == 4
    assert len(pictures(spectral.diagonal(model, y[:1], products=10)._repr_html_())) == 2
    curve = spectral.risk_curve(model, y, [0.1, 0.2])._repr_html_()
    assert curve.count("<polyline") == 3 and curve.count("<circle") == 6
    full = spectral.top_eigs_full(torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), k=3)
    assert full._repr_html_().count("<polyline") == 2  # real and imaginary parts


def test_what_a_notebook_shows_is_small_and_escaped():
    wide = torch.rand(3, 500, 1000)
    (drawn,) = pictures(inline.images([("<b>", wide, False)]))
    assert drawn.shape == (48, 96, 3) and drawn.min() == 0 and drawn.max() == 255
    assert "&lt;b&gt;" in inline.images([("<b>", wide, True)])
    shown = inline.lines([1.0, 2.0, 3.0], [("a & b", [1.0, float("nan"), 0.01])], "<i>", log=True)
    assert "a &amp; b" in shown and "&lt;i&gt;: 0.01 to 1" in shown and shown.count("<circle") == 2
    assert inline.lines([1.0], [("", [2.0])], "one value") == ""
    images = [(1, 1, 8, 8), (8, 8), (3, 8, 8), (1, 3, 8, 8)]
    others = [(8,), (3, 1, 8, 8), (2, 8, 8), (2, 3, 8, 8), (1, 1, 1, 8)]
    assert [inline.is_image(shape) for shape in images + others] == [True] * 4 + [False] * 5
    assert pictures(spectral.trace(model, y[0], products=10)._repr_html_()) == []
    assert "% interval" in spectral.trace(model, y[0], products=10)._repr_html_()


@pytest.mark.parametrize("name", ["EigenPairs", "SingularTriplets", "Density", "PosteriorComponents"])
def test_a_paper_can_take_a_figure_as_it_is(single, tmp_path, name):
    """Vectors with TrueType letters, as wide as a page."""
    figure = single[name].plot()
    figure.savefig(tmp_path / "figure.pdf")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/Type0" in pdf and b"/Subtype /Type3" not in pdf
    assert figure.get_figwidth() == 7


# Machado, Oliveira and Fernandes (2009), severity 1: what is left of linear RGB.
SEEN = {
    "trichromat": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(linear):
    """CIELAB of linear RGB, D65."""
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    t = to_xyz @ np.clip(linear, 0, 1) / to_xyz.sum(1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", SEEN)
def test_no_two_lines_look_alike_to_anybody(eye):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    colours = [lab(np.asarray(SEEN[eye]) @ c) for c in linear]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) >= 30
