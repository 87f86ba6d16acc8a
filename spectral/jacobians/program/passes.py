"""Rewriting passes: what makes of the steps as they were recorded the program that is fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.program.convolution import Convolution, Joint
from spectral.jacobians.program.program import parts_of, users_of
from spectral.jacobians.program.rules.norms import Norm
from spectral.jacobians.program.rules.pointwise import Diagonal, Sum
from spectral.jacobians.program.rules.products import Matmul
from spectral.jacobians.program.rules.shapes import in_line
from spectral.jacobians.program.slopes import factor, is_gate, product, shape_of
from spectral.jacobians.program.steps import Input, Linear, Operation, Reshape, Step, aten
from spectral.jacobians.program.storage import Cast
from spectral.jacobians.program.trees import leaves

GATES_AS_FLOATS = 1 << 24  # entries; more stay gates: a small part of the memory, and slower to apply


def needed(steps: list[Step], result: int | None) -> list[Step]:
    """The steps that the result depends on."""
    wanted = {result}
    kept = []
    for step in reversed(steps):
        if step.output in wanted:
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def straightened(steps: list[Step]) -> tuple[list[Step] | None, bool]:
    """The steps with straight-through estimators differentiated as autograd does; None where there is none.

    x + (q(x) - x) has the value of q, and what autograd is told is the derivative of x: the rest is detached.
    It shows as a sum in which x cancels, be it computed once or each time; of that sum the part that is x
    alone is kept.  Also whether anything with a derivative is left out with it, that is whether q has one.
    """
    made: dict[int, dict[int, float]] = {}  # slots as sums a_i t_i
    first: dict[int, int] = {}  # of slots, the first that is computed alike
    known: dict[tuple[type[Step], tuple[int, ...]], list[Step]] = {}
    kept: list[Step] = []
    found = loose = False
    for step in steps:
        kept.append(step)
        others = known.setdefault((type(step), tuple(first.get(i, i) for i in step.inputs)), [])
        same = next((other for other in others if _alike(other, step)), None)
        if same is None:
            others.append(step)
        else:
            first[step.output] = same.output
        parts = [made.get(i, {first.get(i, i): 1.0}) for i in step.inputs]
        if isinstance(step, Cast):
            made[step.output] = parts[0]
        elif isinstance(step, Sum) and step.leading == "free":
            parts = [{i: a * b for i, b in part.items()} for a, part in zip(step.weights, parts, strict=True)]
            if len(parts) == 2:
                cancelled = {i for i in parts[0] if parts[0][i] == -parts[1].get(i, 0)}
                alone = [n for n, part in enumerate(parts) if cancelled and part.keys() <= cancelled]
                if alone:
                    n = max(alone, key=lambda n: min(parts[n].values()))
                    loose = loose or bool(parts[1 - n].keys() - cancelled)
                    at, parts, found = slice(n, n + 1), [parts[n]], True
                    one = step.inputs[at], step.output, step.weights[at], step.sizes[at]
                    kept[-1] = Sum(*one, step.output_size)
            terms = [term for part in parts for term in part.items()]
            made[step.output] = {i: sum(a for j, a in terms if j == i) for i, _ in terms}
    return (kept if found else None), loose


def _alike(one: Any, other: Any) -> bool:
    """Whether two steps, or what they hold, are the same but for their slots and their kernels."""
    if isinstance(one, Step):
        held = [f.name for f in fields(one) if f.compare and f.name[0] != "_"]
        held = [name for name in held if name not in ("inputs", "output")]
        return all(_alike(getattr(one, name), getattr(other, name)) for name in held)
    if isinstance(one, Operation):
        told = [(x.target, x.entry, *leaves(x.arguments)) for x in (one, other)]
        return one.target == other.target and _alike(*told)
    if isinstance(one, Tensor):
        return one is other or (isinstance(other, Tensor) and one.dtype == other.dtype and one.equal(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and (callable(one) or bool(one == other))


def _fold(before: Step, step: Step) -> Step | None:
    """A scale of channels folded into the convolution it follows."""
    if isinstance(before, Convolution) and isinstance(step, Diagonal) and step.keeps_size:
        scale = _channel_scale(step.slope, before)
        return None if scale is None else before.scaled(scale, step.output)
    return None


def _merge(before: Step, step: Step) -> Step | None:
    """Consecutive gates and slopes of one size as their product."""
    if isinstance(before, Diagonal) and isinstance(step, Diagonal) and before.keeps_size and step.keeps_size:
        return replace(before, output=step.output, slope=product(before.slope, step.slope))
    return None


def _slope(before: Step, step: Step) -> Step | None:
    """A slope applied by the norm it follows."""
    if not (isinstance(before, Norm) and isinstance(step, Diagonal) and step.keeps_size):
        return None
    if is_gate(step.slope) or step.slope.dtype != before.scale.dtype or step.input_size != before.z.shape:
        return None
    both = torch.broadcast_shapes(before.scale.shape, step.slope.shape).numel()
    if both > max(before.scale.numel(), step.slope.numel()):
        return None
    return before.followed_by(step.slope, step.output)


def _gate(before: Step, step: Step) -> Step | None:
    """A gate applied by the convolution it follows."""
    if not (isinstance(before, Convolution) and isinstance(step, Diagonal) and before.slope is None):
        return None
    if shape_of(step.slope) != before.output_size:
        return None
    return replace(before, output=step.output, slope=step.slope)


def _joined(steps: list[Step], result: int | None, join: Callable[[Step, Step], Step | None]) -> list[Step]:
    """The steps with each one joined, where `join` can, to the one before it whose output it alone uses."""
    uses = Counter([i for step in steps for i in step.inputs] + [-1 if result is None else result])
    made: dict[int, int] = {}
    kept: list[Step | None] = []
    for step in steps:
        before = made.get(step.inputs[0]) if len(step.inputs) == 1 else None
        maker = None if before is None else kept[before]
        if before is not None and maker is not None and uses[step.inputs[0]] == 1:
            both = join(maker, step)
            if both is not None:
                kept[before] = both
                made[step.output] = before
                continue
        made[step.output] = len(kept)
        kept.append(step)
    return [step for step in kept if step is not None]


def _one_shape(before: Step, step: Step) -> Step | None:
    """Consecutive changes of shape as the last one."""
    if not (isinstance(before, Reshape) and isinstance(step, Reshape)) or before.images or step.images:
        return None
    narrows = before.narrow, step.narrow

    def narrow(function: Operation, n: int, m: int) -> Operation | None:
        return function if all(one is not None and one(function, n, m) for one in narrows) else None

    return replace(before, output=step.output, function=step.function, narrow=narrow, after=step.after)


def _reshaped_behind(steps: list[Step], result: int | None, entries: dict[int, int]) -> list[Step]:
    """Rows that are laid out for a product with a matrix of weights, laid out behind it, where more is.

    A fully connected layer comes as a product of matrices, rows put together before it and apart after it.
    """
    users = users_of(steps, result)
    waiting: dict[int, Reshape] = {}
    kept: list[Step] = []
    for step in steps:
        (user, *others) = users[step.output]
        if isinstance(step, Reshape) and not others and _keeps_rows(step) and _is_layer(user):
            waiting[step.output] = step
        elif isinstance(step, Matmul) and step.inputs[0] in waiting:
            shape = waiting[step.inputs[0]]
            width, (between,) = step.right.shape[-1:], step.inputs
            sizes = (torch.Size((*shape.sizes[0][:-1], *width)),)
            after = torch.Size((*shape.after[:-1], *width))
            entries[between] = entries[step.output]
            kept.append(replace(step, inputs=shape.inputs, output=between))
            kept.append(replace(shape, inputs=(between,), output=step.output, sizes=sizes, after=after))
        else:
            kept.append(step)
    return kept


def _keeps_rows(step: Reshape) -> bool:
    """Whether the last axis stays as it is, and the one numbers of images do not hang on."""
    (size,) = step.sizes
    return not step.images and len(size) > 1 and len(step.after) > 1 and size[-1] == step.after[-1]


def _is_layer(step: Step | None) -> bool:
    """Whether it multiplies rows by a matrix of weights."""
    return isinstance(step, Matmul) and step.reached == (True, False) and step.right.ndim == 2


def _without_same_shapes(steps: list[Step], result: int | None) -> list[Step]:
    """The steps without changes of shape that change nothing."""
    same: dict[int, int] = {}
    kept = []
    for step in steps:
        step.inputs = tuple(same.get(i, i) for i in step.inputs)
        if isinstance(step, Reshape) and step.sizes[0] == step.after and step.output != result:
            same[step.output] = step.inputs[0]
        else:
            kept.append(step)
    return kept


def _hand_gates(steps: list[Step], result: int | None) -> None:
    """Gates of convolutions that cannot take bits, left to one behind them that can."""
    users = users_of(steps, result)
    for step in steps:
        (user, *others) = users[step.output]
        if not (isinstance(step, Convolution) and isinstance(user, Convolution)) or others:
            continue
        gated = step.slope is not None and is_gate(step.slope)
        alike = user.slope is None or is_gate(user.slope)
        if gated and alike and user.by_winograd and not step.by_winograd:
            step.slope, user.slope_in = None, step.slope


def _without_concatenations(steps: list[Step], result: int | None) -> list[Step]:
    """Concatenations of channels that one convolution alone looks at, left to its parts.

    Of one input and constants, left to any number of convolutions.
    """
    users = users_of(steps, result)
    left: dict[int, tuple[tuple[int, ...], list[slice]]] = {}
    kept: list[Step] = []
    for step in steps:
        after = users[step.output]
        plain = all(
            isinstance(user, Convolution) and not user.transposed and user.groups == 1 for user in after
        )
        few = len(after) == 1 or len(step.inputs) == 1
        channels = _channels_of_parts(step) if plain and few else None
        if channels is not None:
            left[step.output] = (step.inputs, channels)
        elif isinstance(step, Convolution) and step.inputs[0] in left:
            kept.append(_joint(step, *left[step.inputs[0]]))
        else:
            kept.append(step)
    return kept


def _channels_of_parts(step: Step) -> list[slice] | None:
    """Where each input of a concatenation of images' channels comes to lie; None for any other step."""
    if not (isinstance(step, Linear) and step.function.target in (aten.cat.default, in_line)):
        return None
    (parts, *axis), _ = step.function.arguments
    dim = axis[0] if axis else 0  # torch leaves out what is the default
    axes = len(step.sizes[0])  # a convolution looks at it, and has that many as well
    if dim % axes != 1:
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


