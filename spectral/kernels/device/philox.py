"""Philox4x64-10 on whole arrays of counters (Salmon et al. 2011)."""

from types import ModuleType
from typing import Any

from spectral.kernels.philox import _M0, _M1, _W0, _W1

_LOW = 0xFFFFFFFF


def uniforms(xp: ModuleType, k0: int, k1: Any, count: int) -> Any:
    """Uniform draws on [0, 1), float64 (m, count): row i as `kernels.philox.uniforms` draws for (k0, k1[i]).

    k1: uint64 (m,), an array of xp. Integer arithmetic alone, so every device draws the same bits.
    """
    blocks = -(-count // 4)
    c0 = xp.broadcast_to(xp.arange(1, blocks + 1, dtype=xp.uint64), (len(k1), blocks))
    c1 = c2 = c3 = xp.zeros_like(c0)
    a, b = int(k0), k1[:, None]
    for _ in range(10):
        high0, low0 = _product(xp, _M0, c0)
        high1, low1 = _product(xp, _M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ xp.uint64(a), low1, high0 ^ c3 ^ b, low0
        a, b = (a + int(_W0)) % 2**64, b + xp.uint64(_W1)
    words = xp.stack([c0, c1, c2, c3], axis=-1).reshape(len(k1), -1)[:, :count]
    return (words >> xp.uint64(11)).astype(xp.float64) * 2.0**-53


def _product(xp: ModuleType, multiplier: Any, x: Any) -> tuple[Any, Any]:
    """The upper and lower 64 bits of multiplier * x, by halves of 32 bits."""
    low, shift = xp.uint64(_LOW), xp.uint64(32)
    m0, m1 = xp.uint64(int(multiplier) & _LOW), xp.uint64(int(multiplier) >> 32)
    x0, x1 = x & low, x >> shift
    middle = m1 * x0 + (m0 * x0 >> shift)
    cross = m0 * x1 + (middle & low)
    return m1 * x1 + (middle >> shift) + (cross >> shift), xp.uint64(multiplier) * x
