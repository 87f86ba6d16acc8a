"""The progress bar: it fits a terminal of 80 columns, with its bar and its times."""

import io

import pytest
from rich.console import Console

from spectral import progress
from spectral.solvers import Progress


@pytest.mark.parametrize("stage", ["solve", "completeness"])
def test_a_bar_fits_80_columns(monkeypatch, stage):
    drawn = io.StringIO()
    terminal = Console(file=drawn, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr("rich.console.Console", lambda stderr: terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.bar(True, "singular triplets") as report:
        for converged in (3, 100):
            report(Progress(stage, 10_000, 100, converged, 1e-3 / converged, 1e-5))
    lines = drawn.getvalue()
    assert "…" not in lines and "0:00:0" in lines and "left" in lines and "10000 products" in lines
    assert ("looking for more" in lines) == (stage == "completeness")
    assert "at 0e+00" not in lines and "━" in lines


def test_nothing_is_drawn_where_it_cannot_be_drawn_over(monkeypatch):
    monkeypatch.setattr("rich.console.Console", lambda stderr: Console(file=io.StringIO()))
    with progress.bar(True, "eigenpairs") as report, progress.working(True, "trace"):
        assert report is None


def test_a_count_fits_80_columns(monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr("rich.console.Console", lambda stderr: terminal)
    with progress.counting(True, "spectra") as report:
        for done in (11_000, 24_000):
            report(done, 36_000, "waiting for others, 123 failed")
    lines = drawn.getvalue()
    assert "24000/36000" in lines and "123 failed" in lines and "…" not in lines and "━" in lines
    with progress.counting(False, "spectra") as report:
        assert report is None
