"""What a figure is: the networks it needs, and what it measures, beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale
from denoisers.evaluation.spread import over_images
from denoisers.networks import Denoiser
from spectral.estimators import Estimate
from spectral.estimators.results import with_error


@dataclass(frozen=True)
class Row:
    """A quantity, as the paper has it and as it is here.

    quantity: in words, with its unit.
    here, half: the number, and half of its 95 % interval; NaN where that is not known.
    paper: the paper's number, or that of the optimum; None where it has none.
    says: what the paper says, in words; the number itself where nothing is given.
    digits: of a number whose interval is not known.
    note: what is said after the number.
    """

    quantity: str
    here: float
    half: float = math.nan
    paper: float | None = None
    says: str = ""
    digits: int = 3
    note: str = ""

    @classmethod
    def of(cls, quantity: str, estimate: Estimate, paper: float | None = None, says: str = "") -> Row:
        """With the interval of an estimate."""
        return cls(quantity, float(estimate), float(estimate.halfwidth()), paper, says)

    @classmethod
    def mean(
        cls, quantity: str, each: Sequence[float] | Tensor, paper: float | None = None, says: str = ""
    ) -> Row:
        """The mean over images, with its interval over them."""
        return cls.of(quantity, over_images(torch.as_tensor(each, dtype=torch.float64)), paper, says)

    def cells(self) -> list[str]:
        """Quantity, the paper, here, the difference."""
        here = with_error(self.here, self.half) if self.half > 0 else f"{self.here:.{self.digits}f}"
        here += f" ({self.note})" if self.note else ""
        says = self.says or ("" if self.paper is None else f"{self.paper:g}")
        off = "" if self.paper is None else f"{self.here - self.paper:+.{self.digits}f}"
        return [cell.replace("|", "\\|") for cell in (self.quantity, says, here, off)]


Networks = Callable[[Need], Denoiser]
"""Need -> its trained network."""


@dataclass(frozen=True)
class Made:
    """What a figure measured.

    rows: beside the paper.
    beside: rows of what the paper leaves out.
    audits: by network what the paper leaves out of any, as `audit` has it.
    settings: what it was measured on, in a sentence.
    drawn: the picture.
    data: all numbers of it, for machines.
    note: where it differs from the paper, by how much, and what is known of why.
    pictures: what shows pictures that may be nobody's to pass on; never written into docs.
    """

    rows: list[Row]
    settings: str
    drawn: Figure
    beside: list[Row] = field(default_factory=list)
    audits: dict[str, list[Row]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    pictures: Figure | None = None


@dataclass(frozen=True)
class PaperFigure:
    """One of the figures.

    name: on the command line.
    number: in the paper, or in the report.
    title: what it shows.
    needs: the networks, at a scale.
    measure: the numbers and the picture, from trained networks.
    of: the pictures that it is made of, in the names of files; "" for images that the package makes.
    """

    name: str
    number: str
    title: str
    needs: Callable[[Scale], list[Need]]
    measure: Callable[[Scale, Networks], Made]
    of: str = ""

    @property
    def file(self) -> str:
        """Its files' name, without the ending."""
        return f"{self.name}-{self.of}" if self.of else self.name


def loader(runs: Path) -> Networks:
    """Networks of a folder of runs."""
    return lambda need: need.load(runs)
