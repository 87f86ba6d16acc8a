"""Where a survey keeps things: a file a result, each written whole or not at all.

OUT/survey.json                         what was asked of all of them
OUT/sigma-0.1/cat.png.safetensors       a result: `EigenPairs` or `SingularTriplets`
OUT/failed/dog.png.json                 what went wrong with an image, and where
OUT/table.csv                           all of it as a table
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from spectral import storage
from spectral.errors import FileContentError, OptionError

RESULT = ".safetensors"
LEVEL = "sigma-"
LONGEST = 200  # bytes of a name: systems take 255, with what a file being written has besides


class Folder:
    """The files of a survey.

    Args:
        root: the folder; made by `make` alone.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.request, self.table = self.root / "survey.json", self.root / "table.csv"
        self.lock, self.failed = self.root / ".claims", self.root / "failed"

    def make(self, sigmas: list[float]) -> int:
        """Make the folder and try to write there; the time that its disk has, in nanoseconds.

        Raises:
            OSError: it cannot be written to.
        """
        for place in (self.root, self.failed, *(self.level(sigma) for sigma in sigmas)):
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root) as file:
            file.write(b"x")
            file.flush()
            return os.fstat(file.fileno()).st_mtime_ns

    def level(self, sigma: float) -> Path:
        """Where the results of a noise level are."""
        return self.root / f"{LEVEL}{sigma!r}"

    def result(self, name: str, sigma: float) -> Path:
        """The file of an image's result at a noise level."""
        return self.level(sigma) / (file_name(name) + RESULT)

    def failure(self, name: str) -> Path:
        """The file that says what went wrong with an image."""
        return self.failed / (file_name(name) + ".json")

    def results(self) -> list[Path]:
        """The files of all results that are there, by noise level and name."""
        levels = sorted(
            (p for p in self.root.glob(f"{LEVEL}*") if p.is_dir() and level_of(p.name) is not None),
            key=lambda path: level_of(path.name) or 0.0,
        )
        return [
            level / name
            for level in levels
            for name in sorted(os.listdir(level))  # noqa: PTH208  an entry for each of many thousands
            if name.endswith(RESULT) and not name.startswith(".")
        ]

    def failures(self) -> list[Path]:
        """The files of all failures."""
        return sorted(path for path in self.failed.glob("*.json") if path.is_file())

    def present(self, sigma: float) -> set[str]:
        """The names of files at a noise level."""
        return set(os.listdir(self.level(sigma)))  # noqa: PTH208

    def leftovers(self, sigma: float) -> list[tuple[str, Path]]:
        """Files begun and not finished at a noise level, each with the name of its result's file."""
        found = [n for n in self.present(sigma) if n.startswith(".") and n.endswith(storage.PARTIAL)]
        return [(name[1:].rsplit(".", 2)[0], self.level(sigma) / name) for name in found]

    def write(self, path: Path, words: Any, *, first: bool = False) -> None:
        """Write JSON whole or not at all; `first`: only where no other process has written there before."""
        with storage.replacing(path, first=first) as partial:
            partial.write_text(json.dumps(words, indent=1) + "\n")

    def errors(self, path: Path) -> tuple[str, dict[str, str]]:
        """The image that the file of a failure is of, and what went wrong with it, by noise level.

        Raises:
            FileContentError: it says neither.
        """
        words = self.read(path)
        image, told = words.get("image"), words.get("errors")
        if not (isinstance(image, str) and isinstance(told, dict)):
            raise FileContentError(f"{path} names no failure")
        return image, told

    def read(self, path: Path) -> dict[str, Any]:
        """JSON that `write` wrote.

        Raises:
            FileContentError: it is not there, or none.
        """
        try:
            words = json.loads(path.read_text())
        except FileNotFoundError:
            raise FileContentError(f"no survey in {path.parent}: there is no {path.name}") from None
        except ValueError as failure:
            raise FileContentError(f"{path} is damaged: {failure}") from None
        if not isinstance(words, dict):
            raise FileContentError(f"{path} holds no survey")
        return words


def level_of(name: str) -> float | None:
    """The noise level that a folder of results is called by; None of any other."""
    try:
        return float(name.removeprefix(LEVEL))
    except ValueError:
        return None


def name_of(path: Path) -> str:
    """The image's name, of whose result or failure this is the file; see `file_name`."""
    return unquote(path.stem)


def discard(path: Path) -> None:
    """Remove what a killed process left half written."""
    shutil.rmtree(path, ignore_errors=True)


def file_name(name: str) -> str:
    """A name as a file's: what systems do not take as %XX.

    Raises:
        OptionError: it is too long, or no text, as names of files from elsewhere may be.
    """
    found = re.sub(r'[%/\\:*?"<>|\x00-\x1f]|^\.', lambda m: f"%{ord(m[0]):02X}", name)
    try:
        length = len(found.encode())
    except UnicodeEncodeError:
        raise OptionError(f"the name {name!r} is no text: rename it") from None
    if length > LONGEST:
        raise OptionError(f"the name {name[:40]!r}... is too long for a file: at most {LONGEST} bytes")
    return found
