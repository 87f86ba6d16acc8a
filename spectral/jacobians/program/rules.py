"""The step of each operation that has one of its own: one function a kind, registered by `rule`.

A rule is given the operation as it was seen (`Seen`) and returns its step; the slot that passes through
unchanged; or None where it does not apply, when the operation is differentiated by torch, on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.slopes import channels_last, gate
from spectral.jacobians.program.steps import (
    Diagonal,
    Gather,
    Input,
    Linear,
    Matmul,
    Norm,
    Operation,
    Pointwise,
    Softmax,
    Step,
    Sum,
    aten,
    pulled,
)


@dataclass
class Seen:
    """An operation on values of which y reaches some.

    Attributes:
        target, args, kwargs: the operation and what it was called with.
        like: a tensor of the shape and precision of its output.
        outputs: of an operation with several outputs the integers among them; `entry` is meant.
        reached: the slot of each tensor that y reaches, by id; tensors of one slot may differ by a constant.
        output: the slot of the result.
        hold: t -> t as a step may keep it, whatever the function does to it later.
        promoted: whether what y reaches was brought to the output's precision first.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    like: Tensor
    outputs: Any
    entry: int | None
    reached: dict[int, int]
    output: int
    hold: Callable[[Tensor], Tensor]
    promoted: bool = False

    def __post_init__(self) -> None:
        leaves = (x for x in pytree.tree_leaves((self.args, self.kwargs)) if self.reaches(x))
        values = {id(x): x for x in leaves}
        self.places = {key: i for i, key in enumerate(values)}
        self.inputs = tuple(self.reached[key] for key in values)
        self.primals = tuple(values.values())
        self.sizes = tuple(x.shape for x in self.primals)

    def reaches(self, x: Any) -> bool:
        """Whether y reaches an argument."""
        return isinstance(x, Tensor) and id(x) in self.reached

    @property
    def factors(self) -> list[Tensor]:
        """The arguments that y reaches."""
        return [a for a in self.args if self.reaches(a)]

    @property
    def first_alone(self) -> bool:
        """Whether y reaches the first argument and no other."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return self.reaches(self.args[0]) and sum(self.reaches(x) for x in leaves) == 1

    def given(self, i: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[i] if len(self.args) > i else self.kwargs.get(name, default)

    def operation(self, target: Any = None, args: Any = None, kwargs: Any = None) -> Operation:
        """The operation, or another with these arguments, as a function of what y reaches, all else held."""

        def argument(x: Tensor) -> Any:
            if id(x) in self.reached:
                return Input(self.places[id(x)])
            return self.hold(x)

        args = self.args if args is None else args
        kwargs = self.kwargs if kwargs is None and target is None else kwargs or {}
        arguments = pytree.tree_map_only(Tensor, argument, (args, kwargs))
        return Operation(target or self.target, arguments, self.entry)

    def linear(self, function: Operation, images: bool = False, back: Back | None = None) -> Linear:
        """The step of an operation that is linear in what y reaches."""
        dtypes = tuple(self.like.dtype if self.promoted else x.dtype for x in self.primals)
        return Linear(self.inputs, self.output, function, self.sizes, dtypes, images, back)


Rule = Callable[[Seen], "Step | int | None"]
Back = Callable[[Tensor, tuple[torch.Size, ...]], tuple[Tensor, ...]]
RULES: dict[Any, Rule] = {}

# Operations whose inputs torch first brings to one precision, that of the output.
PROMOTING: set[Any] = set()


def rule(*targets: Any, promotes: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        if promotes:
            PROMOTING.update(targets)
        return function

    return register


def _named(*names: str, overload: str = "default") -> list[Any]:
    """Operations of torch by name, as far as this torch has them."""
    packets = (getattr(aten, name, None) for name in names)
    return [getattr(p, overload) for p in packets if p is not None and overload in p.overloads()]


@rule(*_named("alias", "detach", "clone", "lift_fresh", "lift", "contiguous", "positive"))
def _same(seen: Seen) -> int:
    """A copy, or another name; what is detached is still a function of y."""
    return seen.inputs[0]


@rule(*_named("convolution", "_convolution"))
def _convolution(seen: Seen) -> Step | None:
    if not seen.first_alone:
        return None
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = seen.args[:9]
    if x.ndim != weight.ndim or x.is_complex():  # an image without the axis of images
        return None
    return Convolution(
        seen.inputs,
        seen.output,
        seen.hold(weight),
        list(stride),
        list(padding),
        list(dilation),
        transposed,
        list(output_padding),
        groups,
        x.shape,
        seen.like.shape,
    )


@rule(*_named("conv1d", "conv2d", "conv3d"))
def _composite_convolution(seen: Seen) -> Step | int | None:
    """As inference mode shows them."""
    n = seen.args[1].ndim - 2

    def each(i: int, name: str, default: int) -> list[int]:
        given = list(seen.given(i, name, [default]))
        return given * n if len(given) == 1 else given

    sides = each(3, "stride", 1), each(4, "padding", 0), each(5, "dilation", 1)
    args = (*seen.args[:2], None, *sides, False, [0] * n, seen.given(6, "groups", 1))
    return _convolution(replace(seen, args=args, kwargs={}))


_SMOOTH = _named(
    *("silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "leaky_relu", "mish", "hardswish", "hardtanh"),
    *("exp", "log", "sqrt", "rsqrt", "sin", "cos", "abs", "reciprocal", "erf", "clamp", "clamp_min"),
    *("clamp_max", "hardsigmoid", "log1p", "expm1", "square", "log_sigmoid_forward", "threshold", "atan"),
)


@rule(*_SMOOTH, aten.pow.Tensor_Scalar)
def _pointwise(seen: Seen) -> Step | None:
    """A unit's slope, which is torch's own derivative of it."""
    (x, *others) = seen.primals
    if others or not seen.first_alone or x.is_complex() or seen.entry:
        return None
    slope = pulled(seen.operation(), (x,), torch.ones_like(x))[0]
    return Diagonal(seen.inputs, seen.output, channels_last(slope), x.shape)


@rule(aten.relu.default)
def _relu(seen: Seen) -> Step:
    (x,) = seen.primals
    return Diagonal(seen.inputs, seen.output, gate(x), x.shape)


@rule(aten.mul.Tensor, aten.div.Tensor, promotes=True)
def _scale(seen: Seen) -> Step | None:
    if len(seen.args) != 2 or seen.kwargs:
        return None
    if len(seen.factors) == 2:
        return _pair(seen)
    (x,), (left, right) = seen.primals, seen.args
    divides = seen.target is aten.div.Tensor
    if divides and not seen.reaches(left):  # c / x
        return None
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
    sizes = seen.sizes[0], seen.sizes[1]
    if len({len(seen.like.shape), *map(len, sizes)}) > 1:
        return None
    return Pointwise(seen.inputs, seen.output, slopes, sizes, seen.like.shape)


@rule(*_named("_softmax", "_safe_softmax"))
def _softmax(seen: Seen) -> Step | None:
    (x,) = seen.primals
    dim = seen.given(1, "dim")
    if not x.ndim or seen.like.dtype != x.dtype:
        return None
    axis = dim - x.ndim if dim >= 0 else dim
    return Softmax(seen.inputs, seen.output, seen.operation()(x), axis)


@rule(*_named("mul", "div", overload="Scalar"), promotes=True)
def _scalar(seen: Seen) -> Step | None:
    return seen.linear(seen.operation()) if seen.first_alone else None


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


@rule(*_named("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"))
@rule(*_named("_native_batch_norm_legit_no_training", "_batch_norm_no_update"))
def _batch_norm(seen: Seen) -> Step | None:
    """In evaluation mode a scale of channels; by the statistics of one image, an instance norm."""
    trains = seen.args[5] if "no_" not in str(seen.target) else False
    (x, *others) = seen.primals
    if seen.entry != 0 or others or not seen.first_alone or (trains and len(x) > 1):
        return None
    if trains:
        return Norm.at(seen.inputs, seen.output, x, seen.args[1], seen.args[7], x.shape[1], x.ndim - 1)
    thin = x.new_ones(1, x.shape[1], *[1] * (x.ndim - 2))  # the slope does not depend on x
    slope = pulled(seen.operation(), (thin,), torch.ones_like(thin))[0]
    return Diagonal(seen.inputs, seen.output, slope[0].clone(), x.shape)


@rule(aten.native_group_norm.default)
def _group_norm(seen: Seen) -> Step | None:
    if seen.entry != 0 or not seen.first_alone:
        return None
    (x,) = seen.primals
    return Norm.at(seen.inputs, seen.output, x, seen.args[1], seen.args[7], seen.args[6], x.ndim - 1)


@rule(aten.native_layer_norm.default)
def _layer_norm(seen: Seen) -> Step | None:
    if seen.entry != 0 or not seen.first_alone:
        return None
    (x,), (_, shape, gamma, _, eps) = seen.primals, seen.args
    return Norm.at(seen.inputs, seen.output, x, gamma, eps, None, len(shape))


@rule(aten.max_pool2d_with_indices.default)
def _maximum(seen: Seen) -> Step | None:
    if seen.entry != 0:
        return None
    return Gather(seen.inputs, seen.output, seen.hold(seen.outputs[1]), seen.primals[0].shape[-2:])


@rule(aten._to_copy.default, promotes=True)
def _copied(seen: Seen) -> Step | int | None:
    """Another precision has been seen to; another device is a linear map."""
    (x,) = seen.primals
    if x.device == seen.like.device:
        return seen.inputs[0]
    return seen.linear(seen.operation())


_IMAGES = {
    aten.cat.default,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
    aten.avg_pool2d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
}

_PROMOTING = {
    aten.cat.default,
    aten.stack.default,
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
    aten.sum.default,
}

# Linear in all that y reaches of them once the numbers held are taken for zeros: a constant image that is
# concatenated has no derivative.
_LINEAR = {
    *(_IMAGES - {aten.constant_pad_nd.default}),
    *_PROMOTING,
    *_named("reshape", "permute", "unsqueeze", "expand", "flip", "roll", "view", "_unsafe_view", "t"),
    *_named("_reshape_alias", "squeeze", "numpy_T", "tril", "triu", "cumsum", "unfold", "diagonal"),
    *_named("reflection_pad1d", "reflection_pad3d", "replication_pad1d", "replication_pad3d"),
    *_named("upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "upsample_nearest1d"),
    *_named("upsample_nearest3d", "avg_pool1d", "avg_pool3d", "_adaptive_avg_pool2d", "im2col", "col2im"),
    *_named("_adaptive_avg_pool3d", "_fft_r2c", "_fft_c2c", "_fft_c2r", "view_as_real", "view_as_complex"),
    *_named("_conj", "conj_physical", "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view"),
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unsafe_split.Tensor,
    aten.unbind.int,
}

_SAME_SHAPE_BACK = {
    *_named("reshape", "view", "_unsafe_view", "unsqueeze", "_reshape_alias", "squeeze"),
    aten.squeeze.dim,
    aten.squeeze.dims,
}


@rule(*_PROMOTING, promotes=True)
@rule(*(_LINEAR - _PROMOTING))
def _linear(seen: Seen) -> Step | None:
    target, args, kwargs = seen.target, seen.args, seen.kwargs
    if target in _AS_RESHAPE:  # a tangent may lie in another layout than the value does
        target, args = aten.reshape.default, (args[0], list(seen.like.shape))
    target = _RESOLVED.get(target, target)
    if target in _PROMOTING:
        kwargs = {name: value for name, value in kwargs.items() if name != "dtype"}
    function = seen.operation(target, args, kwargs).without_held()
    images = target in _IMAGES and all(len(size) == 4 for size in seen.sizes)
    if target in (aten.cat.default, aten.slice.Tensor):
        every = [x for x in pytree.tree_leaves(args) if isinstance(x, Tensor)]
        images = images and _dim(seen) % 4 > 0 and len(every) == len(seen.inputs)
    return seen.linear(function, images, _back(seen, images))


def as_complex(t: Tensor) -> Tensor:
    """Pairs of real numbers (..., 2) as complex ones."""
    return torch.view_as_complex(t.contiguous())


def as_pairs(t: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones (..., 2)."""
    return torch.view_as_real(t.resolve_conj())


