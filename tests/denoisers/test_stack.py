"""Pictures of an .npz file are those of a folder that holds the same ones."""

import numpy as np
import pytest
from PIL import Image

from denoisers.images import Folder, Patches, Stack, disjoint, pictures_at
from denoisers.training import TrainConfig
from denoisers.training.data import clean_batches
from spectral.errors import FileContentError, OptionError, ShapeError


@pytest.fixture(params=["grey", "colour"])
def both(tmp_path, request):
    """The same eight pictures of 10 x 15 as a folder and as a file."""
    shape = (8, 10, 15) + (3,) * (request.param == "colour")
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    folder, file = tmp_path / "pictures", tmp_path / "pictures.npz"
    folder.mkdir()
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{i}.png")
    np.savez(file, images=pixels)
    return folder, file


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [5, 10, 12])
def test_a_file_of_pictures_is_a_folder_of_them(both, colour, size):
    folder, stack = Folder(both[0], size, colour=colour), Stack(both[1], size, colour=colour)
    assert stack.count == folder.count == 8 and stack.shape == folder.shape
    np.testing.assert_array_equal(stack(8), folder(8))
    np.testing.assert_array_equal(stack(2, seed=5, first=3), stack(8)[3:5])
    assert stack(2).dtype == np.float32 and stack.names[2] == "pictures.npz[2]"
    for one, other in zip(disjoint(stack, 4, 1), disjoint(folder, 4, 1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_squares_in_the_middle_are_averaged(tmp_path):
    rows = np.repeat(np.arange(0, 60, 10, dtype=np.uint8)[:, None], 8, 1)
    np.savez(tmp_path / "p.npz", images=rows[None])
    np.testing.assert_allclose(255 * Stack(tmp_path / "p.npz", 3)(1)[0, 0, :, 0], [5, 25, 45], atol=1e-4)


def test_what_a_path_names_is_taken(both):
    folder, file = both
    assert isinstance(pictures_at(folder, 4), Folder) and isinstance(pictures_at(str(file), 4), Stack)
    for size, kind in ((4, {}), (4, {"colour": True})):
        of_file, of_folder = (Patches.at(path, size, **kind) for path in (file, folder))
        np.testing.assert_array_equal(of_file(5, seed=3), of_folder(5, seed=3))
    with pytest.raises(ShapeError, match=r"pictures\.npz\[0\] is 10x15, and patches have 11"):
        Patches.at(file, 11)
    with pytest.raises(OptionError, match="one file already"):
        pictures_at(file, 4, cache=folder / "kept")


@pytest.mark.parametrize("images", [0, 4])
def test_training_is_shown_the_same(both, images):
    batches = [clean_batches(TrainConfig(data=str(path), images=images, size=6, batch=4))(3) for path in both]
    np.testing.assert_array_equal(*batches)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"pictures": np.zeros((2, 4, 4), np.uint8)}, "holds pictures, not uint8 pictures"),
        ({}, "holds nothing"),
        ({"images": np.zeros((2, 4, 4))}, r"holds float64 \(2, 4, 4\), not uint8"),
        ({"images": np.zeros((4, 4), np.uint8)}, r"holds uint8 \(4, 4\)"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, r"\(2, 4, 4, 4\)"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, r"\(0, 4, 4\)"),
        ({"images": np.array([{}, None])}, "not an .npz file that NumPy can read"),
    ],
)
def test_files_of_something_else(tmp_path, held, message):
    np.savez(tmp_path / "p.npz", **held)
    with pytest.raises(FileContentError, match=message):
        Stack(tmp_path / "p.npz", 4)


def test_files_that_are_none(tmp_path):
    for content in (b"", b"no archive", b"PK\x03\x04" + b"\0" * 40):
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(FileContentError, match=r"p\.npz is not an \.npz file"):
            Stack(tmp_path / "p.npz", 4)
    np.savez(tmp_path / "whole.npz", images=np.random.default_rng(0).integers(0, 255, (9, 9, 9), np.uint8))
    broken = bytearray((tmp_path / "whole.npz").read_bytes())
    broken[400] ^= 255  # its checksum tells
    (tmp_path / "p.npz").write_bytes(broken)
    with pytest.raises(FileContentError, match="Bad CRC"):
        Stack(tmp_path / "p.npz", 4)
    np.save(tmp_path / "q.npy", np.zeros((2, 4, 4), np.uint8))
    (tmp_path / "q.npy").rename(tmp_path / "q.npz")
    with pytest.raises(FileContentError, match="no zip archive"):
        Stack(tmp_path / "q.npz", 4)
    with pytest.raises(FileNotFoundError, match="no file of pictures"):
        Stack(tmp_path / "absent.npz", 4)


def test_no_more_pictures_than_there_are(both):
    with pytest.raises(OptionError, match="holds 8 pictures, and 9"):
        Stack(both[1], 4)(9)
    with pytest.raises(OptionError, match="need 10"):
        disjoint(Stack(both[1], 4), 5)
    with pytest.raises(OptionError, match="size must be >= 2"):
        Stack(both[1], 1)
