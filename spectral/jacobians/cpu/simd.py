"""Vectors as wide as the processor's registers, for kernels in Numba that choose their own."""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils, config, types
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_jitable, register_model

from spectral.kernels import cpu

_COMPILED = not config.DISABLE_JIT
binding.initialize_native_asmparser()  # LLVM ends the process where it meets assembly without it
_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",") if _COMPILED else []
_MOST = 64 if "+avx512f" in _FEATURES else 32 if {"+avx2", "+fma"} <= set(_FEATURES) else 0

BYTES = min(_MOST, cpu.BYTES[cpu.LEVEL])
"""Bytes of a vector: 64 with AVX-512, 32 with AVX2 and FMA, 0 elsewhere: nothing here works there."""

ROWS = 12 if BYTES == 64 else 6
"""Rows of a `panel`: with its 2 columns of vectors, the sums that 32 (or 16) registers hold."""

_FUSED = ("contract",)


@register_jitable
def whole(length, step):  # type: ignore[no-untyped-def]
    """The length, up to a multiple of a step."""
    return -(-length // step) * step


class Lanes(types.Type):
    """The Numba type of BYTES / itemsize numbers of one dtype; sums, differences and products are by lane."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


def _vector(dtype: types.Float) -> Any:
    """The LLVM type of `Lanes(dtype)`."""
    number = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(number, 8 * BYTES // dtype.bitwidth)


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _vector(lanes.dtype))


class _ByLane(AbstractTemplate):
    """Lanes and lanes, or a number times lanes."""

    key: Any

    def generic(self, args: Any, kws: Any) -> Any:
        number = isinstance(args[0], types.Float) and self.key is operator.mul
        if isinstance(args[1], Lanes) and (number or args[0] == args[1]):
            return signature(args[1], *args)
        return None


def _define(operation: Callable[..., Any], method: str) -> None:
    infer_global(operation)(type(f"_{method}", (_ByLane,), {}))

    @lower_builtin(operation, Lanes, Lanes)
    def by_lane(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, method)(*args, flags=_FUSED)


for _operation, _method in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_operation, _method)


@lower_builtin(operator.mul, types.Float, Lanes)
def _scaled(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    number = context.cast(builder, args[0], sig.args[0], sig.args[1].dtype)
    return builder.fmul(_repeated(builder, number, _vector(sig.args[1].dtype)), args[1], flags=_FUSED)


def _repeated(builder: Any, number: Any, vector: Any) -> Any:
    """The number in every lane of a vector of that type."""
    i32 = ir.IntType(32)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(i32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(i32, vector.count), None))


def _place(builder: Any, base: Any, first: Any, *more: Any) -> Any:
    """The address base + first + ..., in numbers; all but the first may be Python's."""
    for step in more:
        first = builder.add(first, ir.Constant(first.type, step) if isinstance(step, int) else step)
    return builder.gep(base, [first])


def _read(builder: Any, pointer: Any, vector: Any, dtype: Any) -> Any:
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=dtype.bitwidth // 8)


def _write(builder: Any, value: Any, pointer: Any, dtype: types.Float) -> None:
    """Store a vector, rounded where what it is stored in is narrower."""
    if dtype == types.float32 and value.type.element == ir.DoubleType():
        value = builder.fptrunc(value, ir.VectorType(ir.FloatType(), value.type.count))
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=dtype.bitwidth // 8)


@intrinsic
def pointer(context, address, dtype):  # type: ignore[no-untyped-def]
    """The address (an integer) as a pointer to numbers of that dtype."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(dtype.dtype)(address, dtype), generate  # type: ignore[attr-defined]


@intrinsic
def load(context, source, at):  # type: ignore[no-untyped-def]
    """The lanes source[at], source[at + 1], ..."""
    dtype = source.dtype

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _read(builder, builder.gep(args[0], [args[1]]), _vector(dtype), dtype)

    return Lanes(dtype)(source, types.intp), generate


@intrinsic
def load_wide(context, source, at):  # type: ignore[no-untyped-def]
    """The same as lanes of float64."""
    dtype = source.dtype

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        wide = _vector(types.float64)
        number = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        value = _read(builder, builder.gep(args[0], [args[1]]), ir.VectorType(number, wide.count), dtype)
        return value if value.type == wide else builder.fpext(value, wide)

    return Lanes(types.float64)(source, types.intp), generate


@intrinsic
def gated(context, lanes, gate, at):  # type: ignore[no-untyped-def]
    """The lanes times gate[at], gate[at + 1], ...: numbers of that dtype, int8, or bits, eight to a uint8."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        value, base, at = args
        vector, count = _vector(lanes.dtype), _vector(lanes.dtype).count
        if gate.dtype == lanes.dtype:
            return builder.fmul(value, _read(builder, builder.gep(base, [at]), vector, lanes.dtype))
        if gate.dtype == types.int8:
            bytes_of = ir.VectorType(ir.IntType(8), count)
            opened = _read(builder, builder.gep(base, [at]), bytes_of, gate.dtype)
            mask = builder.icmp_signed("!=", opened, ir.Constant(bytes_of, None))
            return builder.select(mask, value, ir.Constant(vector, None))
        # The lowest bit of a byte is the first; lanes begin at a multiple of their number.
        place = builder.gep(base, [builder.lshr(at, ir.Constant(at.type, 3))])
        bits = _read(builder, place, ir.IntType(max(count, 8)), gate.dtype)
        if count < 8:
            within = builder.trunc(builder.and_(at, ir.Constant(at.type, 7)), bits.type)
            bits = builder.trunc(builder.lshr(bits, within), ir.IntType(count))
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), count))
        return builder.select(mask, value, ir.Constant(vector, None))

    return lanes(lanes, gate, types.intp), generate


