"""The Jacobian at one input as a program of linear steps with constants.

At a fixed y the derivative of a network is a fixed linear map: convolutions, gates (the 0-1 slopes of ReLU),
local slopes of smooth units, poolings, concatenations.  `record` runs the network once under torch's tracer
and keeps, of each operation that y reaches, only what its derivative needs:

    Convolution   t -> w * t            transpose: with flipped kernels where the stride is 1
    Diagonal      t -> s t              slopes of pointwise units, and products with constants
    Sum           t_1, t_2 -> t_1 + a t_2
    Linear        t -> op(t)            an operation linear in what y reaches; transpose by torch's vjp of it
    Local         t -> d op (t)         any other operation: torch's jvp and vjp of that one, at its inputs

A scale of channels that follows a convolution (batch norm in eval mode) is folded into its kernels.  No
activation is kept but the gates and slopes, and a product costs about its convolutions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.errors import SpectralError

aten = torch.ops.aten

GATES_AS_FLOATS = 1 << 30  # bytes; beyond, gates are kept as bytes, which multiply more slowly


class Step(Protocol):
    """One linear map of the program, from the slots `inputs` to the slot `output`."""

    inputs: tuple[int, ...]
    output: int

    def apply(self, *tangents: Tensor) -> Tensor:
        """The derivative of the operation, applied to tangents of its inputs."""

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """Its transpose: a cotangent for each input."""


@dataclass
class Convolution:
    """t -> w * t, of any stride, padding, dilation, groups and dimension, transposed or not."""

    inputs: tuple[int, ...]
    output: int
    weight: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int
    input_size: torch.Size
    output_size: torch.Size
    back: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.weight = _channels_last(self.weight)
        self.back = self._transposed_arguments()

    def apply(self, *tangents: Tensor) -> Tensor:
        """w * t."""
        return aten.convolution(
            tangents[0],
            self.weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """w' * g."""
        weight, *rest = self.back
        return (aten.convolution(g, weight, None, *rest),)

    def scaled(self, scale: Tensor, output: int) -> Convolution:
        """The convolution followed by a scale of its output channels (channels,)."""
        out_axis = 1 if self.transposed else 0
        shape = [1] * self.weight.ndim
        shape[out_axis] = -1
        return replace(self, output=output, weight=self.weight * scale.view(shape))

    def _transposed_arguments(self) -> tuple[Any, ...]:
        axes = range(self.weight.ndim - 2)
        none = [0] * len(axes)
        if self.transposed:
            return self.weight, self.stride, self.padding, self.dilation, False, none, self.groups
        kernel = self.weight.shape[2:]
        reach = [self.dilation[i] * (kernel[i] - 1) - self.padding[i] for i in axes]
        if self.groups == 1 and max(self.stride) == 1 and min(reach) >= 0:
            # As a plain convolution, which is the faster kernel on CPUs and GPUs alike.
            flipped = self.weight.flip(*range(2, self.weight.ndim)).transpose(0, 1)
            return _channels_last(flipped), self.stride, reach, self.dilation, False, none, 1
        lost = [
            self.input_size[2 + i]
            - (self.output_size[2 + i] - 1) * self.stride[i]
            - 1
            - reach[i]
            + self.padding[i]
            for i in axes
        ]
        return self.weight, self.stride, self.padding, self.dilation, True, lost, self.groups


@dataclass
class Diagonal:
    """t -> s t, s broadcast; in place where nobody else looks (`owns_tangent`, `owns_cotangent`)."""

    inputs: tuple[int, ...]
    output: int
    slope: Tensor
    input_size: torch.Size
    owns_tangent: bool = False
    owns_cotangent: bool = False

    def apply(self, *tangents: Tensor) -> Tensor:
        """s t."""
        return tangents[0].mul_(self.slope) if self.owns_tangent else tangents[0] * self.slope

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """s g, summed over what t was broadcast to."""
        g = g.mul_(self.slope) if self.owns_cotangent else g * self.slope
        return (g.sum_to_size(self.input_size),)


@dataclass
class Sum:
    """t_1, t_2 -> a_1 t_1 + a_2 t_2, broadcast; or one of them alone."""

    inputs: tuple[int, ...]
    output: int
    weights: tuple[float, ...]
    sizes: tuple[torch.Size, ...]
    output_size: torch.Size

    def apply(self, *tangents: Tensor) -> Tensor:
        """sum a_i t_i."""
        first, *rest = (t if a == 1 else a * t for a, t in zip(self.weights, tangents, strict=True))
        return first + rest[0] if rest else first.expand(self.output_size)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """a_i g."""
        pairs = zip(self.weights, self.sizes, strict=True)
        return tuple((g if a == 1 else a * g).sum_to_size(size) for a, size in pairs)


