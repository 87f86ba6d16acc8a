"""C^alpha images on whole arrays: a chunk of images at a time."""

from types import ModuleType
from typing import Any

from spectral.kernels.arrays import companion
from spectral.kernels.device.philox import uniforms
from spectral.kernels.smoothness import SHIFT, SUBCOLUMNS, Kind, gain_1d, gain_2d

_CHUNK_PIXELS = 2**22  # a chunk's complex fields take 32 MB, its draws and their making some 700 MB


def synthesize(
    xp: ModuleType, n: int, *, size: int, alpha: float, beta: float, kind: Kind, seed: int, first: int
) -> Any:
    """`spectral.kernels.calpha.synthesize` on the device of xp: its images to float32 rounding."""
    out = xp.empty((n, size, size), xp.float32)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        part = out[start : start + step]
        numbers = xp.arange(first + start, first + start + len(part), dtype=xp.uint64)
        contours, fields, scalars = _ingredients(xp, numbers, size, alpha, beta, kind, seed)
        mask, spans = (_released if kind == "released" else _exact)(xp, contours, scalars, size)
        _compose(xp, fields, mask, spans, scalars[:, 2], part)
    return out


def _ingredients(
    xp: ModuleType, numbers: Any, size: int, alpha: float, beta: float, kind: Kind, seed: int
) -> tuple[Any, Any, Any]:
    """Contours (m, L), complex64 fields (m, size, size) and scalars (m, 3), as the kernel's `ingredients`."""
    fft, m, length, pixels = companion(xp, "fft"), len(numbers), size * SUBCOLUMNS[kind], size * size
    draws = uniforms(xp, seed, numbers, length + 2 * pixels + 3)
    contours = 2 * draws[:, :length] - 1
    parts = xp.empty((m, pixels, 2), xp.float32)
    parts[..., 0] = 2 * draws[:, length : length + pixels] - 1
    parts[..., 1] = 2 * draws[:, length + pixels : length + 2 * pixels] - 1
    fields = parts.view(xp.complex64).reshape(m, size, size)
    contour_shift, background_shift = SHIFT[kind]
    contours = fft.rfft(contours) * xp.asarray(gain_1d(length, alpha + contour_shift))
    fields = fft.fft2(fields) * xp.asarray(gain_2d(size, beta + background_shift))
    return fft.irfft(contours, length), fft.ifft2(fields), draws[:, length + 2 * pixels :]


def _released(xp: ModuleType, contours: Any, scalars: Any, size: int) -> tuple[Any, Any]:
    """The softened mask (m, size, size) and the spans (m, 4) of the bright and the dark background."""
    heights = xp.clip(xp.rint(size * contours) + size // 2, 0, size)
    index = xp.arange(size)
    before = abs(index - 1)
    here, left = heights[:, None, :], heights[:, before][:, None, :]
    row, above = index[:, None], before[:, None]
    corners = [(r < h).astype(xp.float32) for h in (here, left) for r in (row, above)]
    one, zero = xp.ones(len(scalars)), xp.zeros(len(scalars))
    spans = xp.stack([scalars[:, 0], one, zero, scalars[:, 1]], axis=1)
    return 0.25 * (corners[0] + corners[1] + corners[2] + corners[3]), spans


def _exact(xp: ModuleType, contours: Any, scalars: Any, size: int) -> tuple[Any, Any]:
    """The coverage (m, size, size) and the spans (m, 4) of the bright and the dark background."""
    contours = contours - contours.mean(1, keepdims=True)
    contours = contours * (0.10 / contours.std(1, keepdims=True))
    contours = contours * xp.minimum(1, 0.42 / abs(contours).max(1, keepdims=True))
    heights = size * (contours + (0.45 + 0.1 * scalars[:, :1]))
    sub, row = contours.shape[1] // size, xp.arange(size)[:, None]
    mask = sum(xp.clip(heights[:, None, s::sub] - row, 0, 1) for s in range(sub))
    return mask / sub, xp.broadcast_to(xp.asarray([0.6, 1.0, 0.0, 0.4]), (len(scalars), 4))


def _compose(xp: ModuleType, fields: Any, mask: Any, spans: Any, coin: Any, out: Any) -> None:
    """Blend the two backgrounds, the bright one above where coin < 1/2, into out (m, size, size)."""
    bright = _spanning(xp, fields.real, spans[:, 0], spans[:, 1])
    dark = _spanning(xp, fields.imag, spans[:, 2], spans[:, 3])
    weight = xp.where((coin < 0.5)[:, None, None], mask, 1 - mask).astype(xp.float32)
    out[...] = dark + weight * (bright - dark)


def _spanning(xp: ModuleType, field: Any, low: Any, high: Any) -> Any:
    """Each field (m, size, size), scaled and shifted to span [low, high], in float32."""
    least, most = field.min((1, 2)), field.max((1, 2))
    scale = ((high - low) / (most - least)).astype(xp.float32)
    offset = low.astype(xp.float32) - scale * least
    return scale[:, None, None] * field + offset[:, None, None]
