"""3x3 convolutions with a quarter of the multiplications, for weights that stay and gates beside them.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016): an output tile of 4x4 pixels comes from 6x6
pixels d of the input by

    Y = A' [sum over channels of (G g G') . (B' d B)] A,    . entry by entry,

36 products a tile, channel and filter where the definition takes 144.  G g G' is formed once, in float64.  A,
B and G belong to polynomials at 0, a, -a, b, -b and infinity; a = 21/32 and b = 3/2 make half the rounding
errors of the usual 1 and 2 (8e-7 relative in float32 with 64 channels; the definition itself makes 4e-7).

`short` kernels round both factors of the 36 products to 16-bit integers, d's by a scale for each tile and
entry and g's by one for each filter and entry; sums are exact.  With 64 channels that is 5e-4 relative, where
rounding the pixels and weights themselves to bfloat16 makes 2e-3.
"""

from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import carray, types
from numba.extending import register_jitable
from torch import Tensor

from spectral.errors import ShapeError
from spectral.kernels import pool, team
from spectral.kernels.lanes import (
    BYTES,
    ROWS,
    SHORT,
    claim,
    gated,
    larger,
    largest,
    load,
    load_six,
    no_lanes,
    panel,
    panel_short,
    pointer,
    store,
    store_all,
    store_rounded,
)

_A, _B = 21 / 32, 3 / 2
_AA, _BB = _A**2, _B**2
_AAA, _BBB, _ABB, _BAA = _A**3, _B**3, _A * _BB, _B * _AA
_SUM, _PRODUCT = _AA + _BB, _AA * _BB

_CACHE = 2**19  # bytes of transformed tiles at a time: they and the weights stay in a core's second cache
_MOST = 36 * 256**2 * 4  # bytes of transformed weights: four times what they come from

_TOP = 2**13  # of the integers that stand for d: those for g, summed over channels, have the rest of 32 bits
_TINY = 2.0**-100  # what is smaller is zero to a `short` kernel: scales must not overflow

_FIELDS = (
    "x gate_in gate_out out weight scales zeros workspace images height width channels filters adds "
    "gates_in gates_out"
)
_TASK = np.dtype(
    [(name, "i8") for name in ("taken", "workers", "tiles", "blocks", "block", "size", *_FIELDS.split())]
)

_REAL = {torch.float32: np.float32, torch.float64: np.float64}


