"""What a survey found: a row a result, from the headers of its files, and what did not succeed."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from spectral import storage
from spectral.errors import FileContentError, OptionError
from spectral.estimators.results import Estimate
from spectral.results import EigenPairs, SingularTriplets
from spectral.survey.folder import Folder, level_of, name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Spectrum = EigenPairs | SingularTriplets

KINDS: dict[str, type[Spectrum]] = {"symmetric": EigenPairs, "svd": SingularTriplets}
SYMBOLS = {"symmetric": "lambda", "svd": "sv"}


@dataclass(frozen=True)
class Row:
    """A result in numbers.

    Attributes:
        image, sigma: what it is of.
        values: in the order of `which`.
        residual: the worst, relative to the largest |value|.
        converged: whether all residuals are within the tolerance.
        complete: whether nothing that was sought is missing; `bound`: what bounds the values not returned.
        asymmetry: |J - J'| / |J|, and its standard error; NaN of singular values.
        effective_rank: (tr S)^2 / |S|_F^2, and its standard error; NaN where it was not estimated.
        products: with J and J'; of images solved together the mean.
        seconds: of images solved together an equal share.
        file: in the survey's folder.
    """

    image: str
    sigma: float
    values: list[float]
    residual: float
    converged: bool
    complete: bool
    bound: float
    asymmetry: float
    asymmetry_stderr: float
    effective_rank: float
    effective_rank_stderr: float
    products: int
    seconds: float
    file: str

    @classmethod
    def of(
        cls, image: str, sigma: float, found: Spectrum, rank: Estimate | None, seconds: float, file: str
    ) -> Self:
        """From a result of one image."""
        skew = found.asymmetry if isinstance(found, EigenPairs) else None
        scale = found.values.abs().max().item() if found.k else 1.0
        return cls(
            image,
            sigma,
            found.values.tolist(),
            found.residuals.max().item() / max(scale, 1e-300) if found.k else math.inf,
            found.k > 0 and bool(found.converged.all()),
            bool(found.complete),
            found.completeness.bound.item(),
            math.nan if skew is None else float(skew.value),
            math.nan if skew is None else float(skew.stderr),
            math.nan if rank is None else float(rank.value),
            math.nan if rank is None else float(rank.stderr),
            found.products + (0 if rank is None else math.ceil(rank.products / 2)),
            seconds,
            file,
        )


@dataclass(frozen=True)
class Failure:
    """An image without a result at a noise level, or at all, where sigma is None, and why."""

    image: str
    sigma: float | None
    error: str


@dataclass(frozen=True)
class Level:
    """The images at one noise level: lower quartile, median and upper quartile of each value over them.

    Attributes:
        sigma, images: the level, and how many there are.
        values: (3, k).
        effective_rank: (3,), NaN where it was not estimated.
        residual: the worst.
        converged, complete: how many are.
        products, seconds: means an image.
    """

    sigma: float
    images: int
    values: Tensor
    effective_rank: Tensor
    residual: float
    converged: int
    complete: int
    products: float
    seconds: float


class Survey:
    """The results in a folder; numbers are read, from the files' headers, when they are first asked for.

    Attributes:
        folder: where they are.
        request: what was asked of all of them: k, tol, part, ...; the model by a digest.
        notes: an interruption, where there was one.

    Images come in the order that `survey` was given them, and in that of their names where they are loaded.
    """

    def __init__(self, folder: str | Path, notes: Sequence[str] = (), names: Sequence[str] = ()) -> None:
        self._places = {name: i for i, name in enumerate(names)}
        self._folder = Folder(folder)
        self.folder, self.notes = self._folder.root, list(notes)
        self.request = self._folder.read(self._folder.request)
        if self.request.get("part") not in [*KINDS] or not isinstance(self.request.get("k"), int):
            raise FileContentError(f"{self._folder.request} is no survey's request")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What is in a folder now, be the survey finished or not.

        Raises:
            FileContentError: there is no survey.
        """
        return cls(folder)

    @property
    def rows(self) -> list[Row]:
        """A row a result, by image and noise level."""
        return self._results[0]

    @cached_property
    def failures(self) -> list[Failure]:
        """What did not succeed, and files that are damaged, or no results of a survey."""
        found = []
        for path in self._folder.failures():
            try:
                image, told = self._folder.errors(path)
                found += [
                    Failure(image, float(level) if level else None, error) for level, error in told.items()
                ]
            except (FileContentError, ValueError) as damage:
                found.append(Failure(name_of(path), None, str(damage)))
        return found + self._results[1]

    @cached_property
    def _results(self) -> tuple[list[Row], list[Failure]]:
        """Rows, and the files that hold none."""
        kind = KINDS[self.request["part"]].__name__
        rows, failures = [], []
        for path in self._folder.results():
            try:
                rows.append(Row(**storage.about_of(path, kind)["row"]))
            except (FileContentError, KeyError, TypeError) as damage:
                told = damage if isinstance(damage, FileContentError) else f"{path} is no result of a survey"
                failures.append(Failure(name_of(path), level_of(path.parent.name), str(told)))
        last = len(self._places)
        rows.sort(key=lambda row: (self._places.get(row.image, last), row.image, row.sigma))
        return rows, failures

    @property
    def images(self) -> list[str]:
        """The names of images with results."""
        return list(dict.fromkeys(row.image for row in self.rows))

    @property
    def sigmas(self) -> list[float]:
        """The noise levels with results, from the smallest up."""
        return sorted({row.sigma for row in self.rows})

    @property
    def converged(self) -> bool:
        """Whether every pair is within its tolerance, and no image failed."""
        return not self.failures and all(row.converged for row in self.rows)

    @property
    def values(self) -> Tensor:
        """(images, noise levels, k) float64, NaN where there is no result."""
        return self._grid([row.values for row in self.rows], int(self.request["k"]))

    @property
    def effective_ranks(self) -> Tensor:
        """(images, noise levels) float64, NaN where it was not estimated."""
        return self._grid([[row.effective_rank] for row in self.rows], 1)[..., 0]

    def spectrum(self, image: str, sigma: float) -> Spectrum:
        """The result itself, with its vectors.

        Raises:
            FileContentError: there is none, or its file is damaged.
        """
        return KINDS[self.request["part"]].load(self._folder.result(image, float(sigma)))

    def levels(self) -> list[Level]:
        """The images summed up, a level each, from the smallest up."""
        found = []
        for sigma in self.sigmas:
            rows = [row for row in self.rows if row.sigma == sigma]
            values = self._grid([row.values for row in rows], int(self.request["k"]), rows)[:, 0]
            ranks = torch.tensor([row.effective_rank for row in rows], dtype=torch.float64)
            found.append(
                Level(
                    sigma,
                    len(rows),
                    quartiles(values),
                    quartiles(ranks),
                    max(row.residual for row in rows),
                    sum(row.converged for row in rows),
                    sum(row.complete for row in rows),
                    float(np.mean([row.products for row in rows])),
                    float(np.mean([row.seconds for row in rows])),
                )
            )
        return found

    def write_table(self, path: str | Path | None = None) -> Path:
        """Write the rows, and failures after them, as CSV, by default to table.csv in the folder; the path.

        The columns of `Row`, its values apart as lambda_1, ... (sv_1, ... of singular values), and `error`.
        """
        path = self._folder.table if path is None else Path(path)
        # Not the k of the request, which no image may have had room for.
        symbol, k = SYMBOLS[self.request["part"]], max((len(row.values) for row in self.rows), default=0)
        names = [f"{symbol}_{i + 1}" for i in range(k)]
        plain = [name for name in Row.__dataclass_fields__ if name != "values"]
        lines: list[dict[str, Any]] = []
        for row in self.rows:
            cells = {name: _cell(value) for name, value in asdict(row).items() if name != "values"}
            lines.append(cells | dict(zip(names, map(repr, row.values), strict=False)))
        for failure in self.failures:
            lines.append(
                {
                    "image": failure.image,
                    "sigma": _cell(failure.sigma),
                    "error": " ".join(failure.error.split()),
                }
            )
        with storage.replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*plain[:2], *names, *plain[2:], "error"])
            writer.writeheader()
            writer.writerows(lines)
        return path

    def plot(self, title: str = "") -> Figure:
        """Values over images at every noise level as a figure; see `spectral.plots.survey.summary`."""
        from spectral.plots.survey import summary  # noqa: PLC0415  matplotlib takes a second to import

        return summary(self, title)

    def _grid(self, values: list[list[float]], k: int, rows: list[Row] | None = None) -> Tensor:
        """(images, noise levels, k) from values by row."""
        rows = self.rows if rows is None else rows
        images = {name: i for i, name in enumerate(dict.fromkeys(row.image for row in rows))}
        sigmas = {sigma: i for i, sigma in enumerate(sorted({row.sigma for row in rows}))}
        grid = torch.full((len(images), len(sigmas), k), math.nan, dtype=torch.float64)
        for row, own in zip(rows, values, strict=True):
            grid[images[row.image], sigmas[row.sigma], : len(own)] = torch.tensor(own, dtype=torch.float64)
        return grid

    def __repr__(self) -> str:
        what = "eigenvalues" if self.request["part"] == "symmetric" else "singular values"
        size = f"{len(self.images)} images at {len(self.sigmas)} noise levels"
        lines = [f"Survey({self.request['k']} {what} of {size}, {self.folder})"]
        for level in self.levels():
            first = ", ".join(f"{v:.4f}" for v in level.values[:, 0].tolist())
            done = f"{level.complete} of {level.images} complete, {level.images - level.converged} above tol"
            lines.append(f"  sigma {level.sigma:<7g} first value {first} (quartiles); {done}")
        lines += [f"  failed       {f.image}{_at(f.sigma)}: {f.error}" for f in self.failures[:5]]
        more = len(self.failures) - 5
        lines += [f"  failed       {more} more"] if more > 0 else []
        return "\n".join([*lines, *(f"  note         {note}" for note in self.notes)])


def quartiles(x: Tensor) -> Tensor:
    """Lower quartile, median and upper quartile over the first axis, (3, ...), without NaN."""
    return torch.nanquantile(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype), 0)


def check_about(folder: Folder, name: str, sigma: float, part: str, picture: str) -> None:
    """See that the result in a survey's folder is of this image.

    Raises:
        OptionError: the image of that name was another then.
        FileContentError: it is damaged, or no result of a survey.
    """
    path = folder.result(name, sigma)
    storage.check(path)
    about = storage.about_of(path, KINDS[part].__name__)
    if about.get("picture") != picture:
        raise OptionError(
            f"{path} is of another image of this name, or of other pixels: remove it to have this one "
            "solved, or give another folder"
        )


def _cell(value: Any) -> Any:
    """A number as CSV holds it: nothing for NaN and None, all digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


def _at(sigma: float | None) -> str:
    return "" if sigma is None else f" at sigma {sigma:g}"