@dataclass
class Linear:
    """t -> op(t) for an operation that is linear, without constant, in what y reaches."""

    inputs: tuple[int, ...]
    output: int
    function: Callable[..., Tensor]
    zeros: tuple[Tensor, ...]

    def apply(self, *tangents: Tensor) -> Tensor:
        """op(t)."""
        return self.function(*tangents)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """op' g, by torch's vjp of the operation at zero."""
        return torch.func.vjp(self.function, *self.zeros)[1](g)


@dataclass
class Local:
    """t -> d op (t) at the operation's inputs, which are kept."""

    inputs: tuple[int, ...]
    output: int
    function: Callable[..., Tensor]
    primals: tuple[Tensor, ...]

    def apply(self, *tangents: Tensor) -> Tensor:
        """d op (t), by torch's jvp."""
        return torch.func.jvp(self.function, self.primals, tangents)[1]

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """(d op)' g, by torch's vjp."""
        return torch.func.vjp(self.function, *self.primals)[1](g)


@dataclass
class Program:
    """Steps in the order of the network; slot 0 is the input, `result` the output's slot (None: constant)."""

    steps: list[Step]
    result: int | None
    input_size: torch.Size
    output: Tensor

    def __post_init__(self) -> None:
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            last.update(dict.fromkeys(step.inputs, at))
        self._dead = [[i for i in set(step.inputs) if last[i] == at] for at, step in enumerate(self.steps)]
        self._own()

    def _own(self) -> None:
        """Let gates work in place on what a convolution has just made for them alone."""
        makers = {step.output: step for step in self.steps}
        users: dict[int | None, list[Step | None]] = {self.result: [None]}  # the caller's
        for step in self.steps:
            for i in step.inputs:
                users.setdefault(i, []).append(step)
        for step in self.steps:
            if not isinstance(step, Diagonal):
                continue
            (before,), after = step.inputs, users[step.output]
            if torch.broadcast_shapes(step.slope.shape, step.input_size) == step.input_size:
                step.owns_tangent = len(users[before]) == 1 and isinstance(makers.get(before), Convolution)
                step.owns_cotangent = len(after) == 1 and isinstance(after[0], Convolution)

    def apply(self, v: Tensor) -> Tensor:
        """J v for v of the input's shape."""
        if self.result is None:
            return torch.zeros_like(self.output)
        slots = {0: v}
        for step, dead in zip(self.steps, self._dead, strict=True):
            slots[step.output] = step.apply(*(slots[i] for i in step.inputs))
            for i in dead:
                if i != self.result:
                    del slots[i]
        return slots[self.result]

    def transpose(self, u: Tensor) -> Tensor:
        """J' u for u of the output's shape."""
        slots = {} if self.result is None else {self.result: u}
        for step in reversed(self.steps):
            g = slots.pop(step.output, None)
            if g is None:
                continue
            for i, h in zip(step.inputs, step.transpose(g), strict=True):
                slots[i] = slots[i] + h if i in slots else h
        return slots[0] if 0 in slots else u.new_zeros(self.input_size)

    def describe(self) -> str:
        """How many steps of each kind."""
        kinds = [type(step).__name__.lower() for step in self.steps]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def record(function: Callable[[Tensor], Tensor], y: Tensor) -> Program:
    """The program of `function`'s derivative at y.

    Raises whatever torch's tracer raises where it cannot follow (control flow that depends on data).
    """

    def of_one(x: Tensor) -> Tensor:  # the tracer looks at signatures, and options confuse it
        return function(x)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        traced = make_fx(functionalize(of_one, remove="mutations_and_views"))(y)
        return _Recorder(traced, y).run()


