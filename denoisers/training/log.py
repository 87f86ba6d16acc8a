"""What a run tells while it goes: a table as CSV, TensorBoard's events, and a figure of its PSNR."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from spectral.errors import OptionError
from spectral.plots.style import INK, MARKERS, STYLE, Drawing
from spectral.storage import replacing

Row = dict[str, float]


class Log:
    """Rows of numbers, one a validation, in DIR/log.csv; a resumed run goes on from its last step.

    Args:
        folder: of the run.
        step: at which it starts: rows beyond it, of steps that are done again, are dropped.
        tensorboard: whether events are written too, to DIR/tensorboard.

    Raises:
        OptionError: TensorBoard is asked for and missing.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self._file = folder / "log.csv"
        self._figure = folder / "psnr.png"
        self.rows = [row for row in _rows(self._file) if row["step"] <= step]
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional install
            except ImportError as error:
                raise OptionError(
                    "tensorboard is missing: pip install 'jacobian-spectra[training]'"
                ) from error
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: Row) -> str | None:
        """Append a row, and draw the figure anew; why not, where they cannot be written."""
        self.rows.append(row)
        try:
            with replacing(self._file) as partial, partial.open("w", newline="") as file:
                table = csv.DictWriter(file, self.rows[-1].keys(), extrasaction="ignore")
                table.writeheader()
                table.writerows(self.rows)
            if any(name.startswith("psnr") for name in row):
                with replacing(self._figure) as partial:
                    curve(self.rows).savefig(partial, dpi=150)
        except OSError as failure:
            return str(failure)
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, int(row["step"]))
            self._events.flush()
        return None


def curve(rows: Sequence[Row]) -> Figure:
    """Validation PSNR over steps, a line a noise level, with the loss above it."""
    figure = Drawing(figsize=(4.5, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    steps = [row["step"] for row in rows]
    above.plot(steps, [row["loss"] for row in rows], ".-", ms=3, color=INK, lw=1)  # of one row too
    above.set_yscale("log")
    above.set_ylabel("training loss", **STYLE)
    levels = [name for name in rows[-1] if name.startswith("psnr")]
    for i, name in enumerate(levels):
        colour = mpl.colormaps["viridis"](0.85 * i / max(1, len(levels) - 1))
        values = [row.get(name, float("nan")) for row in rows]
        label = rf"$\sigma$ = {float(name.removeprefix('psnr_')):.3g}"
        below.plot(steps, values, MARKERS[i % len(MARKERS)], ls="-", ms=3, lw=1, color=colour, label=label)
    below.set_xlabel("step", **STYLE)
    below.set_ylabel("validation PSNR (dB)", **STYLE)
    below.legend(frameon=False, fontsize=7)
    for axes in (above, below):
        axes.tick_params(which="both", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _rows(file: Path) -> list[Row]:
    """The rows of a table, as far as it is whole."""
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        table = list(csv.DictReader(lines))
    try:
        return [{name: float(value) for name, value in row.items()} for row in table]
    except (TypeError, ValueError):  # cut short
        return []