def offered(weight: Tensor, size: torch.Size, short: bool = False) -> bool:
    """Whether `Winograd(weight, short)` is at hand for inputs of about that size (m, C, H, W), and faster.

    It takes weights (K, C, 3, 3) of float32 or float64 on an x86 CPU with AVX2 or AVX-512, C and K multiples
    of two vectors (32 float32 with AVX-512), C K at most 256^2 in float32, and tiles enough to fill the
    registers.  `short` is for float32 and needs AVX512-VNNI.
    """
    filters, channels, *taps = weight.shape
    if BYTES == 0 or taps != [3, 3] or weight.dtype not in _REAL or weight.device.type != "cpu":
        return False
    if short and not (SHORT and weight.dtype == torch.float32):
        return False
    images, _, height, width = size
    step = 2 * BYTES // weight.itemsize
    filled = -(-images * _tiles(height, width) // ROWS) * ROWS
    saved = 9 * images * height * width / (36 * max(filled, 1))
    wide = channels % step == 0 and filters % step == 0
    wide = wide and 36 * channels * filters * weight.itemsize <= _MOST
    return wide and saved > 2 and team.at_hand()


class Winograd:
    """x -> w * x for weights w (K, C, 3, 3), stride 1 and padding 1, with gates or slopes on either side.

    Holds the transformed weights, four times the memory of w, or twice where they are `short`.  Calls may
    come from several threads.

    Raises ShapeError for weights that are not `offered` at any size.
    """

    def __init__(self, weight: Tensor, short: bool = False) -> None:
        if not offered(weight, torch.Size((1, 1, 4 * ROWS, 4 * ROWS)), short):
            raise ShapeError(
                f"no Winograd kernel for weights {tuple(weight.shape)} of {weight.dtype}: ask offered() first"
            )
        self.filters, self.channels = weight.shape[:2]
        self.dtype, self.short = weight.dtype, short
        self.weight, self.scales = _transformed(weight.detach(), short)
        self.zeros = weight.new_zeros(self.channels)
        self._pool = pool.shared()

    def apply(
        self,
        x: Tensor,
        gate_in: Tensor | None = None,
        gate_out: Tensor | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """gate_out . (w * (gate_in . x)) for x (m, C, H, W), channels last, as is the result (m, K, H, W).

        It is added to `onto`, in place, where that is given.

        Gates are (g, C, H, W) before and (g, K, H, W) behind, g a divisor of m: image i has gate i mod g.
        They are of x's dtype or, both of them, `packed`.  Tensors in another memory format are copied.

        Raises ShapeError for x, gates or `onto` of another size, dtype or layout.
        """
        images, channels, height, width = x.shape
        if channels != self.channels or x.dtype != self.dtype:
            raise ShapeError(
                f"x must be (m, {self.channels}, H, W) of {self.dtype}, got {tuple(x.shape)}, {x.dtype}"
            )
        before = self._gate(gate_in, x, self.channels)
        behind = self._gate(gate_out, x, self.filters)
        kinds = {gate.dtype for gate in (before, behind) if gate is not None} or {x.dtype}
        if len(kinds) > 1:
            raise ShapeError(f"both gates must have one dtype, got {kinds}")
        x = x.contiguous(memory_format=torch.channels_last)
        if onto is None:
            out = self._pool.empty((images, height, width, self.filters), x.dtype).permute(0, 3, 1, 2)
        else:
            out = self._target(onto, torch.Size((images, self.filters, height, width)))
        tiles = images * _tiles(height, width)
        panels = -(-tiles // ROWS)
        threads = max(1, min(torch.get_num_threads(), panels))
        entry = self.weight.itemsize
        row = 36 * (self.channels * entry + self.filters * x.itemsize)
        # Weights too many for the cache are read once a block: tiles as many bytes as half of them then cost
        # no more than they do.
        at_once = max(1, max(_CACHE, self.weight.nbytes // 2) // (row * ROWS))
        blocks = min(threads * -(-panels // (threads * at_once)), panels)  # as many for every thread
        block = ROWS * -(-panels // max(blocks, 1))
        size = threads * _workspace(block, self.channels, self.filters, entry, x.itemsize)
        workspace = self._pool.empty((size,), torch.uint8)
        task = np.array(
            [
                *(0, 0, tiles, blocks, block, x.itemsize, x.data_ptr()),
                *(0 if gate is None else gate.data_ptr() for gate in (before, behind)),
                *(t.data_ptr() for t in (out, self.weight, self.scales, self.zeros, workspace)),
                *(images, height, width, self.channels, self.filters, int(onto is not None)),
                *(0 if gate is None else len(gate) for gate in (before, behind)),
            ],
            np.int64,
        )
        team.run(_worker(x.dtype, kinds.pop(), self.short).address, task.ctypes.data, threads)
        return out

    def _target(self, onto: Tensor, size: torch.Size) -> Tensor:
        last = torch.channels_last
        if onto.shape != size or onto.dtype != self.dtype or not onto.is_contiguous(memory_format=last):
            raise ShapeError(
                f"onto must be {tuple(size)} of {self.dtype}, channels last; got {tuple(onto.shape)}"
            )
        return onto

    def _gate(self, gate: Tensor | None, x: Tensor, channels: int) -> Tensor | None:
        """The gate with channels last, checked."""
        if gate is None:
            return None
        images, _, height, width = x.shape
        bits = gate.dtype == torch.uint8
        size = (height, width, channels // 8) if bits else (channels, height, width)
        fits = gate.shape[1:] == size and len(gate) > 0 and images % len(gate) == 0
        if not fits or not (bits or gate.dtype == x.dtype):
            raise ShapeError(
                f"gates must be (g, {channels}, {height}, {width}) of {x.dtype}, or packed bits, and "
                f"g divide {images}, got {tuple(gate.shape)} of {gate.dtype}"
            )
        return gate.contiguous() if bits else gate.contiguous(memory_format=torch.channels_last)


def packed(gate: Tensor) -> Tensor:
    """A gate (g, C, H, W) of zeros and ones as bits, uint8 (g, H, W, C / 8); C a multiple of 8."""
    bits = np.packbits(gate.permute(0, 2, 3, 1).numpy() != 0, axis=-1, bitorder="little")
    return torch.from_numpy(bits)


def unpacked(bits: Tensor) -> Tensor:
    """The gate (g, C, H, W) of `packed` bits, int8."""
    gate = np.unpackbits(bits.numpy(), axis=-1, bitorder="little").view(np.int8)
    return torch.from_numpy(gate).permute(0, 3, 1, 2)


def _transformed(weight: Tensor, short: bool) -> tuple[Tensor, Tensor]:
    """G g G' as 36 matrices (C, K), their columns in groups of two vectors: (36, K / group, C, group).

    `short` ones come with what a sum of products is worth, (36, K); else that is empty.
    """
    points = [(0.0, _PRODUCT)]
    points += [(sign * _A, 2 * _AA * (_AA - _BB)) for sign in (1, -1)]
    points += [(sign * _B, 2 * _BB * (_BB - _AA)) for sign in (1, -1)]
    rows = [[p**j / scale for j in range(3)] for p, scale in points] + [[0.0, 0.0, 1.0]]
    G = torch.tensor(rows, dtype=torch.float64)
    filters, channels = weight.shape[:2]
    group = 2 * BYTES // weight.itemsize
    dtype = torch.int16 if short else weight.dtype
    matrices = torch.empty(36, filters // group, channels, group, dtype=dtype)
    scales = weight.new_empty(36, filters if short else 0)
    for i, some in enumerate(weight.split(group)):  # in float64 all would take eight times the memory of w
        entries = torch.einsum("pi, kcij, qj -> pqck", G, some.double(), G).flatten(0, 1)
        if short:
            entries, scales[:, group * i : group * (i + 1)] = _rounded(entries)
        matrices[:, i] = entries
    return matrices, scales


def _rounded(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of 36 matrices (C, k) as integers, rows in pairs, and what their sums are worth, (36, k).

    No sum of a column's products with integers of at most _TOP reaches 2^31.
    """
    most = (2**31 - 1) // (_TOP + 1) - entries.shape[1]
    unit = torch.maximum(entries.abs().sum(1) / most, entries.abs().amax(1) / (2**15 - 1))
    unit = unit.clamp(min=torch.finfo(torch.float32).tiny).float()
    integers = (entries / unit.unsqueeze(1)).round()
    pairs = integers.unflatten(1, (-1, 2)).transpose(2, 3).reshape(entries.shape)
    return pairs, unit / _TOP


@numba.njit(inline="always")
def _before(d):  # type: ignore[no-untyped-def]
    """B' d, of six lanes."""
    even_a, odd_a = d[4] - _BB * d[2], _A * d[3] - _ABB * d[1]
    even_b, odd_b = d[4] - _AA * d[2], _B * d[3] - _BAA * d[1]
    return (
        d[4] - _SUM * d[2] + _PRODUCT * d[0],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        d[5] - _SUM * d[3] + _PRODUCT * d[1],
    )


@numba.njit(inline="always")
def _behind(m):  # type: ignore[no-untyped-def]
    """A' m, four of six lanes."""
    even_a, odd_a, even_b, odd_b = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return (
        m[0] + even_a + even_b,
        _A * odd_a + _B * odd_b,
        _AA * even_a + _BB * even_b,
        _AAA * odd_a + _BBB * odd_b + m[5],
    )


@cache
def _worker(dtype: torch.dtype, gate_dtype: torch.dtype, short: bool) -> Any:
    """The C function, void (*)(void *task), that takes blocks of tiles until none are left."""
    real = _REAL[dtype]
    slope = np.uint8 if gate_dtype == torch.uint8 else real
    entry = np.int16 if short else real
    size, entry_size = dtype.itemsize, 2 if short else dtype.itemsize
    tiles_in, products = (_tiles_in_short, _products_short) if short else (_tiles_in, _products)

    @numba.cfunc(types.void(types.voidptr), cache=True)
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, _TASK)[0]
        panels = -(-task.tiles // ROWS)
        mine = claim(address, 1) * _workspace(task.block, task.channels, task.filters, entry_size, size)
        space = task.workspace + mine
        after = space + 36 * _plane(task.block, task.channels, entry_size) * entry_size
        scratch = after + 36 * _plane(task.block, task.filters, size) * size
        before, behind, tile = pointer(space, entry), pointer(after, real), pointer(scratch, real)
        taken = claim(address, 0)
        while taken < task.blocks:
            first = panels * taken // task.blocks * ROWS
            count = min(panels * (taken + 1) // task.blocks * ROWS, task.tiles) - first
            tiles_in(task, first, count, before, tile, real, slope)
            products(task, count, before, behind, tile, real)
            _tiles_out(task, first, count, behind, tile, real, slope)
            taken = claim(address, 0)

    return work


@register_jitable
def _tiles(height, width):  # type: ignore[no-untyped-def]
    """Output tiles of one image."""
    return -(-height // 4) * -(-width // 4)


@register_jitable
def _plane(block, channels, size):  # type: ignore[no-untyped-def]
    """Numbers between one entry of the tiles of a block and the next: never a multiple of a page."""
    return block * channels + BYTES // size


@register_jitable
def _workspace(block, channels, filters, entry_size, size):  # type: ignore[no-untyped-def]
    """Bytes that a worker needs: transformed inputs, their products, and one tile of one vector.

    Where inputs are rounded, all channels of that tile before, and the units of all tiles.
    """
    planes = _plane(block, channels, entry_size) * entry_size + _plane(block, filters, size) * size
    rounding = channels * size + -(-block * size // BYTES) * BYTES if entry_size < size else 0
    return 36 * (planes + BYTES + rounding)


@numba.njit(inline="always")
def _places(tile, tiles, height, width, channels, gates, outside, at, gate_at):  # type: ignore[no-untyped-def]
    """Where the 6x6 pixels of a tile, and their gates, begin; `outside` what lies beside the image."""
    image, place = divmod(tile, _tiles(height, width))
    across = -(-width // 4)
    for i in range(6):
        for j in range(6):
            row, column = 4 * (place // across) + i - 1, 4 * (place % across) + j - 1
            pixel = row * width + column
            inside = tile < tiles and 0 <= row < height and 0 <= column < width
            at[6 * i + j] = (image * height * width + pixel) * channels if inside else outside
            if gates:
                own = image % gates * height * width + pixel
                gate_at[6 * i + j] = own * channels if inside else 0


@numba.njit(inline="always")
def _columns_in(x, at, gate, gate_at, gates, c, tile, lanes):  # type: ignore[no-untyped-def]
    """B' d of one vector of channels, into `tile`."""
    for j in range(6):
        d = _column(x, at, j, c)
        if gates:
            d = _gated(d, gate, gate_at, j, c)
        store_all(tile, j * lanes, 6 * lanes, _before(d))


@numba.njit(cache=True)
def _tiles_in(task, first, count, before, tile, real, slope):  # type: ignore[no-untyped-def]
    """B' d B of `count` tiles, and of zeros up to a multiple of ROWS."""
    height, width, channels, lanes = task.height, task.width, task.channels, BYTES // task.size
    x, gate, gates = pointer(task.x, real), pointer(task.gate_in, slope), task.gates_in
    outside = (task.zeros - task.x) // task.size  # zeros, wherever they lie
    plane = _plane(task.block, channels, task.size)
    at, gate_at = np.empty(36, np.intp), np.empty(36, np.intp)
    for t in range(-(-count // ROWS) * ROWS):
        _places(first + t, task.tiles, height, width, channels, gates, outside, at, gate_at)
        for c in range(0, channels, lanes):
            _columns_in(x, at, gate, gate_at, gates, c, tile, lanes)
            for i in range(6):
                d = load_six(tile, 6 * i * lanes, lanes)
                store_all(before, 6 * i * plane + t * channels + c, plane, _before(d))


@numba.njit(cache=True)
def _tiles_in_short(task, first, count, before, tile, real, slope):  # type: ignore[no-untyped-def]
    """B' d B as int16, each entry of a tile in units of its largest; units lie behind the scratch tiles."""
    height, width, channels, lanes = task.height, task.width, task.channels, BYTES // task.size
    x, gate, gates = pointer(task.x, real), pointer(task.gate_in, slope), task.gates_in
    outside = (task.zeros - task.x) // task.size  # zeros, wherever they lie
    plane = _plane(task.block, channels, 2)
    full = 36 * lanes
    units = full + 36 * channels
    at, gate_at = np.empty(36, np.intp), np.empty(36, np.intp)
    for t in range(-(-count // ROWS) * ROWS):
        _places(first + t, task.tiles, height, width, channels, gates, outside, at, gate_at)
        for c in range(0, channels, lanes):
            _columns_in(x, at, gate, gate_at, gates, c, tile, lanes)
            for i in range(6):
                d = load_six(tile, 6 * i * lanes, lanes)
                store_all(tile, full + 6 * i * channels + c, channels, _before(d))
        for entry in range(36):
            source, target = full + entry * channels, entry * plane + t * channels
            top = no_lanes(real)
            for c in range(0, channels, lanes):
                top = larger(top, load(tile, source + c))
            # What is not finite makes the factor 0 and the unit what it is, and so the result NaN.
            unit = largest(top)
            factor = _TOP / unit if _TINY < unit < np.inf else 0.0
            tile[units + entry * task.block + t] = unit
            for c in range(0, channels, lanes):
                store_rounded(before, target + c, load(tile, source + c), real(factor))


@numba.njit(inline="always")
def _column(source, at, j, c):  # type: ignore[no-untyped-def]
    """Column j of the pixels whose places are at[6 i + j], channels c and on."""
    return (
        load(source, at[j] + c),
        load(source, at[j + 6] + c),
        load(source, at[j + 12] + c),
        load(source, at[j + 18] + c),
        load(source, at[j + 24] + c),
        load(source, at[j + 30] + c),
    )


@numba.njit(inline="always")
def _gated(d, gate, at, j, c):  # type: ignore[no-untyped-def]
    """The same column of the gate times d."""
    return (
        gated(d[0], gate, at[j] + c),
        gated(d[1], gate, at[j + 6] + c),
        gated(d[2], gate, at[j + 12] + c),
        gated(d[3], gate, at[j + 18] + c),
        gated(d[4], gate, at[j + 24] + c),
        gated(d[5], gate, at[j + 30] + c),
    )


@numba.njit(cache=True)
def _products(task, count, before, behind, _, real):  # type: ignore[no-untyped-def]
    """The sums over channels, one matrix product for each of the 36 entries."""
    channels, filters, lanes = task.channels, task.filters, BYTES // task.size
    weight = pointer(task.weight, real)
    plane_in, plane_out = _plane(task.block, channels, task.size), _plane(task.block, filters, task.size)
    for entry in range(36):
        for k in range(0, filters, 2 * lanes):
            columns = (entry * filters + k) * channels
            for t in range(0, count, ROWS):
                source, target = entry * plane_in + t * channels, entry * plane_out + t * filters + k
                panel(before, source, weight, columns, behind, target, channels, filters)


@numba.njit(cache=True)
def _products_short(task, count, before, behind, tile, real):  # type: ignore[no-untyped-def]
    """The same sums over integers, in units of the tiles and of the filters."""
    channels, filters, lanes = task.channels, task.filters, BYTES // task.size
    weight, units = pointer(task.weight, np.int16), pointer(task.scales, real)
    plane_in, plane_out = _plane(task.block, channels, 2), _plane(task.block, filters, task.size)
    own = 36 * (lanes + channels)
    for entry in range(36):
        for k in range(0, filters, 2 * lanes):
            columns = (entry * filters + k) * channels
            for t in range(0, count, ROWS):
                source, target = entry * plane_in + t * channels, entry * plane_out + t * filters + k
                panel_short(
                    *(before, source, weight, columns, behind, target, channels, filters),
                    *(tile, own + entry * task.block + t, units, entry * filters + k),
                )


@numba.njit(cache=True)
def _tiles_out(task, first, count, behind, tile, real, slope):  # type: ignore[no-untyped-def]
    """A' m A of `count` tiles, times the gate, into the result or added to it."""
    height, width, filters, lanes = task.height, task.width, task.filters, BYTES // task.size
    out, gate = pointer(task.out, real), pointer(task.gate_out, slope)
    gates = task.gates_out
    plane = _plane(task.block, filters, task.size)
    across = -(-width // 4)
    for t in range(count):
        image, place = divmod(first + t, _tiles(height, width))
        top, left = 4 * (place // across), 4 * (place % across)
        gate_image = image % gates if gates else 0
        for k in range(0, filters, lanes):
            for j in range(6):
                m = load_six(behind, j * plane + t * filters + k, 6 * plane)
                store_all(tile, j * lanes, 6 * lanes, _behind(m))
            for i in range(min(4, height - top)):
                y = _behind(load_six(tile, 6 * i * lanes, lanes))
                pixel = (top + i) * width + left
                at = (image * height * width + pixel) * filters + k
                gate_at = (gate_image * height * width + pixel) * filters + k
                for j in range(4):
                    if j < width - left:
                        value = y[j]
                        if gates:
                            value = gated(value, gate, gate_at + j * filters)
                        if task.adds:
                            value = load(out, at + j * filters) + value
                        store(out, at + j * filters, value)
