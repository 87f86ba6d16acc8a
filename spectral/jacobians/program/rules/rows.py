"""How far along the rows of an image each linear operation looks; see `spectral.jacobians.program.reach`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from spectral.errors import ReachError
from spectral.jacobians.program.rules.base import Seen, axes_of, named
from spectral.jacobians.program.steps import aten

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows

Tells = Callable[..., "Rows"]

ORDERS = {aten.permute.default, aten.transpose.int, *named("t", "numpy_T")}
_AVERAGES = {aten.mean.dim, aten.sum.dim_IntList}
_SAME = {
    *named("conj_physical", "_conj", "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view"),
    aten._to_copy.default,
}
_PADDINGS = named(
    "constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))
)
# Pixels on either side of the place, from which a pixel is interpolated.
_TAPS = {
    target: taps
    for taps, names in {
        1: ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
        2: ("upsample_bicubic2d",),
    }.items()
    for target in named(*names)
}
_NEAREST = set(named("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"))
_POOLS = set(named("avg_pool1d", "avg_pool2d", "avg_pool3d"))
_WHOLE = {
    *named("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    aten.mean.default,
    aten.sum.default,
}


def tells_rows(seen: Seen) -> Tells | None:
    """What an operation makes of the rows of its arguments; None where that is not known.

    What it gives raises ReachError where rows are mixed.
    """
    target, after = seen.target, seen.like.shape
    size = seen.sizes[0]
    if target in _SAME:
        return lambda rows: rows
    if target in _WHOLE:
        return lambda rows: rows.apart_from([rows.axis], "it averages over")
    if target is aten.cat.default:
        dim = int(seen.given(1, "dim", 0)) % len(after) - len(after)
        return lambda *rows: rows[0].joined(*rows[1:]).apart_from([dim], "it concatenates along")
    if target in ORDERS:
        order = order_of(seen)
        return lambda rows: rows.reversed_order(order)
    if target in _AVERAGES:
        return averaged(axes_of(seen.given(1, "dim"), len(size)), bool(seen.given(2, "keepdim", False)))
    if target in _PADDINGS:
        pairs = list(seen.args[1])
        return lambda rows: _padded(rows, pairs, after)
    if target in _POOLS:
        kernel, stride, padding = (seen.given(i, name, []) for i, name in _POOL)
        return lambda rows: windowed(rows, after, kernel, stride or kernel, padding or 0, 1)
    if target in _NEAREST or target in _TAPS:
        return _resized(seen)
    if target in named("pixel_shuffle", "pixel_unshuffle"):
        r = int(seen.args[1])
        up = target is aten.pixel_shuffle.default
        step, low, high = (Fraction(1, r), Fraction(1 - r, r), 0) if up else (Fraction(r), 0, r - 1)
        return lambda rows: rows.window(step, Fraction(low), Fraction(high), after[rows.axis])
    along = _ALONG.get(target)
    if along is not None:
        name, what = along
        axes = axes_of(seen.given(*name), len(size))
        return lambda rows: rows.apart_from(axes, what)
    if target is aten.expand.default:
        return lambda rows: rows.spread(size, after)
    return None


_POOL = ((1, "kernel_size"), (2, "stride"), (3, "padding"))
# Operations along axes, by the place and name of that argument.
_ALONG: dict[Any, tuple[tuple[int, str], str]] = {
    aten.flip.default: ((1, "dims"), "it turns round"),
    aten.roll.default: ((2, "dims"), "it goes round"),
    aten.cumsum.default: ((1, "dim"), "it adds up"),
    **dict.fromkeys(named("_fft_r2c", "_fft_c2c", "_fft_c2r"), ((1, "dim"), "it transforms")),
}


def windowed(rows: Rows, after: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Rows:
    """Of windows that slide along the axes of an image, each number one for all axes, or a list."""
    k, s, p, d = (_at(given, rows.axis) for given in (kernel, stride, padding, dilation))
    return rows.window(Fraction(s), Fraction(-p), Fraction(d * (k - 1) - p), after[rows.axis])


def _at(given: Any, axis: int) -> int:
    if isinstance(given, int):
        return given
    numbers = list(given)
    if len(numbers) == 1:
        return int(numbers[0])
    if -axis > len(numbers):
        raise ReachError("rows lie in an axis of channels")
    return int(numbers[axis])


def averaged(axes: Sequence[int], kept: bool) -> Tells:
    """Of means over some axes, told from the last, which are `kept` with one entry or go."""
    return lambda rows: rows.summed(axes, kept, "it averages over")


def order_of(seen: Seen) -> list[int]:
    """Which axis each one was, of an operation among `ORDERS`."""
    ndim = len(seen.sizes[0])
    order = [*range(ndim)]
    if seen.target is aten.permute.default:
        return [d % ndim for d in seen.args[1]]
    if seen.target is not aten.transpose.int:
        return order[::-1]
    a, b = (d % ndim for d in seen.args[1:3]) if ndim else (0, 0)
    order[a : a + 1], order[b : b + 1] = [b], [a]
    return order


def _padded(rows: Rows, pairs: list[int], after: Any) -> Rows:
    place = 2 * (-rows.axis - 1)
    if place >= len(pairs):
        return rows
    before = Fraction(pairs[place])
    return rows.window(Fraction(1), -before, -before, after[rows.axis])


def _resized(seen: Seen) -> Tells:
    size, after, given = seen.sizes[0], seen.like.shape, list(seen.args[2:])
    nearest = seen.target in _NEAREST
    corners = False if nearest else bool(given.pop(0))
    taps = 0 if nearest else _TAPS[seen.target]
    sides = len(size) - 2
    scales = (given + [None] * sides)[:sides]

    def tells(rows: Rows) -> Rows:
        axis = rows.axis
        if -axis > sides:
            return rows
        step, scale = Fraction(size[axis], after[axis]), scales[axis]
        whole = 1 in (step.numerator, step.denominator)
        if corners or not whole or (scale is not None and abs(scale * step - 1) > 1e-9):
            raise ReachError("it resizes by a factor that depends on the size, or is not whole")
        if nearest:
            return rows.window(step, min(step, Fraction(1)) - 1, Fraction(0), after[axis])
        middle = (step - 1) / 2  # pixel j lies at step (j + 1/2) - 1/2
        return rows.window(step, middle - taps, middle + taps, after[axis])

    return tells
