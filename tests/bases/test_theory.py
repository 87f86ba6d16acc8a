"""The benchmarks' own reasoning: the Gaussian reference, the acceptance rule, structure functions, tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.theory import gaussian, mterm, regularity
from benchmarks.theory.oracle_slopes import Curves, sigma, to_psnr
from benchmarks.theory.report import Cell, Expected, Section, cell, publish
from spectral.kernels.calpha import ingredients, synthesize


def test_the_gaussian_reference_is_the_posterior_trace_of_regions_and_contour() -> None:
    """Against dense posterior covariances built pixel pair by pixel pair."""
    size, alpha, level = 12, 2.0, 0.05**2
    parts = ingredients(1, size=size, alpha=alpha, seed=3)
    image = synthesize(1, size=size, alpha=alpha, seed=3)[0]
    k = np.fft.fftfreq(size, 1 / size)
    power = np.maximum(np.hypot(k[:, None], k), 1) ** (-2 * alpha) / 3
    stationary = np.fft.ifft2(power).real
    heights = np.clip(np.rint(size * parts.contours[0]) + size // 2, 0, size).astype(int)
    above = np.arange(size)[:, None] < heights
    bright_above = parts.scalars[0, 2] < 0.5
    fields = {True: parts.fields[0].real, False: parts.fields[0].imag}
    spans = {True: 1 - parts.scalars[0, 0], False: parts.scalars[0, 1]}
    trace = 0.0
    for bright in (True, False):
        pixels = np.argwhere(above if bright == bright_above else ~above)
        field = fields[bright]
        scale = spans[bright] / (field.max() - field.min())
        C = scale**2 * np.array([[stationary[tuple((p - q) % size)] for q in pixels] for p in pixels])
        trace += np.trace(C - C @ np.linalg.solve(C + level * np.eye(len(C)), C))
    prior = np.fft.ifft(np.maximum(np.abs(k), 1) ** (-2 * alpha)).real / 3 * size**2
    C = np.array([[prior[(i - j) % size] for j in range(size)] for i in range(size)])
    low, high = 1 - spans[True], spans[False]
    scaled = {
        True: low + spans[True] * (fields[True] - fields[True].min()) / np.ptp(fields[True]),
        False: high * (fields[False] - fields[False].min()) / np.ptp(fields[False]),
    }
    contrast = (scaled[True] - scaled[False])[np.clip(heights, 0, size - 1), np.arange(size)]
    information = np.diag(contrast**2 / 2)
    trace += np.trace(information @ np.linalg.inv(np.linalg.inv(C) + information / level))
    eigenvalues = gaussian.spectra(1, size=size, alpha=alpha, seed=3)[0]
    assert len(eigenvalues) == image.size + size
    assert gaussian.risk(eigenvalues, np.array([level**0.5]))[0] == pytest.approx(trace, rel=1e-4)


def test_cells_accept_within_the_larger_of_slack_and_intervals() -> None:
    assert Cell("r", "c", 0.52, 0.0, Expected(0.50), slack=0.021).ok
    assert not Cell("r", "c", 0.52, 0.0, Expected(0.50), slack=0.019).ok
    assert Cell("r", "c", 0.52, 0.011, Expected(0.50, 0.01), slack=0.0).ok
    assert Cell("r", "c", 0.01, 9.0, least=0.0).ok
    assert Cell("r", "c", -0.01, 9.0, least=0.0).ok is False
    assert Cell("r", "c", 999.0, 0.0, most=1000).ok
    assert Cell("r", "c", 1001.0, 0.0, most=1000).ok is False
    assert "(at least 25) ok" in Cell("r", "c", 26.0, 0.0, least=25).text()
    assert Cell("r", "c", 1.0, 0.0).ok is None
    sampled = cell("r", "c", np.array([1.0, 2.0, 3.0]))
    assert sampled.value == 2
    assert sampled.interval == pytest.approx(1.96 / 3**0.5)


def test_slopes_and_gains_of_known_curves() -> None:
    inputs = np.array([0.0, 10.0, 20.0])
    assert to_psnr(sigma(inputs) ** 2 * 64, 64) == pytest.approx(inputs)
    curves = Curves(inputs, {"a": 3 + 0.7 * inputs[None], "b": 1 + 0.5 * inputs[None]})
    assert curves.slopes("a") == pytest.approx([0.7])
    assert curves.gains("a", "b", 10.0) == pytest.approx([4.0])


def test_structure_functions_of_a_power_law_line() -> None:
    """A second difference of sin(omega x) is 4 sin^2(omega h / 2) times it."""
    x = np.arange(64)
    s = regularity.structure_function(np.sin(2 * np.pi * x / 64), 2, np.array([1, 4]))
    expected = [(4 * np.sin(np.pi * h / 64) ** 2) ** 2 / 2 for h in (1, 4)]
    np.testing.assert_allclose(s, expected, rtol=1e-12)


def test_fields_have_the_regularity_of_their_spectrum() -> None:
    for exponent in (1.5, 3.0):
        contours = [
            regularity.hoelder(regularity.contour(2**13, exponent, 0, i), exponent - 0.5) for i in range(8)
        ]
        assert np.mean(contours) == pytest.approx(exponent - 0.5, abs=0.05)
    field = regularity.background(2**10, 2.0, 0, 0)
    assert regularity.hoelder(field, 1.0) == pytest.approx(1.0, abs=0.05)


def test_exponents_of_an_exact_power_law() -> None:
    m = np.geomspace(mterm.WINDOW[0] / 4, mterm.WINDOW[1] * 4, 20)[None]
    assert mterm.exponents(m, 5 * m**-1.3) == pytest.approx([1.3])
    assert np.isnan(mterm.exponents(m[:, :1], m[:, :1])[0])


def test_tables_are_written_and_failures_are_told(tmp_path: Path) -> None:
    good = Cell("row", "column", 1.0, 0.1, Expected(1.05))
    section = Section("Title", "note", [good])
    assert publish("name", "command", [section], tmp_path)
    assert "1.000 ± 0.100 (1.05) ok" in (tmp_path / "name.md").read_text()
    assert json.loads((tmp_path / "name.json").read_text())["sections"][0]["cells"][0]["ok"] is True
    bad = Cell("row", "other", 1.0, 0.0, Expected(2.0))
    assert not publish("name", "command", [Section("Title", "note", [good, bad])], tmp_path)
    assert "FAIL" in (tmp_path / "name.md").read_text()
