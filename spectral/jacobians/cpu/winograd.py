"""3x3 convolutions with a quarter of the multiplications, for weights that stay and gates beside them.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016): an output tile of 4x4 pixels comes from 6x6
pixels d of the input by

    Y = A' [sum over channels of (G g G') . (B' d B)] A,    . entry by entry,

36 products a tile, channel and filter where the definition takes 144.  G g G' is formed once, in float64.  A,
B and G belong to polynomials at 0, a, -a, b, -b and infinity; a = 21/32 and b = 3/2 make half the rounding
errors of the usual 1 and 2 (8e-7 relative in float32 with 64 channels; the definition itself makes 4e-7).
"""

from types import ModuleType

import torch
from torch import Tensor

from spectral.errors import ShapeError
from spectral.jacobians.cpu import memory, openmp

A, B = 21 / 32, 3 / 2
AA, BB = A**2, B**2
SUM, PRODUCT = AA + BB, AA * BB
_POINTS = [(0.0, PRODUCT)]
_POINTS += [(sign * A, 2 * AA * (AA - BB)) for sign in (1, -1)]
_POINTS += [(sign * B, 2 * BB * (BB - AA)) for sign in (1, -1)]
G = (*((1 / scale, p / scale, p**2 / scale) for p, scale in _POINTS), (0.0, 0.0, 1.0))

_CACHE = 2**19  # bytes of transformed tiles at a time: they and the weights stay in a core's second cache
_MOST = 36 * 256**2 * 4  # bytes of transformed weights: four times what they come from

TASK = openmp.layout(
    "taken workers tiles blocks block size x gate_in gate_out out weight zeros ones workspace "
    "images height width channels filters adds gates_in gates_out"
)

RUN = 8  # channels, whose 36 entries each are written in one go: their places lie powers of two apart
FORMED = 9 + 36 * RUN  # numbers, for each filter, on the way from g to G g G'
WEIGHTS = openmp.layout(
    "taken workers groups channels filters columns filter_step channel_step row_step column_step "
    "weight out workspace"
)


def offered(weight: Tensor, size: torch.Size) -> bool:
    """Whether `Winograd(weight)` is at hand for inputs of about that size (m, C, H, W), and faster.

    It takes weights (K, C, 3, 3) of float32 or float64 on an x86 CPU with AVX2 or AVX-512, C and K at least a
    vector (16 float32 with AVX-512), C K at most 256^2 in float32, and tiles enough to fill the registers.
    """
    filters, channels, *taps = weight.shape
    lanes = openmp.lanes(weight) if taps == [3, 3] else 0
    if not lanes:
        return False
    images, _, height, width = size
    kernels = _kernels()
    filled = kernels.whole(images * kernels.per_image(height, width), kernels.ROWS)
    saved = 9 * images * height * width / (36 * max(filled, 1))
    wide = min(channels, filters) >= lanes
    wide = wide and 36 * channels * filters * weight.itemsize <= _MOST
    return wide and saved > 2


