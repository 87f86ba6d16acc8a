"""Attention written by hand, found while it is recorded: a product, scales and masks, softmax, a product.

Of a softmax of such scores the weights are not kept: what they are made of is (`SoftmaxOfScores`).  What is
added to the scores, a mask or a bias, is found by difference: S - s q k'.  The product of these weights with
values is `Attention`, in place of all the steps on the way from q, k and v; unless anything else looks at
them they are left out.  Nothing here is taken on trust: weights are formed anew and held against those that
were met, and the step against those that it replaces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spectral.jacobians.program.rules.attention import Attention, Given, Role, Weights, working
from spectral.jacobians.program.rules.pointwise import Diagonal, Sum
from spectral.jacobians.program.rules.products import Matmul, Softmax
from spectral.jacobians.program.slopes import factor
from spectral.jacobians.program.steps import Linear, Step, aten
from spectral.jacobians.program.storage import Cast

FILLED = -1e3  # what is added to hide a key is less, if it is not -inf itself
ROUNDING = 16  # roundings by which an entry of q k' may differ from itself, relative to |q| |k|

Makers = Mapping[int, Step]

_MOVES = {
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.expand.default,
    aten.t.default,
}


@dataclass
class SoftmaxOfScores(Step):
    """t -> P o (t - sum P o t), P of the scores of queries and keys, formed when it is needed.

    Attributes:
        weights: P, (N, queries, keys).
        scale: s, one number or (N, 1, 1).
        given: how q and k are given, by the slots `sources`.
        size, dtype: of the softmax, whose last axis counts keys, or queries where it is `turned`.
    """

    weights: Weights
    scale: Tensor
    sources: tuple[int, ...]
    given: dict[Role, Given]
    size: torch.Size
    dtype: torch.dtype
    turned: bool

    def formed(self) -> Softmax:
        """The softmax that keeps its weights."""
        size = (*self.size[:-2], *self.weights.size[1:])
        P = self.weights.whole().to(self.dtype).reshape(size)
        return Softmax(self.inputs, self.output, P.mT if self.turned else P, -2 if self.turned else -1)

    def apply(self, *tangents: Tensor) -> Tensor:
        """P o (t - sum P o t)."""
        return self.formed().apply(*tangents)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return self.formed().transpose(g)


class Found(NamedTuple):
    """A step, and those that it stands for, in order; the last is what it replaces."""

    step: Attention
    stands_for: list[Step]


def scores(softmax: Softmax, x: Tensor, makers: Makers) -> SoftmaxOfScores | None:
    """A softmax of x by what its weights are made of, where x are scores of queries and keys."""
    path = _path(softmax.inputs[0], makers, Matmul)
    if path is None or softmax.axis < -2 or x.ndim < 2:
        return None
    product, *between = path
    assert isinstance(product, Matmul)
    way = _way(product, between)
    if way is None or not _shut_alone(way.gates, between, softmax.value):
        return None
    left, right = product.left, product.right.mT
    first = int(product.reached[0])
    of_left = Given(0, product.left.shape, False, product.left.dtype)
    of_right = Given(first, product.right.shape, True, product.right.dtype)
    turned = softmax.axis == -2
    factors = [(left, of_left, product.reached[0]), (right, of_right, product.reached[1])]
    if turned != way.turned:  # softmax over rows of the product
        factors.reverse()
    (q, of_q, to_q), (k, of_k, to_k) = factors
    given: dict[Role, Given] = {}
    if to_q:
        given["q"] = of_q
    if to_k:
        given["k"] = of_k
    work = working(torch.promote_types(x.dtype, q.dtype))
    rounding = max(torch.finfo(t.dtype).eps for t in (x, q))
    q, k = (t.to(work).reshape(-1, *t.shape[-2:]) for t in (q, k))
    scale = way.scale.to(q)
    met, P = (t.mT if turned else t for t in (x.to(work), softmax.value))
    weights = _weights(q * scale, k, met, P, rounding)
    if weights is None or not _alike(weights, P, rounding):
        return None
    return SoftmaxOfScores(
        softmax.inputs, softmax.output, weights, scale, product.inputs, given, x.shape, P.dtype, turned
    )


def attention(product: Matmul, makers: Makers) -> Found | None:
    """Attention in place of the product of a softmax of scores with values."""
    slots = iter(product.inputs)
    sides = [next(slots) if reached else None for reached in product.reached]
    for side, slot in enumerate(sides):
        path = None if slot is None else _path(slot, makers, SoftmaxOfScores)
        if path is None:
            continue
        softmax, *between = path
        assert isinstance(softmax, SoftmaxOfScores)
        P, values = (product.left, product.right) if side == 0 else (product.right.mT, product.left.mT)
        turned = _turned_by(between, softmax.size)
        # P v, or its transpose v' P': queries come first in P here.
        if product.scale != 1 or turned is None or (turned != (side == 1)) != softmax.turned:
            continue
        rounding = max(torch.finfo(dtype).eps for dtype in (P.dtype, softmax.dtype))
        if not _alike(softmax.weights, P, rounding):
            continue
        inputs, given = softmax.sources, dict(softmax.given)
        other = sides[1 - side]
        if other is not None:
            size, dtype = (t := (product.right, product.left)[side]).shape, t.dtype
            given["v"] = Given(len(inputs), size, side == 1, dtype)
            inputs = (*inputs, other)
        size = torch.Size((*product.left.shape[:-1], product.right.shape[-1]))
        result = Given(-1, size, side == 1, product.left.dtype)
        v = values.reshape(-1, *values.shape[-2:])
        step = Attention.at(inputs, product.output, softmax.weights, v, softmax.scale, given, result)
        before = _path(softmax.inputs[0], makers, Matmul)
        assert before is not None
        return Found(step, [*before, *path, product])
    return None


class _Way(NamedTuple):
    """From a product of matrices to a softmax: whether it turns them, what it scales by, which steps mask."""

    turned: bool
    scale: Tensor
    gates: list[int]


def _path(slot: int, makers: Makers, kind: type) -> list[Step] | None:
    """The steps to a slot from one of a kind, that being the first, where each has one input."""
    path: list[Step] = []
    while (step := makers.get(slot)) is not None:
        path.append(step)
        if isinstance(step, kind):
            return path[::-1]
        if len(step.inputs) > 1 or not isinstance(step, (Cast, Linear, Diagonal, Sum)):
            return None
        slot = step.inputs[0]
    return None


def _way(product: Matmul, between: list[Step]) -> _Way | None:
    """What lies between a product and a softmax of it, but for what is added."""
    size = torch.Size((*product.left.shape[:-1], product.right.shape[-1]))
    t: Tensor | None = torch.empty(size, device="meta")
    scale = torch.tensor(product.scale, dtype=torch.float64, device=product.left.device)
    gates = []
    for i, step in enumerate(between):
        assert t is not None
        gain = _gain(step, t, size)
        if gain is not None:
            scale = scale * gain
        elif _masks(step, t.shape):
            gates.append(i)
        else:
            t = _moved(t, step)
        if t is None:
            return None
    assert t is not None
    turned = _turned(t, size)
    return None if turned is None else _Way(turned, scale, gates)


def _gain(step: Step, t: Tensor, size: torch.Size) -> Tensor | None:
    """The number by which a step multiplies all scores, or one for each head, (N, 1, 1)."""
    if isinstance(step, Sum) and step.sizes == (step.output_size,):
        return torch.tensor(step.weights[0], dtype=torch.float64)
    if isinstance(step, Linear) and step.function.target in (aten.mul.Scalar, aten.div.Scalar):
        return step.function(torch.ones((), dtype=torch.float64))
    if not isinstance(step, Diagonal) or not step.keeps_size or step.slope.is_complex():
        return None
    slope = factor(step.slope).double()
    if slope.numel() == 1:
        return slope.reshape(())
    if slope.ndim < 2 or slope.shape[-2:].numel() > 1 or _turned(t, size) is None:
        return None
    return slope.expand(*t.shape[:-2], 1, 1).reshape(-1, 1, 1)


def _masks(step: Step, size: torch.Size) -> bool:
    """Whether a step may leave out entries, and leaves the others as they are."""
    if isinstance(step, Diagonal):
        return step.keeps_size
    return isinstance(step, Linear) and step.function.target is aten.where.self and step.sizes == (size,)


def _shut_alone(gates: list[int], between: list[Step], value: Tensor) -> bool:
    """Whether masks are ones but where the weights are zeros."""
    for i in gates:
        step = between[i]
        size = step.input_size if isinstance(step, Diagonal) else step.sizes[0]  # type: ignore[attr-defined]
        gate = step.apply(value.new_ones(()).expand(size))
        for move in between[i + 1 :]:
            if isinstance(move, Linear) and move.function.target in _MOVES:
                gate = move.function(gate)
        if gate.shape != value.shape or not bool(((gate == 1) | (value == 0)).all()):
            return False
    return True


def _moved(t: Tensor, step: Step) -> Tensor | None:
    """t as a step shows it; None where that is no view."""
    if isinstance(step, Cast):
        return t if not step.target.is_complex else None
    if not (isinstance(step, Linear) and step.function.target in _MOVES and len(step.inputs) == 1):
        return None
    shown = step.function(t)
    return shown if shown.untyped_storage()._cdata == t.untyped_storage()._cdata else None


def _turned_by(between: list[Step], size: torch.Size) -> bool | None:
    """Whether steps make transposes of matrices (*size), or leave them; None where they do neither."""
    t: Tensor | None = torch.empty(size, device="meta")
    for step in between:
        t = None if t is None else _moved(t, step)
    return None if t is None else _turned(t, size)


def _turned(t: Tensor, size: torch.Size) -> bool | None:
    """Whether t, a view of contiguous matrices (*size), shows their transposes, or them as they are."""
    n, m = size[-2:]
    heads = size[:-2].numel()
    if t.ndim < 2 or t.shape[:-2].numel() != heads or t.numel() != size.numel():
        return None
    expected = n * m
    for length, stride in zip(reversed(t.shape[:-2]), reversed(t.stride()[:-2]), strict=True):
        if length != 1 and stride != expected:
            return None
        expected *= length
    for turned, shape, strides in ((False, (n, m), (m, 1)), (True, (m, n), (1, m))):
        along = zip(t.shape[-2:], t.stride()[-2:], strides, strict=True)
        if t.shape[-2:] == shape and all(length == 1 or ours == theirs for length, ours, theirs in along):
            return turned
    return None


def _weights(q: Tensor, k: Tensor, x: Tensor, P: Tensor, rounding: float) -> Weights | None:
    """Weights P of queries q, scaled, and keys k, with scores x (*batch, n, m), masks and biases found."""
    n, m, batch = q.shape[1], k.shape[1], x.shape[:-2]
    if min(q.numel(), k.numel()) == 0 or batch.numel() != len(q) or x.shape[-2:] != (n, m):
        return None
    rough = Weights.at(q, k, batch, None, False)
    most = torch.linalg.vector_norm(q, dim=-1).max() * torch.linalg.vector_norm(k, dim=-1).max()
    within = ROUNDING * rounding * (float(most) + 1)
    flat = x.reshape(-1, n, m)
    # S - l and x differ by l alone where nothing is added.
    plain = all(
        bool(
            (flat[tile] - rough.exponents(tile) + rough.q[tile.heads, tile.rows, -1:]).abs().le(within).all()
        )
        for tile in rough.tiles()
    )
    if plain:
        return rough
    added = (flat - q @ k.mT).view(x.shape)
    added.masked_fill_((P == 0) & (added < FILLED), -math.inf)
    for axis in range(added.ndim):
        first = added.narrow(axis, 0, 1)
        if bool(((added == first) | ((added - first).abs() <= within)).all()):
            added = first
    hidden = added == -math.inf
    if bool((hidden | (added.abs() <= within)).all()):
        added = ~hidden
    return Weights.at(q, k, batch, added.clone(), False)


def _alike(weights: Weights, P: Tensor, rounding: float) -> bool:
    """Whether the weights are P, (..., queries, keys), but for rounding."""
    if P.shape[-2:] != weights.size[1:] or P.numel() != weights.size.numel():
        return False
    flat, within = P.reshape(weights.size), min(1e3 * rounding, 0.1) * float(P.max())
    return all(bool((weights.of(tile) - flat[tile]).abs().le(within).all()) for tile in weights.tiles())


def through(steps: list[Step], tangents: dict[int, Tensor]) -> Tensor:
    """What steps make of the tangents in some slots."""
    slots = dict(tangents)
    for step in steps:
        slots[step.output] = step.apply(*(slots[i] for i in step.inputs))
    return slots[steps[-1].output]


def back_through(steps: list[Step], g: Tensor) -> dict[int, Tensor]:
    """The transpose: the cotangents of the slots that steps begin with."""
    slots = {steps[-1].output: g}
    for step in reversed(steps):
        for i, part in zip(step.inputs, step.transpose(slots.pop(step.output)), strict=True):
            slots[i] = slots[i] + part if i in slots else part
    return slots


def settled(step: Step) -> Step:
    """A step that was kept for attention to be made of it, as products need it."""
    if isinstance(step, SoftmaxOfScores):
        return step.formed()
    return step.lean() if isinstance(step, Matmul) else step