@intrinsic
def load_six(context, source, at, step):  # type: ignore[no-untyped-def]
    """Six lanes, those at `at`, at + step, ..., at + 5 step."""
    lanes = Lanes(source.dtype)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        base, at, step = args
        values = []
        for _ in range(6):
            values.append(_read(builder, builder.gep(base, [at]), _vector(source.dtype), source.dtype))
            at = builder.add(at, step)
        return cgutils.pack_array(builder, values)

    return types.UniTuple(lanes, 6)(source, types.intp, types.intp), generate  # type: ignore[attr-defined]


@intrinsic
def store(context, target, at, value):  # type: ignore[no-untyped-def]
    """target[at], target[at + 1], ... = the lanes of value."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        _write(builder, args[2], builder.gep(args[0], [args[1]]), target.dtype)
        return context.get_dummy_value()

    return types.none(target, types.intp, value), generate


@intrinsic
def store_positive(context, target, at, lanes):  # type: ignore[no-untyped-def]
    """Bits at, at + 1, ... of the bytes `target` = which lanes are positive; `at` is a multiple of eight."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        base, at, value = args
        mask = builder.fcmp_ordered(">", value, ir.Constant(value.type, None))
        bits = builder.bitcast(mask, ir.IntType(value.type.count))
        place = builder.gep(base, [builder.lshr(at, ir.Constant(at.type, 3))])
        builder.store(bits, builder.bitcast(place, bits.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(target, types.intp, lanes), generate


@intrinsic
def store_all(context, target, at, step, values):  # type: ignore[no-untyped-def]
    """The lanes of a tuple, the first at `at`, the next at at + step, ..."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        base, at, step, held = args
        for value in cgutils.unpack_tuple(builder, held):
            _write(builder, value, builder.gep(base, [at]), target.dtype)
            at = builder.add(at, step)
        return context.get_dummy_value()

    return types.none(target, types.intp, types.intp, values), generate


@intrinsic
def turn(context, source, at, step, target, to, width):  # type: ignore[no-untyped-def]
    """target[to + i width + j] = source[at + j step + i], for i and j below the number of lanes."""
    dtype, index = source.dtype, types.intp

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        base, at, step, out, to, width = args
        vector = _vector(dtype)
        lanes = vector.count
        rows = []
        for _ in range(lanes):
            rows.append(_read(builder, builder.gep(base, [at]), vector, dtype))
            at = builder.add(at, step)

        def chosen(first: Any, second: Any, picks: list[int]) -> Any:
            order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), picks)
            return builder.shuffle_vector(first, second, order)

        # Blocks across the diagonal change places: single entries, then squares of two by two, of four, ...
        size = 1
        while size < lanes:
            for i in (i for i in range(lanes) if not i & size):
                first, second = rows[i], rows[i + size]
                low = [lanes + j - size if j & size else j for j in range(lanes)]
                high = [lanes + j if j & size else j + size for j in range(lanes)]
                rows[i], rows[i + size] = chosen(first, second, low), chosen(first, second, high)
            size *= 2
        for value in rows:
            _write(builder, value, builder.gep(out, [to]), dtype)
            to = builder.add(to, width)
        return context.get_dummy_value()

    return types.none(source, index, index, target, index, index), generate


def _panel(builder: Any, dtype: Any, args: Any, adds: bool, vectors: int = 2) -> None:
    """The sums of `panel`, of one or two vectors of columns, begun with what is there where it `adds`."""
    left, left_at, step, right, right_at, out, out_at, depth, width = args
    vector, pairs = _vector(dtype), [(row, column) for row in range(ROWS) for column in range(vectors)]
    lanes = vector.count

    def target(row: int, j: int) -> Any:
        return _place(builder, out, out_at, builder.mul(width, ir.Constant(width.type, row)), j * lanes)

    zero = ir.Constant(vector, None)
    sums = {
        pair: cgutils.alloca_once_value(
            builder, _read(builder, target(*pair), vector, dtype) if adds else zero
        )
        for pair in pairs
    }
    with cgutils.for_range(builder, depth) as loop:
        here = builder.mul(loop.index, ir.Constant(depth.type, vectors * lanes))
        columns = [
            _read(builder, _place(builder, right, right_at, here, j * lanes), vector, dtype)
            for j in range(vectors)
        ]
        for row in range(ROWS):
            start = builder.mul(step, ir.Constant(step.type, row))
            entry = builder.load(_place(builder, left, left_at, start, loop.index))
            for j, column in enumerate(columns):
                term = builder.fmul(_repeated(builder, entry, vector), column, flags=_FUSED)
                total = sums[row, j]
                builder.store(builder.fadd(builder.load(total), term, flags=_FUSED), total)
    for pair in pairs:
        _write(builder, builder.load(sums[pair]), target(*pair), dtype)


_LOG2E, _LN2 = 1.4426950408889634, (0.693359375, -2.12194440054690583e-4)
_LEAST = -87.0  # what exp makes of less is no normal float32
_SHIFT = 12582912.0  # 3/2 2^23: added, it leaves an integer in the last bits
_SERIES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


@intrinsic
def exponential(context, lanes):  # type: ignore[no-untyped-def]
    """exp of float32 lanes of at most 88, to 1e-7 relative; of less than -87 exp(-87).

    x = n log 2 + r: 2^n by the exponent's bits, exp r by the polynomial of Cephes (Moshier, 1984).
    """
    vector = _vector(lanes.dtype)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        def each(number: float) -> Any:
            return ir.Constant(vector, [ir.Constant(vector.element, number)] * vector.count)

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)

        integers = ir.VectorType(ir.IntType(32), vector.count)

        def all_of(number: int) -> Any:
            return ir.Constant(integers, [ir.Constant(ir.IntType(32), number)] * vector.count)

        x = builder.select(builder.fcmp_ordered(">", args[0], each(_LEAST)), args[0], each(_LEAST))
        shifted = fused(x, each(_LOG2E), each(_SHIFT))
        n = builder.fsub(shifted, each(_SHIFT))
        r = fused(n, each(-_LN2[1]), fused(n, each(-_LN2[0]), x))
        first, *others = map(each, _SERIES)
        series = first
        for term in others:
            series = fused(series, r, term)
        value = fused(series, builder.fmul(r, r), builder.fadd(r, each(1.0)))
        bits = builder.add(builder.shl(builder.bitcast(shifted, integers), all_of(23)), all_of(0x3F800000))
        return builder.fmul(value, builder.bitcast(bits, vector))

    return lanes(lanes), generate


def _of_panels(adds: bool, vectors: int = 2) -> Any:
    """The intrinsic function of `_panel`."""

    @intrinsic
    def rows_of(context, left, left_at, step, right, right_at, out, out_at, depth, width):  # type: ignore[no-untyped-def]
        dtype, index = left.dtype, types.intp

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            _panel(builder, dtype, args, adds, vectors)
            return context.get_dummy_value()

        return types.none(left, index, index, right, index, out, index, index, index), generate

    return rows_of


panel, narrow = _of_panels(adds=False), _of_panels(adds=False, vectors=1)
"""ROWS rows of a matrix product, all sums in registers: O = L R, two vectors of columns, and one.

Rows of L (ROWS, depth) lie `step` apart; R (depth, two vectors) has rows one after another; rows of O lie
`width` apart: panel(L, at, step, R, at, O, at, depth, width).
"""

panel_onto, narrow_onto = _of_panels(adds=True), _of_panels(adds=True, vectors=1)
"""The same added to O."""


@intrinsic
def claim(context, counters, at):  # type: ignore[no-untyped-def]
    """The integer counters[at] (int64, a void pointer), raised by one afterwards, also among many threads."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        one = ir.Constant(ir.IntType(64), 1)
        counters = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", builder.gep(counters, [args[1]]), one, "monotonic")

    return types.int64(counters, types.intp), generate