class _Recorder:
    """Runs the traced graph at y once, with values, and turns each operation that y reaches into a step."""

    def __init__(self, traced: GraphModule, y: Tensor) -> None:
        self.traced, self.y = traced, y
        self.values: dict[Node, Any] = {}
        self.slots: dict[Node, int] = {}
        self.steps: list[Step] = []
        self.gate_bytes = 0

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
        output = self.values[result]
        slot = self.slots.get(result)
        return Program(_folded(_needed(self.steps, slot), slot), slot, self.y.shape, output)

    def _call(self, node: Node) -> None:
        _out_of_place(node)
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
                self._function(node, reached),
            )

    def _entry(self, node: Node, args: tuple[Any, ...]) -> None:
        """An entry of an operation's tuple of outputs."""
        (value, primals, reached, function), index = args
        entry = self.values[node] = value[index]
        if not (isinstance(entry, Tensor) and entry.is_floating_point()):
            return
        inputs, output = tuple(self.slots[n] for n in reached), len(self.steps) + 1

        def alone(*x: Tensor) -> Tensor:
            return function(*x)[index]

        if index == 0 and len(primals) == 1 and _is_fixed_batch_norm(node.args[0]):
            # Its slope is a number a channel.
            slope = torch.func.vjp(alone, *primals)[1](torch.ones_like(entry))[0]
            channels = slope.transpose(0, 1).flatten(1)[:, 0].reshape(-1, *[1] * (entry.ndim - 2))
            self._add(node, Diagonal(inputs, output, channels.clone(), entry.shape))
        else:
            self._add(node, Local(inputs, output, alone, tuple(primals)))

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
                args[1],
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
            slope = _channels_last(self._slope(node, reached, primals[0]))
            step = Diagonal(inputs, output, slope, primals[0].shape)
        elif target in (aten.mul.Tensor, aten.div.Tensor) and len(factors) == 1:
            step = self._scale(node, reached[0], args, inputs, output, primals[0])
        elif target in (aten.add.Tensor, aten.sub.Tensor):
            sign = (-1 if target is aten.sub.Tensor else 1) * kwargs.get("alpha", 1)
            weights = dict.fromkeys(reached, 0.0)
            for n, weight in zip(node.args, (1, sign), strict=True):
                if n in weights:
                    weights[n] += weight  # type: ignore[index]
            sizes = tuple(p.shape for p in primals)
            step = Sum(inputs, output, tuple(weights.values()), sizes, value.shape)
        elif target in _LINEAR or (target in _BILINEAR and len(factors) == 1):
            zeros = tuple(p.new_zeros(()).expand(p.shape) for p in primals)
            step = Linear(inputs, output, self._function(node, reached), zeros)
        else:
            step = Local(inputs, output, self._function(node, reached), primals)
        self._add(node, step)

    def _add(self, node: Node, step: Step) -> None:
        self.steps.append(step)
        self.slots[node] = step.output

    def _function(self, node: Node, reached: list[Node]) -> Callable[..., Any]:
        """The operation as a function of what y reaches, all else held."""
        held = {n: self.values[n] for n in node.all_input_nodes if n not in reached}

        def function(*primals: Tensor) -> Any:
            values = held | dict(zip(reached, primals, strict=True))
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            return node.target(*args, **kwargs)  # type: ignore[operator]

        return function

    def _slope(self, node: Node, reached: list[Node], x: Tensor) -> Tensor:
        """The local slope of a pointwise unit; a gate where the unit is a ReLU."""
        if node.target is not aten.relu.default:
            return torch.func.vjp(self._function(node, reached), x)[1](torch.ones_like(x))[0]
        self.gate_bytes += x.numel() * x.element_size()
        gate = x > 0
        return gate.to(x.dtype) if self.gate_bytes <= GATES_AS_FLOATS else gate

    def _scale(
        self, node: Node, reached: Node, args: Any, inputs: tuple[int, ...], output: int, x: Tensor
    ) -> Step:
        first = node.args[0] is reached
        if node.target is aten.div.Tensor and not first:  # c / x
            return Local(inputs, output, self._function(node, [reached]), (x,))
        constant = torch.as_tensor(args[1] if first else args[0], dtype=x.dtype, device=x.device)
        slope = constant if node.target is aten.mul.Tensor else 1 / constant
        return Diagonal(inputs, output, slope, x.shape)


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


def _folded(steps: list[Step], result: int | None) -> list[Step]:
    """Scales of channels folded into the convolutions they follow."""
    uses = [i for step in steps for i in step.inputs] + [-1 if result is None else result]
    made: dict[int, int] = {}
    kept: list[Step | None] = []
    for step in steps:
        before = made.get(step.inputs[0]) if isinstance(step, Diagonal) else None
        maker = None if before is None else kept[before]
        if isinstance(step, Diagonal) and isinstance(maker, Convolution) and uses.count(step.inputs[0]) == 1:
            scale = _channel_scale(step.slope, maker)
            if scale is not None and before is not None:
                kept[before] = maker.scaled(scale, step.output)
                made[step.output] = before
                continue
        made[step.output] = len(kept)
        kept.append(step)
    return [step for step in kept if step is not None]


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


def _channels_last(t: Tensor) -> Tensor:
    """Two-dimensional convolutions run up to twice as fast in this layout, and their gates must share it."""
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.contiguous()


_POINTWISE = {
    getattr(aten, name).default
    for name in (
        *("relu", "silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "leaky_relu", "mish", "hardswish"),
        *(
            "hardtanh",
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "sin",
            "cos",
            "abs",
            "reciprocal",
            "erf",
            "neg",
            "clamp",
        ),
    )
} | {aten.pow.Tensor_Scalar}

_LINEAR = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.view_copy.default,
    aten._reshape_copy.default,
    aten.permute.default,
    aten.permute_copy.default,
    aten.transpose.int,
    aten.transpose_copy.int,
    aten.unsqueeze.default,
    aten.unsqueeze_copy.default,
    aten.squeeze.dim,
    aten.squeeze_copy.dim,
    aten.expand.default,
    aten.expand_copy.default,
    aten.clone.default,
    aten.slice.Tensor,
    aten.slice_copy.Tensor,
    aten.select.int,
    aten.select_copy.int,
    aten.cat.default,
    aten.stack.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
    aten.avg_pool2d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.flip.default,
    aten.roll.default,
    aten.mul.Scalar,
    aten.div.Scalar,
}

_BILINEAR = {aten.mm.default, aten.bmm.default}
