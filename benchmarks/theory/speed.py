"""Rates of C^alpha synthesis and of the bandlet search beside plain NumPy, in one run on one machine."""

import os
import resource
from collections.abc import Callable
from functools import partial
from time import perf_counter

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.theory.report import Cell, Section
from spectral.bases import BandletFrame, wavelet_bandlets
from spectral.bases.alpert import directions
from spectral.kernels.calpha import stream, synthesize

REPEATS = 100
RELEASED_MS = 2.7  # an image of the released Python code, measured on two such cores (specification)


def section() -> Section:
    """Milliseconds a job: the best of many short runs, so that other work on the machine weighs least."""
    cores, load = numba.get_num_threads(), os.getloadavg()[0]
    loop = _best(lambda: [_plain(80, 3.0, np.random.default_rng(i)) for i in range(10)]) / 10
    cells = [Cell("plain NumPy loop, one `released` 80x80 image", "ms", loop, 0.0)]
    for threads in sorted({1, cores}):
        numba.set_num_threads(threads)
        ms = _best(lambda: synthesize(400, size=80, alpha=3)) / 400
        row = f"kernel, {threads} thread{'s' * (threads > 1)}, an image"
        cells.append(Cell(row, "ms", ms, 0.0))
        cells.append(Cell(row, "times the NumPy loop", loop / ms, 0.0))
        cells.append(Cell(row, f"times the released code's {RELEASED_MS} ms", RELEASED_MS / ms, 0.0))
    before, start = _peak_mb(), perf_counter()
    for _ in stream(100_000, size=80, alpha=3):
        pass
    cells.append(Cell("100,000 images streamed", "ms", 1e3 * (perf_counter() - start), 0.0))
    cells.append(Cell("100,000 images streamed", "memory added, MB", _peak_mb() - before, 0.0))
    frame = wavelet_bandlets((512, 512), "db4", 5, 16)
    image = synthesize(1, size=512, alpha=3, kind="exact").astype(np.float64)
    thresholds = np.geomspace(0.02, 1, 18)
    for count in (1, 18):
        ms = _best(partial(_search, frame, image, thresholds[:count]))
        cells.append(
            Cell(f"bandlet search, 512x512, w <= 16, {count} threshold{'s' * (count > 1)}", "ms", ms, 0.0)
        )
    naive = _best(lambda: _naive_costs(frame.base.analysis(image)[0], 0.1))
    cells.append(Cell("vectorised NumPy definition of its costs, 1 threshold", "ms", naive, 0.0))
    note = (
        f"{cores} cores, shared with other work (load average {load:.1f} before the run), after warm-up; the "
        f"best of {REPEATS} runs but for the stream."
    )
    return Section("Speed", note, cells)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _search(frame: BandletFrame, image: NDArray[np.float64], thresholds: NDArray[np.float64]) -> None:
    frame.search(frame.base.analysis(image), thresholds)


def _best(job: Callable[[], object]) -> float:
    """Milliseconds of the fastest of REPEATS runs."""
    job()
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        job()
        times.append(perf_counter() - start)
    return 1e3 * min(times)


def _plain(size: int, alpha: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """One `released` image by full complex NumPy transforms, one field at a time."""
    k = np.fft.fftfreq(size, 1 / size)
    gain = np.maximum(np.hypot(k[:, None], k), 1) ** -alpha
    fields = [np.fft.ifft2(np.fft.fft2(rng.uniform(-1, 1, (size, size))) * gain).real for _ in range(2)]
    curve = np.fft.ifft(np.fft.fft(rng.uniform(-1, 1, size)) * np.maximum(np.abs(k), 1) ** -alpha).real
    rows = np.clip(np.rint(size * curve) + size // 2, 0, size)
    mask = np.pad((np.arange(size)[:, None] < rows).astype(float), ((1, 0), (1, 0)), mode="reflect")
    mask = (mask[1:, 1:] + mask[:-1, 1:] + mask[1:, :-1] + mask[:-1, :-1]) / 4
    first, second = ((f - f.min()) / (f.max() - f.min()) for f in fields)
    low, high = rng.uniform(size=2)
    return mask * (low + (1 - low) * first) + (1 - mask) * high * second


def _naive_costs(coefficients: NDArray[np.floating], threshold: float) -> float:
    """Oracle costs of every warped Haar transform of every square, by NumPy sorts and means."""
    total, level = 0.0, threshold**2
    size = len(coefficients)
    for octave in range(1, 6):
        half = size >> octave
        for i, j in ((0, 1), (1, 0), (1, 1)):
            band = coefficients[i * half : (i + 1) * half, j * half : (j + 1) * half]
            for width in (4, 8, 16):
                squares = (
                    band.reshape(half // width, width, half // width, width)
                    .swapaxes(1, 2)
                    .reshape(-1, width**2)
                )
                y, x = np.divmod(np.arange(width**2), width)
                for theta in directions(width):
                    a = squares[:, np.argsort(y * np.cos(theta) - x * np.sin(theta))]
                    while a.shape[1] > 1:
                        wavelets = (a[:, ::2] - a[:, 1::2]) / np.sqrt(2)
                        total += (wavelets**2 * level / (wavelets**2 + level)).sum()
                        a = (a[:, ::2] + a[:, 1::2]) / np.sqrt(2)
                    total += (a**2 * level / (a**2 + level)).sum()
    return total
