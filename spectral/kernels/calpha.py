"""C^alpha images in bulk: two fields in one float32 transform, a chunk of images a thread."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from spectral.errors import OptionError
from spectral.kernels.arrays import device_module
from spectral.kernels.compiled import njit
from spectral.kernels.device.calpha import synthesize as synthesize_on_device
from spectral.kernels.philox import uniforms
from spectral.kernels.smoothness import SHIFT, SUBCOLUMNS, Kind, gain_1d, gain_2d

_CHUNK_PIXELS = 2**17  # a chunk's complex fields take 1 MB: they stay in one core's cache


def synthesize(
    n: int,
    *,
    size: int,
    alpha: float,
    beta: float | None = None,
    kind: Kind = "released",
    seed: int = 0,
    first: int = 0,
    device: str = "cpu",
) -> Any:
    """Images first, ..., first + n - 1 of the C^alpha sequence `seed`, float32 (n, size, size) in [0, 1].

    Noise is uniform on [-1, 1]; F_s multiplies its discrete Fourier transform by |k|^-s, k in integer
    frequencies, gain 1 at k = 0; h(j) is the contour's height in rows at column j, counted from the top.

    `released` (arXiv 2310.02557, released code): h = clip(round(size F_alpha(w)) + size // 2, 0, size); two
    backgrounds F_beta(W), one scaled to [U, 1], one to [0, U'], either of them above; the mask 1{row < h}
    softened by a 2x2 box, the mask reflected at its first row and column. The Hoelder regularity is alpha -
    1/2 for the contour, beta - 1 for the backgrounds.

    `exact`: contour F_{alpha + 1/2} on an 8 times finer grid, mean removed, standard deviation 0.10, shrunk
    so that its maximum is at most 0.42, around 1/2 + U(-0.05, 0.05), times size; backgrounds F_{beta + 1},
    one scaled to [0, 0.4] and one to [0.6, 1], either of them above; the mask is each pixel's exact coverage
    by column, averaged over its 8 sub-columns. The Hoelder regularities are alpha and beta (default: alpha).

    Image i depends on (seed, i) and the other arguments alone: its draws are those of Philox4x64-10 under the
    key (seed, i), in the order contour, backgrounds, scalars. Contours are computed in float64, backgrounds
    in float32. On the "cpu" as many threads as torch.get_num_threads() share the images, in a NumPy array; on
    "cuda" the same images to float32 rounding are made on the GPU, in a CuPy array that `torch.as_tensor`
    takes without a copy. (CuPy has made images, and docs/theory tells its rates; that they are the CPU's has
    been seen of the form that NumPy runs alone.)

    Raises OptionError for n < 0, first < 0, size < 2, a negative exponent, an unknown kind, a seed outside
    [0, 2^64), or a device that is not there.
    """
    beta = alpha if beta is None else beta
    if n < 0 or first < 0:
        raise OptionError(f"n and first must be >= 0, got {n} and {first}")
    if size < 2:
        raise OptionError(f"size must be >= 2, got {size}")
    for name, exponent in (("alpha", alpha), ("beta", beta)):
        if not exponent >= 0:
            raise OptionError(f"{name} must be >= 0, got {exponent:g}")
    if kind not in SUBCOLUMNS:
        raise OptionError(f"kind must be 'released' or 'exact', got {kind!r}")
    if not 0 <= seed < 2**64:
        raise OptionError(f"seed must lie in [0, 2^64), got {seed}")
    xp = device_module(device)
    if xp is not np:
        return synthesize_on_device(
            xp, n, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, first=first
        )
    out = np.empty((n, size, size), np.float32)
    step = max(1, _CHUNK_PIXELS // size**2)

    def fill(start: int) -> None:
        part = out[start : start + step]
        made = ingredients(
            len(part), size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, first=first + start
        )
        (_released if kind == "released" else _exact)(made, part)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(0, n, step)))
    return out


def stream(
    n: int,
    *,
    size: int,
    alpha: float,
    beta: float | None = None,
    kind: Kind = "released",
    seed: int = 0,
    batch: int = 1024,
    device: str = "cpu",
) -> Iterator[Any]:
    """The n images of `synthesize`, `batch` of them at a time: memory for one batch, whatever n."""
    for first in range(0, n, batch):
        count = min(batch, n - first)
        yield synthesize(
            count, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, first=first, device=device
        )


class Ingredients(NamedTuple):
    """What m images are made of: contours (m, L), two filtered fields (m, size, size), scalar draws (m, 3).

    A contour is F(w), in units of the height and unrounded, L = size for `released` and 8 size for `exact`.
    The bright background is the real part of the complex64 fields before scaling, the dark one the imaginary
    part.
    """

    contours: NDArray[np.float64]
    fields: NDArray[np.complex64]
    scalars: NDArray[np.float64]


def ingredients(
    n: int,
    *,
    size: int,
    alpha: float,
    beta: float | None = None,
    kind: Kind = "released",
    seed: int = 0,
    first: int = 0,
) -> Ingredients:
    """The contours, fields and scalars of images first, ..., first + n - 1, as `synthesize` composes them."""
    beta = alpha if beta is None else beta
    contours = np.empty((n, size * SUBCOLUMNS[kind]))
    fields = np.empty((n, size, size), np.complex64)
    scalars = np.empty((n, 3))
    _noise(np.uint64(seed), np.uint64(first), contours, fields, scalars)
    contour_shift, background_shift = SHIFT[kind]
    contours = scipy.fft.rfft(contours) * gain_1d(contours.shape[1], alpha + contour_shift)
    # The gain is real and even, so it filters the real and the imaginary part each by itself.
    fields = scipy.fft.fft2(fields, overwrite_x=True)
    fields *= gain_2d(size, beta + background_shift)
    fields = scipy.fft.ifft2(fields, overwrite_x=True)
    return Ingredients(scipy.fft.irfft(contours, size * SUBCOLUMNS[kind]), fields, scalars)


def _released(parts: Ingredients, out: NDArray[np.float32]) -> None:
    m, size = out.shape[:2]
    heights = np.clip(np.rint(size * parts.contours) + size // 2, 0, size).astype(np.int32)
    levels = np.stack([parts.scalars[:, 0], np.ones(m), np.zeros(m), parts.scalars[:, 1]], axis=1)
    _compose_released(parts.fields, heights, levels, parts.scalars[:, 2], out)


def _exact(parts: Ingredients, out: NDArray[np.float32]) -> None:
    m, size = out.shape[:2]
    contour = parts.contours - parts.contours.mean(1, keepdims=True)
    contour *= 0.10 / contour.std(1, keepdims=True)
    contour *= np.minimum(1, 0.42 / np.abs(contour).max(1, keepdims=True))
    heights = size * (contour + (0.45 + 0.1 * parts.scalars[:, :1]))
    _compose_exact(parts.fields, heights, np.tile([0.6, 1.0, 0.0, 0.4], (m, 1)), parts.scalars[:, 2], out)


@njit(nogil=True)
def _noise(seed, first, contour, fields, scalars):  # type: ignore[no-untyped-def]
    """Draws of each image: contour (m, L) and fields (m, size, size) on [-1, 1], scalars (m, 3) on [0, 1)."""
    length, pixels = contour.shape[1], fields.shape[1] * fields.shape[2]
    draws = np.empty(length + 2 * pixels + 3)
    for i in range(len(contour)):
        uniforms(seed, first + np.uint64(i), draws)
        contour[i] = 2 * draws[:length] - 1
        real, imaginary = draws[length : length + pixels], draws[length + pixels : length + 2 * pixels]
        parts = fields[i].reshape(pixels).view(np.float32)
        for p in range(pixels):
            parts[2 * p] = 2 * real[p] - 1
            parts[2 * p + 1] = 2 * imaginary[p] - 1
        scalars[i] = draws[length + 2 * pixels :]


@njit(nogil=True)
def _affine(field, levels):  # type: ignore[no-untyped-def]
    """(a, b, c, d) so that a Re + b and c Im + d span [levels[0], levels[1]] and [levels[2], levels[3]]."""
    low_r = high_r = field[0, 0].real
    low_i = high_i = field[0, 0].imag
    for row in field:
        for z in row:
            low_r, high_r = min(low_r, z.real), max(high_r, z.real)
            low_i, high_i = min(low_i, z.imag), max(high_i, z.imag)
    a = np.float32((levels[1] - levels[0]) / (high_r - low_r))
    c = np.float32((levels[3] - levels[2]) / (high_i - low_i))
    return a, np.float32(levels[0]) - a * low_r, c, np.float32(levels[2]) - c * low_i


@njit(nogil=True)
def _compose_released(fields, heights, levels, coin, out):  # type: ignore[no-untyped-def]
    """Blend by the mask 1{row < h(column)} softened by a reflected 2x2 box; heights are int32 (m, size)."""
    size = out.shape[1]
    for i in range(len(out)):
        a, b, c, d = _affine(fields[i], levels[i])
        bright_above = coin[i] < 0.5
        for r in range(size):
            above = abs(r - 1)
            for j in range(size):
                h, left = heights[i, j], heights[i, abs(j - 1)]
                mask = np.float32(0.25) * np.float32((r < h) + (above < h) + (r < left) + (above < left))
                z = fields[i, r, j]
                weight = mask if bright_above else np.float32(1) - mask
                bright, dark = a * z.real + b, c * z.imag + d
                out[i, r, j] = dark + weight * (bright - dark)


@njit(nogil=True)
def _compose_exact(fields, heights, levels, coin, out):  # type: ignore[no-untyped-def]
    """Blend by the coverage clip(h - row, 0, 1) averaged over sub-columns; heights are rows, (m, 8 size)."""
    size = out.shape[1]
    sub = heights.shape[1] // size
    for i in range(len(out)):
        a, b, c, d = _affine(fields[i], levels[i])
        bright_above = coin[i] < 0.5
        for r in range(size):
            for j in range(size):
                mask = 0.0
                for s in range(sub * j, sub * (j + 1)):
                    mask += min(max(heights[i, s] - r, 0.0), 1.0)
                weight = np.float32(mask / sub if bright_above else 1.0 - mask / sub)
                z = fields[i, r, j]
                bright, dark = a * z.real + b, c * z.imag + d
                out[i, r, j] = dark + weight * (bright - dark)
