"""The progress bar: it fits a terminal of 80 columns, with its bar and its times; logs get lines."""

import io
import time

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


@pytest.fixture
def log(monkeypatch):
    """Standard error that is a file."""
    written = io.StringIO()
    plain = Console(file=written, width=40, force_terminal=False, _environ={})
    monkeypatch.setattr("rich.console.Console", lambda stderr: plain)
    return written


def test_a_short_solve_leaves_nothing_in_a_log(log):
    with progress.bar(True, "eigenpairs") as report, progress.working(True, "trace"):
        report(Progress("solve", 100, 20, 3, 1e-3, 1e-5))
    assert log.getvalue() == ""


def test_a_long_solve_leaves_lines_in_a_log(log, monkeypatch):
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    with progress.bar(True, "eigenpairs") as report:
        report(Progress("solve", 100, 20, 3, 1e-3, 1e-5))
        report(Progress("completeness", 120, 20, 20, 1e-5, 1e-5))
    assert log.getvalue().splitlines() == [
        "eigenpairs: 3/20 at 1e-03, 100 products, 0 s",
        "eigenpairs: looking for more, 120 products, 0 s",
    ]


def test_a_count_leaves_lines_in_a_log(log, monkeypatch):
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    with progress.counting(True, "spectra") as report:
        report(3, 12, "")
        report(7, 12, "2 failed")
    assert log.getvalue().splitlines() == ["spectra: 3/12, 0 s", "spectra: 7/12, 2 failed, 0 s"]


def test_what_calls_nothing_back_is_told_in_a_log_too(log, monkeypatch):
    monkeypatch.setattr(progress, "BETWEEN", 0.02)
    with progress.working(True, "trace"):
        time.sleep(0.2)
    assert 2 <= len(log.getvalue().splitlines()) <= 10 and set(log.getvalue().splitlines()) == {"trace: 0 s"}
    told = log.getvalue()
    time.sleep(0.1)
    assert log.getvalue() == told  # it ends with what it tells of


def test_a_dumb_terminal_gets_lines(monkeypatch):
    written = io.StringIO()
    dumb = Console(file=written, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr("rich.console.Console", lambda stderr: dumb)
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    with progress.bar(True, "eigenpairs") as report:
        report(Progress("solve", 100, 20, 3, 1e-3, 1e-5))
    assert "\x1b" not in written.getvalue() and "100 products" in written.getvalue()


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
