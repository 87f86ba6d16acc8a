"""Counter-based random numbers: Philox4x64-10 (Salmon et al. 2011), as numpy.random.Philox draws them."""

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from spectral.kernels.compiled import njit

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)  # multipliers of the paper
_W0, _W1 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBB67AE8584CAA73B),
)  # key increments: golden ratio, sqrt(3) - 1
_ZERO, _DISCARD = np.uint64(0), np.uint64(11)


@intrinsic
def _product(typingctx, a, b):  # type: ignore[no-untyped-def]
    """The upper and the lower 64 bits of the product of two uint64, by one instruction."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        half, wide = ir.IntType(64), ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), half)
        return context.make_tuple(builder, signature.return_type, [high, builder.trunc(product, half)])

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), codegen  # type: ignore[attr-defined]


@njit(nogil=True)
def _round(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    high0, low0 = _product(_M0, c0)
    high1, low1 = _product(_M1, c2)
    return high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0, k0 + _W0, k1 + _W1


@njit(nogil=True)
def uniforms(k0: np.uint64, k1: np.uint64, out: NDArray[np.floating]) -> None:
    """Fill out (m,) with uniform draws on [0, 1), in place; under the key (k0, k1).

    Draw i is floor(w_i / 2^11) 2^-53 with w_i the i-th word of Philox4x64-10 under that key, blocks
    counted from 1: bit for bit what numpy.random.Generator(numpy.random.Philox(key=(k0, k1))).random(m)
    returns. An image's noise thus depends on its key alone and not on batches, threads or devices.
    """
    words = np.empty(out.size + 3, np.uint64)
    for i in range(0, out.size, 4):
        c0, c1, c2, c3, a, b = np.uint64(i // 4 + 1), _ZERO, _ZERO, _ZERO, k0, k1
        for _ in range(10):
            c0, c1, c2, c3, a, b = _round(c0, c1, c2, c3, a, b)
        words[i], words[i + 1], words[i + 2], words[i + 3] = c0, c1, c2, c3
    for i in range(out.size):
        out[i] = np.int64(words[i] >> _DISCARD) * 2.0**-53
