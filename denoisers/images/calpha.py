"""C^alpha images: two smooth regions parted by a smooth contour. The NumPy definition of both generators."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["released", "exact"]
Array = NDArray[np.float64]

SUBCOLUMNS = 8  # contour samples a pixel in `exact`
BLOCK = 256  # images made at a time, so that memory does not grow with n


def synthesize(
    n: int, *, size: int, alpha: float, beta: float | None = None, kind: Kind = "released", seed: int = 0
) -> NDArray[np.float32]:
    """n grey images whose contour and backgrounds have regularity alpha and beta (default: alpha).

    Noise is uniform on [-1, 1]; F_s multiplies its discrete Fourier transform by |k|^-s, k in integer
    frequencies, gain 1 at k = 0; h(j) is the contour's height in rows at column j, counted from the top.

    `released` (what the authors of arXiv 2310.02557 released): h = round(size F_alpha(w)) + size // 2, and a
    column that h leaves is of one region; two backgrounds F_beta(W), one scaled to [U, 1] and one to [0, U'],
    either of them above; the mask 1{row < h} softened by a periodic 2x2 box. The Hoelder regularity is
    alpha - 1/2 for the contour and beta - 1 for the backgrounds.

    `exact`: contour F_{alpha + 1/2} on an 8 times finer grid, mean removed, standard deviation 0.10, shrunk
    so that its maximum is at most 0.42, around 1/2 + U(-0.05, 0.05), times size; backgrounds F_{beta + 1},
    one scaled to [0, 0.4] and one to [0.6, 1], either of them above; the mask is each pixel's exact coverage
    by column, averaged over its 8 sub-columns. The Hoelder regularities are alpha and beta.

    Returns float32 (n, 1, size, size) in [0, 1]. Image i depends on (seed, i) and the other arguments, never
    on n: its uniform draws come from Philox(key=(seed, i)) in the order contour, backgrounds, scalars.

    Raises ValueError for n < 0, size < 2, a negative exponent, an unknown kind or a seed outside [0, 2^64).
    """
    beta = alpha if beta is None else beta
    if n < 0 or size < 2:
        raise ValueError(f"n must be >= 0 and size >= 2, got n={n}, size={size}")
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha and beta must be >= 0, got alpha={alpha}, beta={beta}")
    if kind not in _KINDS:
        raise ValueError(f"kind must be 'released' or 'exact', got {kind!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
    contour_samples, draw = _KINDS[kind]
    out = np.empty((n, 1, size, size), dtype=np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        u = _uniforms(seed, range(start, stop), size * contour_samples + 2 * size**2 + 3)
        contour, grounds, scalars = np.split(u, [size * contour_samples, -3], axis=1)
        out[start:stop, 0] = draw(
            2 * contour - 1, (2 * grounds - 1).reshape(-1, 2, size, size), scalars, alpha, beta
        )
    return out


def _released(contour: Array, grounds: Array, scalars: Array, alpha: float, beta: float) -> Array:
    """Images (m, size, size) from uniform noise (m, size), (m, 2, size, size) and draws (m, 3) on [0, 1]."""
    size = contour.shape[1]
    rows = np.rint(size * _filter_1d(contour, alpha)) + size // 2
    mask = (np.arange(size)[:, None] < rows[:, None, :]).astype(np.float64)
    mask = (mask + np.roll(mask, 1, axis=1)) / 2
    mask = (mask + np.roll(mask, 1, axis=2)) / 2
    smooth = _unit_range(_filter_2d(grounds, beta))
    low, high = scalars[:, 0, None, None], scalars[:, 1, None, None]
    return _compose(mask, low + (1 - low) * smooth[:, 0], high * smooth[:, 1], scalars[:, 2])


def _exact(contour: Array, grounds: Array, scalars: Array, alpha: float, beta: float) -> Array:
    """As `_released`, with contour noise (m, 8 size)."""
    size = grounds.shape[-1]
    curve = _filter_1d(contour, alpha + 0.5)
    curve -= curve.mean(axis=1, keepdims=True)
    curve *= 0.10 / curve.std(axis=1, keepdims=True)
    curve *= np.minimum(1, 0.42 / np.abs(curve).max(axis=1, keepdims=True))
    height = size * (curve + 0.45 + 0.1 * scalars[:, :1])
    cover = np.clip(height[:, None, :] - np.arange(size)[:, None], 0, 1)
    mask = cover.reshape(len(cover), size, size, SUBCOLUMNS).mean(axis=-1)
    smooth = _unit_range(_filter_2d(grounds, beta + 1))
    return _compose(mask, 0.6 + 0.4 * smooth[:, 0], 0.4 * smooth[:, 1], scalars[:, 2])


_KINDS: dict[str, tuple[int, Callable[[Array, Array, Array, float, float], Array]]] = {
    "released": (1, _released),
    "exact": (SUBCOLUMNS, _exact),
}


def _uniforms(seed: int, images: range, count: int) -> Array:
    """Row i: the first `count` uniform draws on [0, 1) of image i."""
    out = np.empty((len(images), count))
    for row, i in zip(out, images, strict=True):
        np.random.Generator(np.random.Philox(key=np.array([seed, i], dtype=np.uint64))).random(out=row)
    return out


def _gain(frequency: Array, exponent: float) -> Array:
    """|k|^-exponent, 1 at k = 0."""
    return np.where(frequency > 0, np.maximum(frequency, 1), 1) ** -exponent


def _filter_1d(noise: Array, exponent: float) -> Array:
    k = np.fft.rfftfreq(noise.shape[-1], 1 / noise.shape[-1])
    return np.fft.irfft(np.fft.rfft(noise) * _gain(k, exponent), noise.shape[-1])


def _filter_2d(noise: Array, exponent: float) -> Array:
    size = noise.shape[-1]
    k = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size))
    return np.fft.irfft2(np.fft.rfft2(noise) * _gain(k, exponent), (size, size))


def _unit_range(x: Array) -> Array:
    """Each square scaled to minimum 0 and maximum 1."""
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    return (x - low) / (high - low)


def _compose(mask: Array, bright: Array, dark: Array, coin: Array) -> Array:
    """The bright background under the mask where coin < 1/2, the dark one otherwise."""
    first = (coin < 0.5)[:, None, None]
    return mask * np.where(first, bright, dark) + (1 - mask) * np.where(first, dark, bright)