class Winograd:
    """x -> w * x for weights w (K, C, 3, 3), stride 1 and padding 1, with gates or slopes on either side.

    Holds the transformed weights, four times the memory of w.  Calls may come from several threads.

    `turned`, the transpose for those w: x (m, K, H, W) -> w' * x.

    Raises ShapeError for weights that are not `offered` at any size.
    """

    def __init__(self, weight: Tensor, turned: bool = False) -> None:
        many = 4 * _kernels().ROWS
        if not offered(weight, torch.Size((1, 1, many, many))):
            raise ShapeError(
                f"no Winograd kernel for weights {tuple(weight.shape)} of {weight.dtype}: ask offered() first"
            )
        self.filters, self.channels = weight.shape[1::-1] if turned else weight.shape[:2]
        self.dtype = weight.dtype
        self.weight = _transformed(weight.detach(), turned)
        self.zeros = weight.new_zeros(self.channels)
        lanes = openmp.lanes(weight)
        self.ones = (torch.arange(-lanes, lanes) >= 0).to(torch.int8)[lanes:]
        self._pool = memory.shared()

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
        They are of x's dtype, int8, zeros and ones, or bits (`gates`).  Tensors in another memory format are
        copied.

        Raises ShapeError for x, gates or `onto` of another size, dtype or layout.
        """
        images, channels, height, width = x.shape
        if channels != self.channels or x.dtype != self.dtype:
            raise ShapeError(
                f"x must be (m, {self.channels}, H, W) of {self.dtype}, got {tuple(x.shape)}, {x.dtype}"
            )
        before = self._gate(gate_in, x, self.channels)
        behind = self._gate(gate_out, x, self.filters)
        kinds = [gate.dtype for gate in (before, behind) if gate is not None] or [x.dtype]
        x = x.contiguous(memory_format=torch.channels_last)
        if onto is None:
            out = self._pool.empty((images, height, width, self.filters), x.dtype).permute(0, 3, 1, 2)
        else:
            out = self._target(onto, torch.Size((images, self.filters, height, width)))
        kernels = _kernels()
        rows = kernels.ROWS
        tiles = images * kernels.per_image(height, width)
        panels = -(-tiles // rows)
        threads = max(1, min(torch.get_num_threads(), panels))
        row = 36 * (self.channels + self.filters) * x.itemsize
        # Weights too many for the cache are read once a block: tiles as many bytes as half of them then cost
        # no more than they do.
        at_once = max(1, max(_CACHE, self.weight.nbytes // 2) // (row * rows))
        blocks = min(threads * -(-panels // (threads * at_once)), panels)  # as many for every thread
        block = rows * -(-panels // max(blocks, 1))
        size = threads * kernels.workspace(block, self.channels, self.filters, x.itemsize)
        workspace = self._pool.empty((size,), torch.uint8)
        task = openmp.task(
            *(0, 0, tiles, blocks, block, x.itemsize, x.data_ptr()),
            *(0 if gate is None else gate.data_ptr() for gate in (before, behind)),
            *(t.data_ptr() for t in (out, self.weight, self.zeros, self.ones, workspace)),
            *(images, height, width, self.channels, self.filters, int(onto is not None)),
            *(0 if gate is None else len(gate) for gate in (before, behind)),
        )
        openmp.region(kernels.worker(x.dtype, kinds[0], kinds[-1]).address, task, threads)()
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
        if not fits or gate.dtype not in (x.dtype, torch.int8, torch.uint8):
            raise ShapeError(
                f"gates must be (g, {channels}, {height}, {width}) of {x.dtype} or int8, or packed bits, and "
                f"g divide {images}, got {tuple(gate.shape)} of {gate.dtype}"
            )
        return gate.contiguous() if bits else gate.contiguous(memory_format=torch.channels_last)


def _kernels() -> ModuleType:
    """What is compiled.  It takes Numba, a third of a second: not for those with no such weights."""
    from spectral.jacobians.cpu import tiles  # noqa: PLC0415

    return tiles


def _transformed(weight: Tensor, turned: bool) -> Tensor:
    """G g G' as 36 matrices (C, K), K up to whole vectors by zeros.

    Their columns lie in groups (C, two vectors), the last one (C, one vector) where their number is odd.

    `turned`: of the taps in reverse, filters and channels exchanged, as the strides say.
    """
    filters, channels = weight.shape[:2]
    strides, place = weight.stride(), weight.data_ptr()
    if turned:
        filters, channels = channels, filters
        place += 2 * (strides[2] + strides[3]) * weight.itemsize  # of the last tap
        strides = (strides[1], strides[0], -strides[2], -strides[3])
    group = 2 * _kernels().BYTES // weight.itemsize
    columns = _kernels().whole(filters, group // 2)
    groups = -(-columns // group)
    matrices = weight.new_empty(36, channels * columns)
    threads = max(1, min(torch.get_num_threads(), groups))
    workspace = weight.new_empty(threads * FORMED * group)
    places = place, matrices.data_ptr(), workspace.data_ptr()
    task = openmp.task(0, 0, groups, channels, filters, columns, *strides, *places)
    openmp.region(_kernels().transformer(weight.dtype).address, task, threads)()
    return matrices
