"""Slopes of units, products and quotients, sums: what is done to each entry by itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from spectral.jacobians.program.reach import Rows, together
from spectral.jacobians.program.rules.base import INSTEAD, Seen, named, rule
from spectral.jacobians.program.slopes import beside, gate, in_channels_last, shape_of, times
from spectral.jacobians.program.steps import Leading, Step, aten, counts, pulled, some, unchanged


@dataclass
class Sloped(Step):
    """A step that multiplies by one slope, which it lays out in memory as the first tangent comes."""

    slope: Tensor
    _laid: bool = field(default=False, init=False, compare=False)

    def slope_for(self, t: Tensor) -> Tensor:
        """The slope, from the first tangent on in the order of that (`slopes.beside`)."""
        if not self._laid:
            self.slope, self._laid = beside(self.slope, t), True
        return self.slope


@dataclass
class Diagonal(Sloped):
    """t -> s t, s broadcast; in place where nobody else looks (`owns_tangent`, `owns_cotangent`).

    Gates, whose s is 0 or 1, are kept as bits or bytes (`slopes`).
    """

    input_size: torch.Size
    owns_tangent: bool = False
    owns_cotangent: bool = False

    @property
    def keeps_size(self) -> bool:
        """Whether t is not broadcast to the slope's size."""
        return _fits(shape_of(self.slope), self.input_size)

    @property
    def leading(self) -> Leading:
        """Broadcasting aligns sizes at their ends, so that one more axis in front changes nothing."""
        return "free" if self.keeps_size else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """s t."""
        return times(tangents[0], self.slope_for(tangents[0]), self.owns_tangent)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """s g, or its conjugate's product, summed over what t was broadcast to."""
        slope = self.slope.conj() if self.slope.is_complex() else self.slope
        if self.keeps_size:
            return (times(g, slope, self.owns_cotangent),)
        return (times(g, slope).sum_to_size(self.input_size),)

    def reach(self, rows: Rows) -> Rows:
        """Itself."""
        return rows.spread(self.input_size, torch.broadcast_shapes(shape_of(self.slope), self.input_size))

    def select(self, index: Tensor, n: int) -> Diagonal | None:
        """With the slopes of some inputs."""
        if self.keeps_size and self.slope.numel() == 1 and self.input_size and self.input_size[0] % n == 0:
            return replace(self, input_size=some(self.input_size, index, n))
        if not (self.keeps_size and counts(self.input_size, n)):
            return None
        whole = self.slope.ndim == len(self.input_size) and len(self.slope) == n
        slope = self.slope[index] if whole else self.slope
        return replace(self, slope=slope, input_size=some(self.input_size, index))


@dataclass
class Pointwise(Step):
    """t_1, t_2 -> s_1 t_1 + s_2 t_2, each broadcast to the size of the output."""

    slopes: tuple[Tensor, Tensor]
    sizes: tuple[torch.Size, torch.Size]
    output_size: torch.Size
    _laid: bool = field(default=False, init=False, compare=False)  # out as tangents come

    def apply(self, *tangents: Tensor) -> Tensor:
        """s_1 t_1 + s_2 t_2."""
        t, u = map(self._aligned, tangents, self.sizes)
        if not self._laid:
            like = t if t.shape[-len(self.output_size) :] == self.output_size and 0 not in t.stride() else u
            s, r = self.slopes
            self.slopes, self._laid = (beside(s, like), beside(r, like)), True
        s, r = self.slopes
        made = s * t
        if made.dtype == r.dtype == u.dtype and _fits(r.shape, made.shape) and _fits(u.shape, made.shape):
            return made.addcmul_(r, u)  # in half the time of a product and a sum
        return made + r * u

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The conjugates of s_1 g and s_2 g, summed over what was broadcast."""
        lead = g.shape[: g.ndim - len(self.output_size)]
        parts = zip(self.slopes, self.sizes, strict=True)
        return tuple(_summed(s.conj() * g, self._whole(size)).reshape((*lead, *size)) for s, size in parts)

    def _whole(self, size: torch.Size) -> torch.Size:
        """A size with as many axes as the output's."""
        return torch.Size((*[1] * (len(self.output_size) - len(size)), *size))

    def _aligned(self, t: Tensor, size: torch.Size) -> Tensor:
        """t (..., *size), whose axes in front stay in front of what it is broadcast to."""
        if len(size) == len(self.output_size):
            return t
        return t.reshape((*t.shape[: t.ndim - len(size)], *self._whole(size)))

    def reach(self, *rows: Rows) -> Rows:
        """Both together."""
        return together(rows, self.sizes, self.output_size)

    def select(self, index: Tensor, n: int) -> Pointwise | None:
        """With the slopes of some inputs."""
        axes = len(self.output_size)
        if not all(len(size) == axes and counts(size, n) for size in (*self.sizes, self.output_size)):
            return None
        first, second = (s[index] for s in self.slopes)
        sizes = some(self.sizes[0], index), some(self.sizes[1], index)
        return replace(self, slopes=(first, second), sizes=sizes, output_size=some(self.output_size, index))