# What torch puts off until a tensor is read, done at once.
_RESOLVED: dict[Any, Any] = {
    aten.view_as_complex.default: as_complex,
    aten.view_as_real.default: as_pairs,
    aten._conj.default: aten._conj_physical.default,
    aten._neg_view.default: aten.neg.default,
}
_AS_RESHAPE = {*_named("view", "_unsafe_view", "_reshape_alias")}


@rule(aten.constant_pad_nd.default)
def _padded(seen: Seen) -> Step:
    """The derivative is padded with zeros, whatever the value was."""
    function = seen.operation(seen.target, (*seen.args[:2], 0))
    return seen.linear(function, len(seen.sizes[0]) == 4 and len(seen.args[1]) <= 6)


@rule(aten.mm.default, aten.bmm.default)
def _product(seen: Seen) -> Step | None:
    if len(seen.factors) == 1:
        return seen.linear(seen.operation())
    if len(seen.inputs) == 1:  # a matrix times itself
        return None
    left, right = map(seen.hold, seen.args[:2])
    return Matmul(seen.inputs, seen.output, left, right)


@rule(aten.addmm.default, aten.baddbmm.default, promotes=True)
def _affine(seen: Seen) -> Step | None:
    """bias + x w: the product alone, where y reaches one factor and not the bias."""
    bias, *factors = seen.args[:3]
    if seen.reaches(bias) or sum(map(seen.reaches, factors)) != 1 or seen.given(4, "alpha", 1) != 1:
        return None
    product = aten.mm.default if seen.target is aten.addmm.default else aten.bmm.default
    return seen.linear(seen.operation(product, tuple(factors)))


