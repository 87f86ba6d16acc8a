"""Orthonormal periodised wavelets (Mallat 1989)."""

import numpy as np

from spectral.bases.base import Array, Band, as_images
from spectral.errors import OptionError, ShapeError
from spectral.kernels.arrays import namespace


class Wavelet:
    """Separable orthonormal wavelets, periodised, over `levels` octaves.

    One step along an axis of even length n, with L taps: low_k = sum_m h_m x_{2k + m + 1 - L/2} and high_k
    the same with g_m = (-1)^m h_{L-1-m}, indices mod n; the next octave splits the low-low quarter again. The
    coarse quarter lies in the upper left corner, the three details of each octave around it: PyWavelets'
    "periodization".

    `name` is any orthogonal wavelet of PyWavelets ("haar", "db4", "sym8"); take one with at least as many
    vanishing moments as the images are regular. `levels` defaults to as many as both sides can be halved.

    Raises ShapeError where a side is not a multiple of 2^levels (a periodised step of an odd length is not
    orthonormal: crop, or use fewer levels), OptionError where the wavelet is not orthogonal.
    """

    def __init__(self, shape: tuple[int, int], name: str = "db4", levels: int | None = None) -> None:
        import pywt  # noqa: PLC0415  not for those who take no wavelets

        wavelet = pywt.Wavelet(name)
        if not wavelet.orthogonal:
            raise OptionError(
                f"{name} is not an orthogonal wavelet: choose one of the haar, db, sym, coif families"
            )
        most = min(side & -side for side in shape).bit_length() - 1
        levels = most if levels is None else levels
        if not 0 <= levels <= most:
            raise ShapeError(
                f"sides {shape} halve evenly {most} times, not {levels}: crop, or ask for levels <= {most}"
            )
        self.shape, self.name, self.levels = shape, name, levels
        low = _orthonormal(np.asarray(wavelet.rec_lo))
        self._filters = np.stack([low, low[::-1] * (-1.0) ** np.arange(len(low))])
        self.details: tuple[Band, ...] = tuple(
            (slice(i * h, (i + 1) * h), slice(j * w, (j + 1) * w))
            for h, w in ((shape[0] >> level, shape[1] >> level) for level in range(levels, 0, -1))
            for i, j in ((0, 1), (1, 0), (1, 1))
        )

    def analysis(self, images: Array) -> Array:
        """Wavelet coefficients (..., H, W) of images (..., H, W)."""
        out = as_images(images, self.shape).copy()
        for level in range(self.levels):
            low = out[..., : self.shape[0] >> level, : self.shape[1] >> level]
            low[...] = _split(_split(low, self._filters).swapaxes(-1, -2), self._filters).swapaxes(-1, -2)
        return out

    def synthesis(self, coefficients: Array) -> Array:
        """Images (..., H, W) from wavelet coefficients (..., H, W)."""
        out = as_images(coefficients, self.shape).copy()
        for level in reversed(range(self.levels)):
            low = out[..., : self.shape[0] >> level, : self.shape[1] >> level]
            low[...] = _join(_join(low, self._filters).swapaxes(-1, -2), self._filters).swapaxes(-1, -2)
        return out


def _orthonormal(h: Array) -> Array:
    """The nearest taps with sum_m h_m h_{m + 2k} = delta_k, by one Newton step: some tables stop at 1e-12."""
    lags = range(0, len(h), 2)
    shifted = np.stack([np.pad(h, (k, 0))[: len(h)] + np.pad(h, (0, k))[k:] for k in lags])  # d(sum) / dh
    excess = shifted @ h / 2 - (np.arange(len(shifted)) == 0)
    return h - np.linalg.pinv(shifted) @ excess


def _split(x: Array, filters: Array) -> Array:
    """[low, high] along the last axis, of even length n."""
    xp, n, taps = namespace(x), x.shape[-1], filters.shape[1]
    wrapped = x[..., xp.arange(1 - taps // 2, n + taps // 2 - 1) % n]
    halves = xp.zeros((2, *x.shape[:-1], n // 2), x.dtype)
    for m in range(taps):
        for i, tap in enumerate(filters[:, m].tolist()):
            halves[i] += tap * wrapped[..., m : m + n : 2]
    return xp.concatenate((halves[0], halves[1]), axis=-1)


def _join(c: Array, filters: Array) -> Array:
    """The transpose of `_split`."""
    xp, n, taps = namespace(c), c.shape[-1], filters.shape[1]
    unwrapped = xp.zeros((*c.shape[:-1], -(-(n + taps - 2) // n) * n), c.dtype)
    for m in range(taps):
        for half, tap in zip((c[..., : n // 2], c[..., n // 2 :]), filters[:, m].tolist(), strict=True):
            unwrapped[..., m : m + n : 2] += tap * half
    return xp.roll(unwrapped.reshape(*c.shape[:-1], -1, n).sum(axis=-2), 1 - taps // 2, axis=-1)
