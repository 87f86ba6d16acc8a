"""From a function and a point to the program of its derivative there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.errors import SpectralError
from spectral.kernels.winograd import packed
from spectral.operators.frozen.convolution import Convolution, Joint
from spectral.operators.frozen.program import Program, parts_of, users_of
from spectral.operators.frozen.steps import (
    Diagonal,
    Gather,
    Input,
    Linear,
    Local,
    Norm,
    Operation,
    Step,
    Sum,
    aten,
    channels_last,
)

GATES_AS_FLOATS = 1 << 24  # entries; more are kept as bytes: a quarter of the memory, and slower to apply


def record(function: Callable[[Tensor], Tensor], y: Tensor) -> Program:
    """The program of `function`'s derivative at y.

    Raises whatever torch's tracer raises where it cannot follow (control flow that depends on data).
    """

    def of_one(x: Tensor) -> Tensor:  # the tracer looks at signatures, and options confuse it
        return function(x)

    functional = functionalize(of_one, remove="mutations_and_views")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            # Without values, hence without their memory.
            traced = make_fx(functional, tracing_mode="fake", _allow_non_fake_inputs=True)(y)
        except Exception:
            # Control flow may depend on values of constants, whatever torch calls that.
            traced = make_fx(functional)(y)
        return _Recorder(traced, y).run()


class _Recorder:
    """Runs the traced graph at y once, with values, and turns each operation that y reaches into a step."""

    def __init__(self, traced: GraphModule, y: Tensor) -> None:
        self.traced, self.y = traced, y
        self.values: dict[Node, Any] = {}
        self.slots: dict[Node, int] = {}
        self.steps: list[Step] = []
        self.entries = {0: y.numel()}

    def run(self) -> Program:
        nodes = list(self.traced.graph.nodes)
        last_use = {used: node for node in nodes for used in node.all_input_nodes}
        result: Node | None = None
        for node in nodes:
            if node.op == "placeholder":
                self.values[node], self.slots[node] = self.y, 0
            elif node.op == "get_attr":
                self.values[node] = operator.attrgetter(str(node.target))(self.traced)
            elif node.op == "output":
                result = node.args[0]
            else:
                self._call(node)
            for used in node.all_input_nodes:
                # A tuple is needed as long as its entries are taken from it.
                if last_use[used] is node and node.op != "output":
                    self.values.pop(used, None)
        assert isinstance(result, Node)  # a model's output was checked to be one tensor
        output = self.values.pop(result)
        slot = self.slots.get(result)
        steps = _needed(self.steps, slot)
        for join in (_fold, _merge):
            steps = _joined(steps, slot, join)
        steps = _without_concatenations(_joined(steps, slot, _gate), slot)
        _hand_gates(steps, slot)
        _keep_gates(steps, output.dtype)
        return Program(steps, slot, self.y.shape, output, self.entries)

    def _call(self, node: Node) -> None:
        _out_of_place(node)
        node.target = _VIEWS.get(node.target, node.target)
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        value = self.values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        reached = [n for n in dict.fromkeys(node.all_input_nodes) if n in self.slots]
        if not reached:
            return
        if node.target is operator.getitem:
            self._entry(node, args)
        elif isinstance(value, Tensor):
            self._step(node, reached, args, kwargs, value)
        else:
            # Its entries become steps, which need its inputs.
            self.slots[node] = -1
            self.values[node] = (
                value,
                [self.values[n] for n in reached],
                reached,
                self._operation(node, reached),
            )

    def _entry(self, node: Node, args: tuple[Any, ...]) -> None:
        """An entry of an operation's tuple of outputs."""
        (value, primals, reached, function), index = args
        entry = self.values[node] = value[index]
        if not (isinstance(entry, Tensor) and entry.is_floating_point()):
            return
        inputs, output = tuple(self.slots[n] for n in reached), len(self.steps) + 1
        target = function.target
        alone = Operation(target, function.arguments, index)
        if index == 0 and len(primals) == 1 and _is_fixed_batch_norm(node.args[0]):
            # Its slope is a number a channel.
            slope = torch.func.vjp(alone, *primals)[1](torch.ones_like(entry))[0]
            channels = slope.transpose(0, 1).flatten(1)[:, 0].reshape(-1, *[1] * (entry.ndim - 2))
            self._add(node, Diagonal(inputs, output, channels.clone(), entry.shape), entry)
        elif index == 0 and function.target in _NORMS and isinstance(function.arguments[0][0], Input):
            self._add(node, _norm(function, inputs, output, tuple(primals)), entry)
        elif index == 0 and target is aten.max_pool2d_with_indices.default:
            self._add(node, Gather(inputs, output, value[1], primals[0].shape[-2:]), entry)
        elif target in _TUPLES:
            self._add(node, Linear(inputs, output, alone, (primals[0].shape,)), entry)
        else:
            self._add(node, Local(inputs, output, alone, tuple(primals)), entry)

    def _step(self, node: Node, reached: list[Node], args: Any, kwargs: Any, value: Tensor) -> None:
        if not value.is_floating_point():
            return
        target, inputs, output = node.target, tuple(self.slots[n] for n in reached), len(self.steps) + 1
        primals = tuple(self.values[n] for n in reached)
        factors = [a for a in node.args if isinstance(a, Node) and a in self.slots]
        alone = len(factors) == len(reached) == 1 and node.args[0] is reached[0]
        if target is aten.convolution.default and alone:
            stride, padding, dilation, transposed, output_padding, groups = args[3:9]
            step: Step = Convolution(
                inputs,
                output,
                args[1].detach(),  # the model may move to another device or precision afterwards
                list(stride),
                list(padding),
                list(dilation),
                transposed,
                list(output_padding),
                groups,
                primals[0].shape,
                value.shape,
            )
        elif target in _POINTWISE and alone:
            slope = channels_last(self._slope(node, reached, primals[0]))
            step = Diagonal(inputs, output, slope, primals[0].shape)
        elif target in (aten.mul.Tensor, aten.div.Tensor) and len(factors) == 1:
            step = self._scale(node, reached[0], args, inputs, output, primals[0])
        elif target is aten.neg.default:
            step = Sum(inputs, output, (-1.0,), (value.shape,), value.shape)
        elif target in (aten.add.Tensor, aten.sub.Tensor):
            sign = (-1 if target is aten.sub.Tensor else 1) * kwargs.get("alpha", 1)
            weights = dict.fromkeys(reached, 0.0)
            for n, weight in zip(node.args, (1, sign), strict=True):
                if n in weights:
                    weights[n] += weight  # type: ignore[index]
            sizes = tuple(p.shape for p in primals)
            step = Sum(inputs, output, tuple(weights.values()), sizes, value.shape)
        elif (
            target in _LINEAR
            or (target in _BILINEAR and len(factors) == 1)
            or (target is aten.constant_pad_nd.default and not any(args[2:]))
        ):
            step = self._linear(node, reached, inputs, output, primals)
        else:
            step = Local(inputs, output, self._operation(node, reached), primals)
        self._add(node, step, value)

    def _add(self, node: Node, step: Step, value: Tensor) -> None:
        self.steps.append(step)
        self.slots[node] = step.output
        self.entries[step.output] = value.numel()

    def _operation(self, node: Node, reached: list[Node]) -> Operation:
        """The operation as a function of what y reaches, all else held."""
        place = {n: Input(i) for i, n in enumerate(reached)}

        def argument(n: Node) -> Any:
            return place[n] if n in place else self.values[n]

        arguments = torch.fx.map_arg((node.args, node.kwargs), argument)
        return Operation(node.target, arguments)  # type: ignore[arg-type]

    def _linear(
        self,
        node: Node,
        reached: list[Node],
        inputs: tuple[int, ...],
        output: int,
        primals: tuple[Tensor, ...],
    ) -> Linear:
        function = self._operation(node, reached)
        if node.target not in _BILINEAR:  # a constant image that is concatenated has no derivative
            function = function.without_held()
        sizes = tuple(p.shape for p in primals)
        images = node.target in _OF_IMAGES and all(len(size) == 4 for size in sizes)
        if node.target in (aten.cat.default, aten.slice.Tensor):
            images = images and _dim(node) % 4 > 0 and len(reached) == len(node.all_input_nodes)
        back = _back(node) if images else None
        return Linear(inputs, output, function, sizes, images, back)

    def _slope(self, node: Node, reached: list[Node], x: Tensor) -> Tensor:
        """The local slope of a pointwise unit; a gate where the unit is a ReLU."""
        if node.target is aten.relu.default:
            return (x > 0).to(torch.int8)
        return torch.func.vjp(self._operation(node, reached), x)[1](torch.ones_like(x))[0]

    def _scale(
        self, node: Node, reached: Node, args: Any, inputs: tuple[int, ...], output: int, x: Tensor
    ) -> Step:
        first = node.args[0] is reached
        if node.target is aten.div.Tensor and not first:  # c / x
            return Local(inputs, output, self._operation(node, [reached]), (x,))
        constant = torch.as_tensor(args[1] if first else args[0], dtype=x.dtype, device=x.device)
        slope = constant if node.target is aten.mul.Tensor else 1 / constant
        return Diagonal(inputs, output, slope, x.shape)