def _fits(size: torch.Size, whole: torch.Size) -> bool:
    """Whether what has a size is broadcast to a whole one; torch takes ten times as long to tell."""
    pairs = zip(reversed(size), reversed(whole), strict=False)
    return len(size) <= len(whole) and all(own in (1, length) for own, length in pairs)


def _summed(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., *whole) summed to (..., *size), axes that were broadcast alone; as many of both."""
    axes = tuple(i for i in range(-len(size), 0) if size[i] == 1 and t.shape[i] != 1)
    return t.sum(axes, keepdim=True) if axes else t


@dataclass
class Halves(Sloped):
    """t -> a + b of s t = (a, b), two halves of one axis, told from the last."""

    axis: int

    def apply(self, *tangents: Tensor) -> Tensor:
        """a + b."""
        first, second = (self.slope_for(tangents[0]) * tangents[0]).chunk(2, self.axis)
        return first + second

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """s (g, g)."""
        return (torch.cat([g, g], self.axis).mul_(self.slope),)

    def reach(self, rows: Rows) -> Rows:
        """Itself, where it is not rows that are halved."""
        return rows.apart_from((self.axis,), "it halves")

    def select(self, index: Tensor, n: int) -> Halves | None:
        """With the slopes of some inputs."""
        inside = counts(self.slope.shape, n) and self.axis > -self.slope.ndim
        return replace(self, slope=self.slope[index]) if inside else None


@dataclass
class Sum(Step):
    """t_1, t_2 -> a_1 t_1 + a_2 t_2, broadcast; or one of them alone."""

    weights: tuple[float, ...]
    sizes: tuple[torch.Size, ...]
    output_size: torch.Size

    @property
    def leading(self) -> Leading:
        """Without broadcasting one more axis changes nothing."""
        return "free" if all(size == self.output_size for size in self.sizes) else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """sum a_i t_i."""
        first, *rest = (t if a == 1 else a * t for a, t in zip(self.weights, tangents, strict=True))
        if rest:
            return first + rest[0]
        return first if self.leading == "free" else first.expand(self.output_size)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """a_i g."""
        parts = (g if a == 1 else a * g for a in self.weights)
        if self.leading == "free":
            return tuple(parts)
        return tuple(part.sum_to_size(size) for part, size in zip(parts, self.sizes, strict=True))

    def reach(self, *rows: Rows) -> Rows:
        """All together."""
        return together(rows, self.sizes, self.output_size)

    def select(self, index: Tensor, n: int) -> Sum | None:
        """With other sizes."""
        if self.leading != "free" or not counts(self.output_size, n):
            return None
        size = some(self.output_size, index)
        return replace(self, sizes=(size,) * len(self.sizes), output_size=size)


_SMOOTH = named(
    *("silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "leaky_relu", "mish", "hardswish", "hardtanh"),
    *("exp", "log", "sqrt", "rsqrt", "sin", "cos", "abs", "reciprocal", "erf", "clamp", "clamp_min"),
    *("clamp_max", "hardsigmoid", "log1p", "expm1", "square", "log_sigmoid_forward", "threshold", "atan"),
    "_prelu_kernel",
)


@rule(*_SMOOTH, aten.pow.Tensor_Scalar)
def _pointwise(seen: Seen) -> Step | None:
    """A unit's slope, which is torch's own derivative of it."""
    (x, *others) = seen.primals
    if others or not seen.first_alone or x.is_complex() or seen.entry:
        return None
    slope = pulled(seen.operation(), (x,), torch.ones_like(x))[0]
    return Diagonal(seen.inputs, seen.output, in_channels_last(slope), x.shape)


_BACKWARD = named(
    *("silu_backward", "gelu_backward", "sigmoid_backward", "tanh_backward", "softplus_backward"),
    *("elu_backward", "leaky_relu_backward", "mish_backward", "hardswish_backward", "threshold_backward"),
    "hardsigmoid_backward",
)


def _silu_backward(g: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return g * s * (1 + x * (1 - s))


def _mish_backward(g: Tensor, x: Tensor) -> Tensor:
    t = functional.softplus(x).tanh()
    return g * (t + x * x.sigmoid() * (1 - t * t))


def _hardsigmoid_backward(g: Tensor, x: Tensor) -> Tensor:
    return g * (x.abs() < 3) / 6


# Of these torch has no derivative.
INSTEAD |= {
    aten.silu_backward.default: _silu_backward,
    aten.mish_backward.default: _mish_backward,
    aten.hardsigmoid_backward.default: _hardsigmoid_backward,
}


@rule(*_BACKWARD)
def _unit_backwards(seen: Seen) -> Step | None:
    """g s(x), as a model sends it back that differentiates inside: slopes s(x) and g s'(x), torch's own."""
    if any(x.is_complex() or x.shape != seen.like.shape for x in seen.primals):
        return None
    slopes = pulled(seen.operation(), seen.primals, torch.ones_like(seen.like))
    if len(slopes) == 1:
        return Diagonal(seen.inputs, seen.output, in_channels_last(slopes[0]), seen.like.shape)
    first, second = slopes
    return Pointwise(
        seen.inputs, seen.output, (first, second), (seen.sizes[0], seen.sizes[1]), seen.like.shape
    )


@rule(aten.relu.default)
def _relu(seen: Seen) -> Step:
    (x,) = seen.primals
    return Diagonal(seen.inputs, seen.output, gate(x), x.shape)


@rule(aten.glu.default)
def _gated(seen: Seen) -> Step:
    """x_1 sigmoid(x_2), halves of x: its slopes are sigmoid(x_2) and x_1 sigmoid'(x_2)."""
    (x,) = seen.primals
    axis = int(seen.given(1, "dim", -1)) % x.ndim - x.ndim
    first, second = x.chunk(2, axis)
    open_by = second.sigmoid()
    slope = torch.cat([open_by, first * open_by * (1 - open_by)], axis)
    return Halves(seen.inputs, seen.output, slope, axis)


