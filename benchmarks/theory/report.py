"""Cells that know what they should be, and the tables they make: on the screen, in Markdown, in JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Expected:
    """A figure to reproduce, with the half-width of its 95 % interval."""

    value: float
    interval: float = 0.0


@dataclass(frozen=True)
class Cell:
    """The mean of a quantity over images, the half-width of its 95 % interval, and what it should be.

    ok: |value - expected| <= max(slack, interval + expected interval), value >= `least` and value <= `most`,
    as far as they are given; None where nothing is demanded.
    """

    row: str
    column: str
    value: float
    interval: float
    expected: Expected | None = None
    slack: float = 0.0
    least: float | None = None
    most: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the demand is met."""
        if self.expected is self.least is self.most is None:
            return None
        near = self.expected is None or bool(
            abs(self.value - self.expected.value) <= max(self.slack, self.interval + self.expected.interval)
        )
        inside = (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )
        return near and bool(inside)

    def text(self) -> str:
        """`measured +- interval (expected +- interval) ok`."""
        text = f"{self.value:.3f} ± {self.interval:.3f}" if self.interval else f"{self.value:.3g}"
        if self.expected is not None:
            text += f" ({self.expected.value:.3g}"
            text += f" ± {self.expected.interval:.2g})" if self.expected.interval else ")"
        text += f" (at least {self.least:g})" if self.least else ""
        text += f" (at most {self.most:g})" if self.most is not None else ""
        return text + {True: " ok", False: " FAIL", None: ""}[self.ok]


def cell(
    row: str,
    column: str,
    samples: NDArray[np.floating],
    expected: Expected | None = None,
    slack: float = 0.0,
    least: float | None = None,
) -> Cell:
    """The cell of one quantity measured on each image: mean and 1.96 standard errors."""
    half = 1.96 * samples.std(ddof=1) / len(samples) ** 0.5 if len(samples) > 1 else 0.0
    return Cell(row, column, float(samples.mean()), float(half), expected, slack, least)


@dataclass(frozen=True)
class Section:
    """A titled table of cells, with a note that says how it was measured."""

    title: str
    note: str
    cells: list[Cell]

    def grid(self) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
        """Row names, column names, and the cells by both."""
        rows = list(dict.fromkeys(c.row for c in self.cells))
        columns = list(dict.fromkeys(c.column for c in self.cells))
        return rows, columns, {(c.row, c.column): c for c in self.cells}


def publish(name: str, command: str, sections: Iterable[Section], out: Path) -> bool:
    """Print the sections, write out/name.md and out/name.json, and return whether no cell fails."""
    console = Console()
    sections = list(sections)
    lines = [
        f"# {name}",
        "",
        f"Written by `{command}`.",
        "Measured ± 95 % interval over images (expected ± its interval), `ok` within the larger of the slack "
        "and the sum of the intervals.",
    ]
    for section in sections:
        rows, columns, cells = section.grid()
        table = Table("", *columns, title=section.title, caption=section.note)
        lines += ["", f"## {section.title}", "", section.note, "", "| | " + " | ".join(columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in rows:
            texts = [cells[row, c].text() if (row, c) in cells else "" for c in columns]
            table.add_row(row, *texts)
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
        console.print(table)
    verdicts = [c.ok for s in sections for c in s.cells if c.ok is not None]
    summary = f"{sum(verdicts)} of {len(verdicts)} checked cells ok." if verdicts else "No cell is checked."
    console.print(summary)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text("\n".join([*lines, "", summary, ""]))
    data = {
        "command": command,
        "sections": [
            {"title": s.title, "note": s.note, "cells": [asdict(c) | {"ok": c.ok} for c in s.cells]}
            for s in sections
        ],
    }
    (out / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    return all(verdicts)