def _norm(
    function: Operation, inputs: tuple[int, ...], output: int, primals: tuple[Tensor, ...]
) -> Norm | Local:
    """The derivative of a group or layer norm, whose gain y must not reach."""
    (x, *_), args = primals, function.arguments[0]
    if len(primals) > 1:
        return Local(inputs, output, Operation(function.target, function.arguments, 0), tuple(primals))
    if function.target is aten.native_layer_norm.default:
        return Norm.at(inputs, output, x, args[2], args[4], None, len(args[1]))
    return Norm.at(inputs, output, x, args[1], args[7], args[6], x.ndim - 1)


def _out_of_place(node: Node) -> None:
    """Replace an operation in place, of which torch's own decompositions leave a few, by its plain form.

    Raises:
        SpectralError: what it overwrites is used elsewhere, or it has no plain form.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    name = schema.name.split("::")[1]
    plain = getattr(getattr(aten, name.removesuffix("_"), None), schema.overload_name or "default", None)
    if not name.endswith("_") or plain is None or len(node.all_input_nodes[0].users) > 1:
        raise SpectralError(f"the operation {name} overwrites its input")
    node.target = plain


def _needed(steps: list[Step], result: int | None) -> list[Step]:
    """The steps that the result depends on."""
    wanted = {result}
    kept = []
    for step in reversed(steps):
        if step.output in wanted:
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _fold(before: Step, step: Step) -> Step | None:
    """A scale of channels folded into the convolution it follows."""
    if isinstance(before, Convolution) and isinstance(step, Diagonal):
        scale = _channel_scale(step.slope, before)
        return None if scale is None else before.scaled(scale, step.output)
    return None


def _merge(before: Step, step: Step) -> Step | None:
    """Consecutive gates and slopes of one size as their product."""
    if isinstance(before, Diagonal) and isinstance(step, Diagonal) and before.keeps_size and step.keeps_size:
        return replace(before, output=step.output, slope=before.slope * step.slope)
    return None


def _gate(before: Step, step: Step) -> Step | None:
    """A gate applied by the convolution it follows."""
    if not (isinstance(before, Convolution) and isinstance(step, Diagonal) and before.slope is None):
        return None
    if step.slope.shape != before.output_size:
        return None
    return replace(before, output=step.output, slope=step.slope)


def _joined(steps: list[Step], result: int | None, join: Callable[[Step, Step], Step | None]) -> list[Step]:
    """The steps with each one joined, where `join` can, to the one before it whose output it alone uses."""
    uses = [i for step in steps for i in step.inputs] + [-1 if result is None else result]
    made: dict[int, int] = {}
    kept: list[Step | None] = []
    for step in steps:
        before = made.get(step.inputs[0]) if len(step.inputs) == 1 else None
        maker = None if before is None else kept[before]
        if before is not None and maker is not None and uses.count(step.inputs[0]) == 1:
            both = join(maker, step)
            if both is not None:
                kept[before] = both
                made[step.output] = before
                continue
        made[step.output] = len(kept)
        kept.append(step)
    return [step for step in kept if step is not None]


def _hand_gates(steps: list[Step], result: int | None) -> None:
    """Gates of convolutions that cannot take bits, left to one behind them that can."""
    users = users_of(steps, result)
    for step in steps:
        (user, *others) = users[step.output]
        if not (isinstance(step, Convolution) and isinstance(user, Convolution)) or others:
            continue
        bits = step.slope is not None and step.slope.dtype == torch.int8
        alike = user.slope is None or user.slope.dtype == torch.int8
        if bits and alike and user.by_winograd and not step.by_winograd:
            step.slope, user.slope_in = None, step.slope


def _without_concatenations(steps: list[Step], result: int | None) -> list[Step]:
    """Concatenations of channels that one convolution alone looks at, left to its parts."""
    users = users_of(steps, result)
    left: dict[int, tuple[tuple[int, ...], list[slice]]] = {}
    kept: list[Step] = []
    for step in steps:
        (user, *others) = users[step.output]
        plain = isinstance(user, Convolution) and not user.transposed and user.groups == 1
        channels = _channels_of_parts(step) if plain and not others else None
        if channels is not None:
            left[step.output] = (step.inputs, channels)
        elif isinstance(step, Convolution) and step.inputs[0] in left:
            kept.append(_joint(step, *left[step.inputs[0]]))
        else:
            kept.append(step)
    return kept


def _channels_of_parts(step: Step) -> list[slice] | None:
    """Where each input of a concatenation of images' channels comes to lie; None for any other step."""
    if not (isinstance(step, Linear) and step.function.target is aten.cat.default):
        return None
    *parts, dim = step.function.leaves
    if dim not in (1, -3) or any(len(size) != 4 for size in step.sizes):
        return None
    channels, at = {}, 0
    for part in parts:
        width = step.sizes[part.i][1] if isinstance(part, Input) else part.shape[1]
        if isinstance(part, Input):
            if part.i in channels:
                return None
            channels[part.i] = slice(at, at + width)
        at += width
    return [channels[i] for i in range(len(step.inputs))]


