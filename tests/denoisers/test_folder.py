"""Photographs: files of every kind, patches that are where they claim to be, the training set."""

import contextlib
import warnings

import numpy as np
import pytest
from PIL import Image

from denoisers.images.folder import (
    CHELSEA,
    photograph,
    pictures_in,
    read_grey,
    size_of,
    training_photographs,
)
from denoisers.images.pictures import read_colour
from spectral.errors import FileContentError


def test_the_shipped_photograph_is_scikit_images_camera():
    data = pytest.importorskip("skimage.data", reason="scikit-image carries the original")
    image = photograph()
    assert image.shape == (1, 1, 512, 512)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(image[0, 0] * 255), data.camera())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_files_come_back_exactly(tmp_path, dtype):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top + 1, (5, 7), dtype=dtype)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    image = read_grey(tmp_path / "grey.png")
    assert image.shape == (1, 1, 5, 7)
    np.testing.assert_allclose(image[0, 0], pixels / top, atol=1e-7)


def test_colour_is_refused_unless_conversion_is_asked_for(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    with pytest.raises(FileContentError, match="is a colour picture"):
        read_grey(tmp_path / "colour.png")
    luminance = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(
        read_grey(tmp_path / "colour.png", convert=True)[0, 0], luminance, atol=0.51 / 255
    )


def test_grey_stored_as_colour_is_grey(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(np.rint(read_grey(tmp_path / "rgb.png")[0, 0] * 255), pixels)


def test_floats_are_grey_where_they_lie_in_0_to_1(tmp_path):
    pixels = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    Image.fromarray(pixels).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(read_grey(tmp_path / "float.tif")[0, 0], pixels)


@pytest.mark.parametrize(
    "value", [np.float32(1.5), np.float32(-0.1), np.float32("nan"), np.int32(1 << 24), np.int32(-1)]
)
def test_numbers_that_are_no_grey_are_refused(tmp_path, value):
    Image.fromarray(np.full((4, 4), value)).save(tmp_path / "wide.tif")
    with pytest.raises(FileContentError, match=r"wide.tif (has pixels outside \[0, |holds NaN)"):
        read_grey(tmp_path / "wide.tif")


def test_pictures_are_turned_upright(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = read_grey(tmp_path / "turned.png")[0, 0]
    np.testing.assert_array_equal(np.rint(image * 255), np.rot90(pixels, -1))


def test_transparency_and_further_frames_are_refused(tmp_path):
    pixels = np.full((4, 6, 2), 255, np.uint8)
    Image.fromarray(pixels, "LA").save(tmp_path / "opaque.png")
    assert read_grey(tmp_path / "opaque.png").min() == 1
    pixels[1, 2, 1] = 254
    Image.fromarray(pixels, "LA").save(tmp_path / "glass.png")
    with pytest.raises(FileContentError, match=r"glass.png is transparent"):
        read_grey(tmp_path / "glass.png")
    page = Image.fromarray(pixels[..., 0])
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(FileContentError, match=r"pages.tif holds 2 frames"):
        read_grey(tmp_path / "pages.tif")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(FileContentError, match=r"broken.png is not a picture"):
        read_grey(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match=r"absent.png"):
        read_grey(tmp_path / "absent.png")
    with pytest.raises(FileNotFoundError, match="no picture at"):
        read_grey(tmp_path)


def test_folders_are_read_in_the_order_of_names(tmp_path):
    for name, value in [("b.png", 2), ("a.PNG", 1)]:
        Image.fromarray(np.full((3, 3), value, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    read = [read_grey(file)[0, 0] for file in pictures_in(tmp_path)]
    assert [round(255 * float(image[0, 0])) for image in read] == [1, 2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures"):
        pictures_in(tmp_path / "empty")


def test_the_photograph_in_colour_is_another():
    image = photograph(colour=True)
    assert image.shape == (1, 3, 256, 256) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    np.testing.assert_array_equal(image, read_colour(CHELSEA))


@pytest.mark.parametrize(("colour", "count"), [(False, 50), (True, 44)])
def test_training_photographs_hold_no_test_image(colour, count):
    for package in ("interior_photos", "skimage", "sklearn"):
        pytest.importorskip(package, reason="the extra [photographs] is not installed")
    images = training_photographs(colour)
    assert len(images) == count
    assert all(image.shape[0] == (3 if colour else 1) and min(image.shape[1:]) >= 96 for image in images)
    assert all(image.min() >= 0 and image.max() <= 1 and image.std() > 0.02 for image in images)
    if colour:
        assert not any(image.shape == (3, 300, 451) for image in images)  # chelsea, whose middle is held out
    camera = photograph()[0]
    squares = [image for image in images if image.shape == camera.shape]
    assert not any(np.corrcoef(image.ravel(), camera.ravel())[0, 1] > 0.9 for image in squares)


def test_too_many_pixels_are_told_as_any_other_fault(tmp_path, monkeypatch):
    """Pillow has an error of its own for them, which is no OSError."""
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "vast.png")
    assert size_of(tmp_path / "vast.png") == (9, 9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(FileContentError, match=r"vast.png has more pixels than Pillow opens"):
        read_grey(tmp_path / "vast.png")
    assert size_of(tmp_path / "vast.png") == (0, 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp", ".pgm"])
def test_a_damaged_picture_is_a_picture_or_one_error(tmp_path, suffix):
    """Whatever Pillow's readers stumble over in it, with EXIF data and without."""
    rng = np.random.default_rng(0)
    path, exif = tmp_path / f"damaged{suffix}", Image.Exif()
    exif[0x0112] = 6
    told = {} if suffix in (".bmp", ".pgm") else {"exif": exif}
    Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)).save(path, **told)
    whole = path.read_bytes()
    for i in range(60):
        data = bytearray(whole[: len(whole) - i % 7])
        data[rng.integers(len(data) if i % 2 else min(len(data), 120))] = rng.integers(256)
        path.write_bytes(data)
        with warnings.catch_warnings(), contextlib.suppress(FileContentError):
            warnings.simplefilter("ignore")
            size_of(path)
            assert read_grey(path, convert=True).ndim == 4


def test_hidden_files_are_no_pictures(tmp_path):
    for name in ("a.png", "._a.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    assert [path.name for path in pictures_in(tmp_path)] == ["a.png"]