@rule(aten.where.self, promotes=True)
def _where(seen: Seen) -> Step:
    return seen.linear(seen.operation().without_held())


@rule(*_named("masked_fill", overload="Scalar"), *_named("masked_fill", overload="Tensor"))
def _masked(seen: Seen) -> Step | None:
    x, mask = seen.args[:2]
    if not seen.first_alone or x.shape != seen.like.shape:
        return None
    return Diagonal(seen.inputs, seen.output, gate(~mask), x.shape)


@rule(aten.index.Tensor, aten.gather.default, aten.index_select.default)
def _indexed(seen: Seen) -> Step | None:
    return seen.linear(seen.operation()) if seen.first_alone else None


def _dim(seen: Seen) -> int:
    """The axis along which an operation slices or concatenates."""
    return int(seen.given(1, "dim", 0))


def _back(seen: Seen, images: bool) -> Back | None:
    """The transpose in closed form, for the operations met most often."""
    target, args = seen.target, seen.args
    if target in _SAME_SHAPE_BACK:
        return lambda g, sizes: (g.reshape(sizes[0]),)
    if target is aten.permute.default:
        order = [d % len(args[1]) for d in args[1]]
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return lambda g, sizes: (g.permute(inverse),)
    if target is aten.transpose.int:
        ndim = max(len(seen.sizes[0]), 1)
        first, second = (d % ndim for d in args[1:])
        return lambda g, sizes: (g.transpose(first, second) if sizes[0] else g,)
    if not images:
        return None
    if target is aten.cat.default and len(args[0]) == len(seen.inputs):
        dim = _dim(seen)
        return lambda g, sizes: g.split([size[dim] for size in sizes], dim)
    if target is aten.avg_pool2d.default:
        given: list[Any] = [*args[1:]]
        given += [[], [0, 0], False, True, None][len(given) - 1 :]
        kernel, stride, padding, *rest = given

        def pool(g: Tensor, sizes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
            like = torch.empty(sizes[0], dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
            return (aten.avg_pool2d_backward(channels_last(g), like, kernel, stride, padding, *rest),)

        return pool
    if target is aten.upsample_nearest2d.default:
        side, *scales = args[1:]
        return lambda g, sizes: (aten.upsample_nearest2d_backward(g, side, list(sizes[0]), *scales),)
    return None


# What only counts, or is constant, wherever its argument is: the tensor is asked for its shape alone.
SHAPES_ALONE = {
    *_named("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
    *_named("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "is_same_size"),
    *_named("_has_same_storage_numel", "randint_like", "sym_size", "sym_numel"),
    *_named("randint_like", overload="low_dtype"),
}

# Constant between jumps: no derivative but zero, and often one declared by the model in its place.
JUMPING = {
    *_named("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "floor_divide"),
    *_named("round", overload="decimals"),
}

# Roundings that torch differentiates as if they were not there.
STRAIGHT_THROUGH = {
    *_named("fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask"),
    *_named(
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "_fake_quantize_learnable_per_tensor_affine",
    ),
}

# Integers made from y may be used by these: as places, or as conditions.
BY_INDEX = {
    *_named("gather", "index_select", "embedding", "take", "scatter_add", "index_copy", "index_add"),
    *_named("masked_select", "masked_scatter", "one_hot"),
    aten.index.Tensor,
    aten.index_put.default,
    aten.where.self,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.scatter.src,
    aten.scatter.value,
    aten._index_put_impl.default,
    aten._unsafe_index.Tensor,
}