def _joint(step: Convolution, inputs: tuple[int, ...], channels: list[slice]) -> Step:
    """The convolution of a concatenation from its parts; what is constant in it has no derivative."""
    images, _, *sides = step.input_size
    parts = [
        replace(
            step,
            inputs=(i,),
            weight=step.weight[:, part],
            input_size=torch.Size((images, part.stop - part.start, *sides)),
        )
        for i, part in zip(inputs, channels, strict=True)
    ]
    return parts[0] if len(parts) == 1 else Joint(inputs, step.output, parts)


def _keep_gates(steps: list[Step], dtype: torch.dtype) -> None:
    """Gates as their steps apply them fastest: bits, or numbers as long as those are not too many to keep."""
    gated = [
        (part, name, gate, isinstance(part, Convolution) and part.by_winograd)
        for part in parts_of(steps)
        for name in ("slope", "slope_in")
        if isinstance(gate := getattr(part, name, None), Tensor) and gate.dtype == torch.int8
    ]
    numbers = {id(gate): gate.numel() for *_, gate, in_bits in gated if not in_bits}
    other = dtype if sum(numbers.values()) <= GATES_AS_FLOATS else torch.int8
    kept: dict[tuple[int, bool], Tensor] = {}
    for part, name, gate, in_bits in gated:
        key = id(gate), in_bits
        if key not in kept:
            kept[key] = packed(gate) if in_bits else gate.to(other)
        setattr(part, name, kept[key])


