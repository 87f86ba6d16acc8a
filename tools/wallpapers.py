"""Photographs that `photos` learned from beside those of Python packages, from a Debian package.

    apt-get install lomiri-wallpapers-16.04
    python tools/wallpapers.py [--of FOLDER] [--out FOLDER]

Its nine that are under CC BY 4.0 or CC0, averaged to some 600 pixels a side, each as its left and its right
half: 18 PNG files, for `denoisers train photos --data photos+runs/wallpapers`.
"""

import argparse
from pathlib import Path

from PIL import Image

SIDE = 600  # pixels, about: at full size they are soft
PICTURES = (
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "friends_by_Aitzol_Berasategi",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
)


def halves(file: Path) -> list[Image.Image]:
    """The left and the right half of a picture, averaged down."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    picture = picture.reduce(max(1, round(min(picture.size) / SIDE)))
    width, height = picture.size
    return [picture.crop((0, 0, width // 2, height)), picture.crop((width // 2, 0, width, height))]


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--of", type=Path, default=Path("/usr/share/backgrounds"), help="the package's pictures"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/wallpapers"))
    options = parser.parse_args()
    missing = [name for name in PICTURES if not (options.of / f"{name}.jpg").is_file()]
    if missing:
        raise SystemExit(
            f"no {missing[0]}.jpg in {options.of}: install lomiri-wallpapers-16.04, or name --of"
        )
    for name in PICTURES:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
            for half, side in zip(halves(options.of / f"{name}.jpg"), ("left", "right"), strict=True):
                half.save(options.out / f"{name}-{side}.png")
        except OSError as failure:  # of a damaged picture too
            raise SystemExit(
                f"of {name}.jpg no halves could be written to {options.out}: {failure}"
            ) from None


if __name__ == "__main__":
    main()
