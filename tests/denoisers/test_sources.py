"""Sources of images: one protocol, and what each says of its images."""

import numpy as np
import pytest
import torch
from PIL import Image

from denoisers.images import (
    Disks,
    Folder,
    Mixture,
    Patches,
    Ray,
    Shuffled,
    Source,
    Waves,
    disjoint,
    read_colour,
)
from denoisers.images.calpha import CAlpha
from spectral.errors import FileContentError, OptionError, ShapeError

ONE = np.random.default_rng(0).random((3, 6, 6), dtype=np.float32)
SOURCES = {
    "disks": Disks(12),
    "waves": Waves(12, (1, 2)),
    "ray": Ray(ONE),
    "shuffled": Shuffled(Disks(12), 3),
    "patches": Patches([np.random.default_rng(1).random((1, 60, 70), dtype=np.float32)], 12),
    "calpha": CAlpha(12, alpha=2, beta=1),
    "mixture": Mixture([CAlpha(12, alpha=1), Disks(12), CAlpha(12, alpha=3)]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_one_protocol(name):
    source = SOURCES[name]
    assert isinstance(source, Source)
    images = source(5, seed=3)
    assert images.shape == (5, *source.shape) and images.dtype == np.float32
    assert images.min() >= -1e-6 and images.max() <= 1 + 1e-6
    np.testing.assert_array_equal(source(2, seed=3, first=2), images[2:4])
    assert not np.array_equal(source(5, seed=4), images)
    assert len(np.unique(images.reshape(5, -1), axis=0)) == 5
    assert source(0).shape == (0, *source.shape)
    with pytest.raises(OptionError, match="must be >= 0"):
        source(-1)


@pytest.mark.parametrize("first", range(4))
def test_a_mixture_takes_its_sources_in_turn(first):
    parts = [CAlpha(12, alpha=1), Disks(12)]
    images = Mixture(parts)(5, seed=3, first=first)
    for i, image in enumerate(images, first):
        np.testing.assert_array_equal(image, parts[i % 2](1, seed=3, first=i // 2)[0])
    with pytest.raises(ShapeError, match="different shapes"):
        Mixture([Disks(12), Disks(14)])
    with pytest.raises(OptionError, match="no sources"):
        Mixture([])


def test_disks_have_the_tangents_of_their_formula():
    """Central differences of `render`, in float64, and five independent directions."""
    source = Disks(20, softness=0.8)
    p = source.parameters(4, seed=1)
    tangents = source.tangents(p)
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-5
        difference = (source.render(p + step) - source.render(p - step)) / 2e-5
        np.testing.assert_allclose(tangents[:, i], difference, atol=1e-7)
    assert all(np.linalg.matrix_rank(t.reshape(5, -1), tol=1e-4) == 5 for t in tangents)
    np.testing.assert_array_equal(source(4, seed=1), source.render(p).astype(np.float32))


def test_a_disk_is_foreground_inside_and_ground_outside():
    source = Disks(40, softness=0.1)
    image = source.render(np.array([[20.0, 10.0, 5.0, 0.9, 0.2]]))[0, 0]
    assert image[20, 10] == pytest.approx(0.9) and image[20, 30] == pytest.approx(0.2)
    assert image[25, 10] == pytest.approx(0.55)  # on the edge
    assert (image > 0.5).sum() == pytest.approx(np.pi * 25, rel=0.1)


def test_parameters_of_disks_fill_their_ranges():
    p = Disks(80).parameters(4000)
    np.testing.assert_allclose(p.min(0), [0, 0, 3, 0, 0], atol=0.1)
    np.testing.assert_allclose(p.max(0), [79, 79, 38, 1, 1], atol=0.1)
    assert np.abs(np.corrcoef(p.T) - np.eye(5)).max() < 0.08


def test_waves_lie_in_a_plane_and_turn():
    source = Waves(16, (2, 3), offset=0.0)
    basis = source.basis().reshape(2, -1)
    np.testing.assert_allclose(basis @ basis.T, 128 * np.eye(2), atol=1e-9)
    images = source(500).reshape(500, -1)
    inside = images @ basis.T / 128
    np.testing.assert_allclose(inside @ basis, images, atol=1e-6)
    a, phi = np.hypot(*inside.T), np.arctan2(inside[:, 1], inside[:, 0])
    assert a.max() <= 0.5 and a.mean() == pytest.approx(0.25, abs=0.03)
    assert abs(np.exp(1j * phi).mean()) < 0.15
    spectrum = np.abs(np.fft.fft2(images[0].reshape(16, 16)))
    assert set(map(tuple, np.argwhere(spectrum > 1e-3 * spectrum.max()))) == {(2, 3), (14, 13)}


def test_a_ray_is_one_image_times_s():
    images = Ray(ONE)(200).reshape(200, -1)
    s = images @ ONE.ravel() / (ONE**2).sum()
    np.testing.assert_allclose(images, s[:, None] * ONE.ravel(), atol=1e-6)
    assert 0 < s.min() < 0.05 and 0.95 < s.max() <= 1 + 1e-6


def test_shuffled_pixels_are_the_same_ones_and_come_back():
    source = Shuffled(Disks(12), 3)
    images, plain = source(3, seed=1), Disks(12)(3, seed=1)
    assert not np.array_equal(images, plain)
    np.testing.assert_array_equal(np.sort(images.reshape(3, -1)), np.sort(plain.reshape(3, -1)))
    np.testing.assert_array_equal(source.restore(images), plain)
    np.testing.assert_array_equal(
        source.order, Shuffled(Ray(ONE[:, :, :].repeat(2, 1).repeat(2, 2)), 3).order
    )


@pytest.fixture
def folder(tmp_path):
    """Nine colour pictures of 10 x 14, the red of each telling its number, green rows and blue columns."""
    rows, columns = np.meshgrid(np.arange(10), np.arange(14), indexing="ij")
    for i in range(9):
        pixels = np.stack([np.full_like(rows, 20 * i), 10 * rows, 10 * columns], -1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def test_folders_in_colour_are_cut_where_the_seed_says(folder):
    source = Folder(folder, 4, colour=True, fit="crop")
    images = np.rint(255 * source(9, seed=2)).astype(int)
    for i, (red, green, blue) in enumerate(images):
        assert (red == 20 * i).all()
        np.testing.assert_array_equal(green - green[0, 0], 10 * np.arange(4)[:, None] + np.zeros((4, 4)))
        np.testing.assert_array_equal(blue - blue[0, 0], 10 * np.arange(4) + np.zeros((4, 4)))
    assert len({(g[0, 0], b[0, 0]) for _, g, b in images}) > 3
    np.testing.assert_array_equal(np.rint(255 * source(2, seed=2, first=4)), images[4:6])
    centre = np.rint(255 * Folder(folder, 4, colour=True, fit="centre")(1))[0]
    assert centre[1, 0, 0] == 30 and centre[2, 0, 0] == 50


def test_folders_are_averaged_down_to_size(folder):
    source = Folder(folder, 5, colour=True)
    image = 255 * source(1)[0]
    np.testing.assert_allclose(image[1], (20 * np.arange(5) + 5)[:, None] + np.zeros((5, 5)), atol=1e-3)
    np.testing.assert_allclose(image[2], 20 * np.arange(5) + 25 + np.zeros((5, 5)), atol=1e-3)
    assert Folder(folder, 5)(2).shape == (2, 1, 5, 5) and Folder(folder, 30)(1).shape == (1, 1, 30, 30)


def test_a_cache_holds_the_pictures_until_they_change(folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept" / "pictures.safetensors"
    plain, cached = Folder(folder, 5, colour=True), Folder(folder, 5, colour=True, cache=kept)
    np.testing.assert_array_equal(cached(3, first=2), plain(3, first=2))
    again, other = (Folder(folder, size, colour=True, cache=kept) for size in (5, 6))
    whole = plain(plain.count)
    with monkeypatch.context() as patch:
        patch.setattr("denoisers.images.pictures.read_colour", None)  # no picture is read any more
        np.testing.assert_array_equal(again(plain.count), whole)
    assert other(1).shape == (1, 3, 6, 6)
    first = plain.files[0]
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    changed = Folder(folder, 6, colour=True, cache=kept)(1)
    np.testing.assert_allclose(changed, 1 - other(1), atol=1e-6)
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(FileContentError, match="damaged"):
        Folder(folder, 6, colour=True, cache=kept)(1)


def test_colour_is_turned_upright_and_grey_repeated(tmp_path):
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = np.rint(255 * read_colour(tmp_path / "turned.png")[0]).transpose(1, 2, 0)
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    grey = read_colour(tmp_path / "grey.png")
    assert grey.shape == (1, 3, 4, 6) and (grey == grey[:, :1]).all()
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    assert read_colour(tmp_path / "deep.png").shape == (1, 3, 4, 6)
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "glass.png")
    (tmp_path / "text.png").write_text("none")
    page = Image.fromarray(pixels)
    page.save(tmp_path / "pages.png", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    for name, error in [
        ("pages", FileContentError),
        ("glass", FileContentError),
        ("text", FileContentError),
        ("absent", FileNotFoundError),
    ]:
        with pytest.raises(error, match=name):
            read_colour(tmp_path / f"{name}.png")


@pytest.mark.parametrize("endless", [True, False])
def test_disjoint_sets_have_nothing_in_common_and_grow(folder, endless):
    source = Disks(8) if endless else Folder(folder, 4, colour=True)
    small, large = disjoint(source, 2, seed=1), disjoint(source, 4, seed=1)
    assert large.first.shape == large.second.shape == (4, *source.shape)
    np.testing.assert_array_equal(large.first[:2], small.first)
    np.testing.assert_array_equal(large.second[:2], small.second)
    both = np.concatenate(large).reshape(8, -1)
    assert len(np.unique(both, axis=0)) == 8
    assert not np.array_equal(disjoint(source, 4, seed=2).first, large.first)


def test_sets_of_shuffled_pictures_are_the_sets_shuffled(folder):
    moved = Shuffled(Folder(folder, 4))
    assert moved.count == 9
    for plain, other in zip(disjoint(Folder(folder, 4), 4, 1), disjoint(moved, 4, 1), strict=True):
        np.testing.assert_array_equal(moved.restore(other), plain)
    with pytest.raises(OptionError, match="need 10, the source has 9: ask for fewer"):
        disjoint(moved, 5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: Disks(1), OptionError, "size must be >= 2"),
        (lambda f: Disks(8, softness=0), OptionError, "softness"),
        (lambda f: Waves(8, (0, 0)), OptionError, "frequency"),
        (lambda f: Waves(8, (0, 4)), OptionError, "frequency"),
        (lambda f: Waves(8, amplitude=0), OptionError, "amplitude"),
        (lambda f: Ray(ONE[0]), ShapeError, "one image"),
        (lambda f: Folder(f / "none", 4), FileNotFoundError, "no pictures"),
        (lambda f: Folder(f, 4, fit="crop", cache=f / "kept"), OptionError, "crops are others for each seed"),
        (lambda f: Folder(f, 4, fit="other"), OptionError, "fit is one of"),
        (lambda f: Folder(f, 4)(10), OptionError, "holds 9 pictures"),
        (lambda f: Folder(f, 11, fit="crop")(1), ShapeError, "below 11"),
        (lambda f: disjoint(Folder(f, 4), 5), OptionError, "need 10"),
        (lambda f: disjoint(Disks(8), 0), OptionError, "at least one"),
    ],
)
def test_bad_requests(folder, make, error, message):
    with pytest.raises(error, match=message):
        make(folder)


def test_exponents_of_contour_and_background_apart():
    """alpha = 4 keeps contours smooth whatever beta: those of beta = 1 and 3 are the same, images are not."""
    rough, smooth = (CAlpha(32, alpha=4, beta=beta)(6, seed=1) for beta in (1, 3))
    assert not np.array_equal(rough, smooth)
    bend = [np.abs(np.diff(x, 2, axis=-1)).mean() for x in (rough, smooth)]
    assert bend[0] > 1.3 * bend[1]
    assert torch.from_numpy(rough).shape == (6, 1, 32, 32)