def _keep_gates(steps: list[Step], dtype: torch.dtype | None) -> None:
    """Gates as their steps apply them fastest: bits, or numbers as long as those are not too many to keep."""
    gated = [
        (part, name, gate, isinstance(part, Convolution) and part.by_winograd)
        for part in parts_of(steps)
        for name in ("slope", "slope_in")
        if isinstance(gate := getattr(part, name, None), Tensor) and is_gate(gate)
    ]
    numbers = {id(gate): shape_of(gate).numel() for *_, gate, in_bits in gated if not in_bits}
    few = sum(numbers.values()) <= GATES_AS_FLOATS
    kept: dict[tuple[int, torch.dtype], Tensor] = {}
    for part, name, gate, in_bits in gated:
        own = part.weight.dtype if isinstance(part, Convolution) else dtype
        if not in_bits and few and own is not None:
            setattr(part, name, kept.setdefault((id(gate), own), factor(gate).to(own)))


def _channel_scale(slope: Tensor, convolution: Convolution) -> Tensor | None:
    """The slope as one number per channel, or None where it is not."""
    if convolution.transposed and convolution.groups > 1:
        return None
    size = convolution.output_size
    shape = shape_of(slope)
    padded = (1,) * (len(size) - len(shape)) + tuple(shape)
    if len(padded) != len(size) or any(s != 1 for axis, s in enumerate(padded) if axis != 1):
        return None
    return factor(slope).reshape(-1).expand(size[1])


def rewritten(
    steps: list[Step], result: int | None, dtype: torch.dtype | None, entries: dict[int, int]
) -> list[Step]:
    """The steps with scales folded into convolutions, gates joined to them, concatenations never made.

    Args:
        steps: in order, all needed; their inputs may be told anew.
        result: the slot of the output.
        dtype: of gates that are kept as numbers; None where tangents come in several.
        entries: of each slot, told anew where a slot gets another value.
    """
    steps = _reshaped_behind(steps, result, entries)
    steps = _without_same_shapes(_joined(steps, result, _one_shape), result)
    for join in (_fold, _merge, _slope):
        steps = _joined(steps, result, join)
    steps = _without_concatenations(_joined(steps, result, _gate), result)
    _hand_gates(steps, result)
    _keep_gates(steps, dtype)
    return steps