def _is_fixed_batch_norm(node: Any) -> bool:
    """Whether a node is a batch norm in evaluation mode."""
    name = str(node.target)
    return "batch_norm" in name and ("no_training" in name or (len(node.args) > 5 and node.args[5] is False))


def _channel_scale(slope: Tensor, convolution: Convolution) -> Tensor | None:
    """The slope as one number a channel, or None where it is not."""
    if convolution.transposed and convolution.groups > 1:
        return None
    size = convolution.output_size
    padded = (1,) * (len(size) - slope.ndim) + tuple(slope.shape)
    if len(padded) != len(size) or any(s != 1 for axis, s in enumerate(padded) if axis != 1):
        return None
    return slope.reshape(-1).expand(size[1])


def _dim(node: Node) -> int:
    """The axis along which a node slices or concatenates."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)  # type: ignore[return-value]


Sizes = tuple[torch.Size, ...]


def _back(node: Node) -> Callable[[Tensor, Sizes], tuple[Tensor, ...]] | None:
    """The transpose of an operation on images in closed form, for those met most often."""
    if node.target is aten.cat.default and len(set(node.args[0])) == len(node.args[0]):  # type: ignore[arg-type]
        dim = _dim(node)
        return lambda g, sizes: g.split([size[dim] for size in sizes], dim)
    if node.target is aten.avg_pool2d.default:
        given: list[Any] = [*node.args[1:]]
        given += [[], [0, 0], False, True, None][len(given) - 1 :]
        kernel, stride, padding, *rest = given

        def pool(g: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
            like = torch.empty(sizes[0], dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
            return (aten.avg_pool2d_backward(channels_last(g), like, kernel, stride, padding, *rest),)

        return pool
    if node.target is aten.upsample_nearest2d.default:
        side, *scales = node.args[1:]
        return lambda g, sizes: (aten.upsample_nearest2d_backward(g, side, list(sizes[0]), *scales),)
    return None


_POINTWISE = {
    getattr(aten, name).default
    for name in (
        *("relu", "silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "leaky_relu", "mish", "hardswish"),
        *("hardtanh", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "abs", "reciprocal", "erf", "clamp"),
    )
} | {aten.pow.Tensor_Scalar}

_OF_IMAGES = {
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

_LINEAR = _OF_IMAGES | {
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.clone.default,
    aten.select.int,
    aten.stack.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.flip.default,
    aten.roll.default,
    aten.mul.Scalar,
    aten.div.Scalar,
}

# Views for their copies, of which torch.vmap knows none; and reshapes, since tangents may lie in another
# layout than the values did: channels last.
_VIEWS: dict[Any, Any] = {
    **dict.fromkeys(
        (aten.view.default, aten._unsafe_view.default, aten.view_copy.default, aten._reshape_copy.default),
        aten.reshape.default,
    ),
    aten.permute_copy.default: aten.permute.default,
    aten.transpose_copy.int: aten.transpose.int,
    aten.unsqueeze_copy.default: aten.unsqueeze.default,
    aten.squeeze_copy.dim: aten.squeeze.dim,
    aten.expand_copy.default: aten.expand.default,
    aten.slice_copy.Tensor: aten.slice.Tensor,
    aten.select_copy.int: aten.select.int,
    aten.split_copy.Tensor: aten.split.Tensor,
    aten.split_with_sizes_copy.default: aten.split_with_sizes.default,
    aten.unbind_copy.int: aten.unbind.int,
}

_NORMS = {aten.native_group_norm.default, aten.native_layer_norm.default}

# Of one input, and linear in each of their outputs.
_TUPLES = {aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}

_BILINEAR = {aten.mm.default, aten.bmm.default}