@rule(aten.mul.Tensor, aten.div.Tensor, promotes=True)
def _scale(seen: Seen) -> Step | None:
    if len(seen.args) != 2 or seen.kwargs:
        return None
    if len(seen.factors) == 2:
        return _pair(seen)
    (x,), (left, right) = seen.primals, seen.args
    divides = seen.target is aten.div.Tensor
    if divides and not seen.reaches(left):  # c / x, whose slope is - c / x^2
        y = x.to(seen.like.dtype).resolve_conj().resolve_neg()
        return Diagonal(seen.inputs, seen.output, -torch.as_tensor(left) / y.square(), x.shape)
    other = right if seen.reaches(left) else left
    constant = torch.as_tensor(other, dtype=seen.like.dtype, device=x.device)
    constant = constant.resolve_conj().resolve_neg()
    return Diagonal(seen.inputs, seen.output, 1 / constant if divides else seen.hold(constant), x.shape)


def _pair(seen: Seen) -> Step | None:
    """x y, or x / y, where y reaches both; x x, whose slope is 2 x."""
    dtype = seen.like.dtype
    x, y = (t.to(dtype).resolve_conj().resolve_neg() for t in seen.args)
    divides = seen.target is aten.div.Tensor
    if len(seen.inputs) == 1:
        return None if divides else Diagonal(seen.inputs, seen.output, 2 * x, x.shape)
    slopes = (1 / y, -x / y.square()) if divides else (seen.hold(y), seen.hold(x))
    return Pointwise(seen.inputs, seen.output, slopes, (seen.sizes[0], seen.sizes[1]), seen.like.shape)


@rule(*named("mul", "div", overload="Scalar"), promotes=True)
def _scalar(seen: Seen) -> Step | None:
    if not seen.first_alone:
        return None
    function = seen.operation()
    alike = None if isinstance(seen.args[1], complex) else (lambda g, sizes: (function(g),))
    return seen.linear(function, back=alike, narrow=unchanged, rows=lambda rows: rows)


@rule(aten.neg.default)
def _negative(seen: Seen) -> Step:
    return Sum(seen.inputs, seen.output, (-1.0,), seen.sizes, seen.like.shape)


@rule(aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.add.Scalar, aten.sub.Scalar, promotes=True)
def _sum(seen: Seen) -> Step | int | None:
    alpha = seen.given(2, "alpha", 1)
    if isinstance(alpha, complex):
        return None
    signs = {aten.sub.Tensor: (1, -alpha), aten.sub.Scalar: (1, -alpha), aten.rsub.Scalar: (-alpha, 1)}
    weights = [0.0] * len(seen.inputs)
    for x, weight in zip(seen.args[:2], signs.get(seen.target, (1, alpha)), strict=True):
        if seen.reaches(x):
            weights[seen.places[id(x)]] += weight
    if weights == [1.0] and seen.sizes[0] == seen.like.shape:
        return seen.inputs[0]
    return Sum(seen.inputs, seen.output, tuple(weights), seen.sizes, seen.like.shape)


@rule(*named("masked_fill", overload="Scalar"), *named("masked_fill", overload="Tensor"))
def _masked(seen: Seen) -> Step | None:
    x, mask = seen.args[:2]
    if not seen.first_alone or x.shape != seen.like.shape:
        return None
    return Diagonal(seen.inputs, seen.output, gate(~mask), x.shape)


@rule(aten.where.self, promotes=True)
def _where(seen: Seen) -> Step:
    sizes, after = seen.sizes, seen.like.shape
    return seen.linear(seen.operation().without_held(), rows=lambda *rows: together(rows, sizes, after))
