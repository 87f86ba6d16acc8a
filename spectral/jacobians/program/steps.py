"""The linear maps a recorded program is made of.

    Convolution   t -> w * t            transpose: with flipped kernels where the stride is 1
    Diagonal      t -> s t              slopes of pointwise units, and products with constants
    Sum           t_1, t_2 -> t_1 + a t_2
    Norm          t -> s (t - mean t - z mean(z t))       group and layer norm; z the normalised input
    Pointwise     t_1, t_2 -> s_1 t_1 + s_2 t_2           products and quotients of two that y reaches
    Matmul        t_1, t_2 -> t_1 x_2 + x_1 t_2           the same for products of matrices
    Softmax       t -> s (t - sum s t)  s the softmax, which is its own transpose
    Gather        t -> t[where the maximum was]           maximum pooling
    Cast          t -> t in another precision
    Take          t -> t[index]         entries of a storage, as a view shows them
    Put           t_1, t_2 -> t_1 with t_2 in place of t_1[index]             a write through a view
    Linear        t -> op(t)            an operation linear in what y reaches; transpose by torch's vjp of it
    Local         t -> d op (t)         any other operation: torch's derivative of that one, at its inputs

A block of c vectors has a leading axis, (c, *size of one).  Each step says in `leading` how it takes that
axis: "free", its formulas hold with it as they are; "merged", it goes into the axis of images; "mapped", by
torch.vmap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from spectral.errors import SpectralError
from spectral.jacobians.lock import ALONE
from spectral.jacobians.program.slopes import channels_last, shape_of, times

aten = torch.ops.aten

Leading = Literal["free", "merged", "mapped"]
Forward = Literal["jvp", "vjp", "differences"]


class Step(Protocol):
    """One linear map of the program, from the slots `inputs` to the slot `output`."""

    inputs: tuple[int, ...]
    output: int

    @property
    def leading(self) -> Leading:
        """How a block's leading axis is taken."""

    def apply(self, *tangents: Tensor) -> Tensor:
        """The derivative of the operation, applied to tangents of its inputs."""

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """Its transpose: a cotangent for each input."""

    def to(self, dtype: torch.dtype) -> Step:
        """The step with its constants in another precision."""

    def select(self, index: Tensor, n: int) -> Step | None:
        """The step for some of the n inputs that the first axis counts; None where that cannot be told."""


@dataclass
class Diagonal:
    """t -> s t, s broadcast; in place where nobody else looks (`owns_tangent`, `owns_cotangent`).

    Gates, whose s is 0 or 1, are kept as bits or bytes (`slopes`).
    """

    inputs: tuple[int, ...]
    output: int
    slope: Tensor
    input_size: torch.Size
    owns_tangent: bool = False
    owns_cotangent: bool = False

    @property
    def keeps_size(self) -> bool:
        """Whether t is not broadcast to the slope's size."""
        return torch.broadcast_shapes(shape_of(self.slope), self.input_size) == self.input_size

    @property
    def leading(self) -> Leading:
        """Broadcasting aligns sizes at their ends, so that one more axis in front changes nothing."""
        return "free" if self.keeps_size else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """s t."""
        return times(tangents[0], self.slope, self.owns_tangent)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """s g, or its conjugate's product, summed over what t was broadcast to."""
        slope = self.slope.conj() if self.slope.is_complex() else self.slope
        if self.keeps_size:
            return (times(g, slope, self.owns_cotangent),)
        return (times(g, slope).sum_to_size(self.input_size),)

    def to(self, dtype: torch.dtype) -> Diagonal:
        """Slopes in another precision; gates stay as they are."""
        return replace(self, slope=cast(self.slope, dtype))

    def select(self, index: Tensor, n: int) -> Diagonal | None:
        """With the slopes of some inputs."""
        if not (self.keeps_size and counts(self.input_size, n)):
            return None
        whole = self.slope.ndim == len(self.input_size) and len(self.slope) == n
        slope = self.slope[index] if whole else self.slope
        return replace(self, slope=slope, input_size=some(self.input_size, index))


@dataclass
class Sum:
    """t_1, t_2 -> a_1 t_1 + a_2 t_2, broadcast; or one of them alone."""

    inputs: tuple[int, ...]
    output: int
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

    def to(self, dtype: torch.dtype) -> Sum:
        """Itself: the weights are Python numbers."""
        return self

    def select(self, index: Tensor, n: int) -> Sum | None:
        """With other sizes."""
        if self.leading != "free" or not counts(self.output_size, n):
            return None
        size = some(self.output_size, index)
        return replace(self, sizes=(size,) * len(self.sizes), output_size=size)


@dataclass
class Norm:
    """t -> s (t - mean t - z mean(z t)): the derivative of x -> gamma z + beta, z = (x - mean x) / deviation.

    Means are over all of a group, s = gamma / deviation; the transpose is g -> h - mean h - z mean(z h) with
    h = s g.  Vectors have the shape (..., *size); `groups` splits the axis of channels, which comes second,
    or else the last `axes` axes make one group.
    """

    inputs: tuple[int, ...]
    output: int
    z: Tensor
    scale: Tensor
    groups: int | None
    axes: int
    leading: Leading = "free"

    @classmethod
    def at(
        cls,
        inputs: tuple[int, ...],
        output: int,
        x: Tensor,
        gamma: Tensor | None,
        eps: float,
        groups: int | None,
        axes: int,
    ) -> Norm:
        """The derivative at x."""
        step = cls(inputs, output, x, x, groups, axes)
        centred = x - step._mean(x)
        deviation = (step._mean(centred.square()) + eps).sqrt()
        if gamma is None:
            gamma = x.new_ones(())
        elif groups is not None:
            gamma = gamma.reshape(-1, *[1] * (x.ndim - 2))
        step.z, step.scale = channels_last(centred / deviation), gamma / deviation
        return step

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (t - mean t - z mean(z t))."""
        return self._project(tangents[0]).mul_(self.scale)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """h - mean h - z mean(z h), h = s g."""
        return (self._project(g * self.scale),)

    def to(self, dtype: torch.dtype) -> Norm:
        """The normalised input and scales in another precision."""
        return replace(self, z=cast(self.z, dtype), scale=cast(self.scale, dtype))

    def select(self, index: Tensor, n: int) -> Norm | None:
        """With what is kept of some inputs."""
        if not (counts(self.z.shape, n) and self.z.ndim > self.axes):
            return None
        return replace(self, z=self.z[index], scale=self.scale[index])

    def _project(self, t: Tensor) -> Tensor:
        return (t - self._mean(t)).addcmul_(self.z, self._mean(self.z * t), value=-1)

    def _mean(self, t: Tensor) -> Tensor:
        """The mean of each group, spread over its channels."""
        if self.groups is None:
            return t.mean(tuple(range(-self.axes, 0)), keepdim=True)
        channels = -self.axes
        split = t.unflatten(channels, (self.groups, -1))
        mean = split.mean(tuple(range(channels, 0)), keepdim=True)
        return mean.expand(
            *split.shape[:channels], split.shape[channels], *mean.shape[channels:][1:]
        ).flatten(channels - 1, channels)


@dataclass
class Pointwise:
    """t_1, t_2 -> s_1 t_1 + s_2 t_2, each broadcast to the size of the output."""

    inputs: tuple[int, ...]
    output: int
    slopes: tuple[Tensor, Tensor]
    sizes: tuple[torch.Size, torch.Size]
    output_size: torch.Size

    @property
    def leading(self) -> Leading:
        """Sizes are aligned at their ends: with as many axes each, one more in front changes nothing."""
        return "free" if all(len(size) == len(self.output_size) for size in self.sizes) else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """s_1 t_1 + s_2 t_2."""
        (s, r), (t, u) = self.slopes, tangents
        return s * t + r * u

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The conjugates of s_1 g and s_2 g, summed over what was broadcast."""
        return tuple(_summed(s.conj() * g, size) for s, size in zip(self.slopes, self.sizes, strict=True))

    def to(self, dtype: torch.dtype) -> Pointwise:
        """The slopes in another precision."""
        first, second = (cast(s, dtype) for s in self.slopes)
        return replace(self, slopes=(first, second))

    def select(self, index: Tensor, n: int) -> Pointwise | None:
        """With the slopes of some inputs."""
        if self.leading != "free" or not all(counts(size, n) for size in (*self.sizes, self.output_size)):
            return None
        first, second = (s[index] if len(s) == n else s for s in self.slopes)
        if first.ndim != len(self.output_size) or second.ndim != len(self.output_size):
            return None
        sizes = some(self.sizes[0], index), some(self.sizes[1], index)
        return replace(self, slopes=(first, second), sizes=sizes, output_size=some(self.output_size, index))


@dataclass
class Matmul:
    """t_1, t_2 -> t_1 x_2 + x_1 t_2, of matrices (..., n, k) and (..., k, m), as in attention."""

    inputs: tuple[int, ...]
    output: int
    left: Tensor
    right: Tensor
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t_1 x_2 + x_1 t_2."""
        t, u = tangents
        return t @ self.right + self.left @ u

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g x_2*, x_1* g."""
        return g @ self.right.mH, self.left.mH @ g

    def to(self, dtype: torch.dtype) -> Matmul:
        """The factors in another precision."""
        return replace(self, left=cast(self.left, dtype), right=cast(self.right, dtype))

    def select(self, index: Tensor, n: int) -> None:
        """The first axis of a stack of matrices may count heads as well."""


@dataclass
class Softmax:
    """t -> s (t - sum s t), the sum over one axis, told from the last."""

    inputs: tuple[int, ...]
    output: int
    value: Tensor
    axis: int
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (t - sum s t)."""
        weighted = self.value * tangents[0]
        return weighted.sub_(self.value * weighted.sum(self.axis, keepdim=True))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return (self.apply(g),)

    def to(self, dtype: torch.dtype) -> Softmax:
        """The softmax in another precision."""
        return replace(self, value=cast(self.value, dtype))

    def select(self, index: Tensor, n: int) -> Softmax | None:
        """That of some inputs."""
        inside = counts(self.value.shape, n) and self.axis > -self.value.ndim
        return replace(self, value=self.value[index]) if inside else None


@dataclass
class Gather:
    """t (..., H, W) -> t[..., indices], with `indices` (..., h, w) into the H W pixels of each plane."""

    inputs: tuple[int, ...]
    output: int
    indices: Tensor
    sides: torch.Size
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t at the indices."""
        t = tangents[0].flatten(-2)
        indices = self.indices.flatten(-2).expand(*t.shape[:-1], -1)
        return t.gather(-1, indices).unflatten(-1, self.indices.shape[-2:])

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g added up where it came from."""
        indices = self.indices.expand(g.shape).flatten(-2)
        total = g.new_zeros(*g.shape[:-2], self.sides.numel())
        return (total.scatter_add_(-1, indices, g.flatten(-2)).unflatten(-1, self.sides),)

    def to(self, dtype: torch.dtype) -> Gather:
        """Itself: indices have no precision."""
        return self

    def select(self, index: Tensor, n: int) -> Gather | None:
        """With the indices of some inputs."""
        return replace(self, indices=self.indices[index]) if counts(self.indices.shape, n) else None


@dataclass
class Cast:
    """t -> t in another precision; from real to complex numbers and, for the transpose, back."""

    inputs: tuple[int, ...]
    output: int
    source: torch.dtype
    target: torch.dtype
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t in the target's precision."""
        return _converted(tangents[0], self.target)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g in the source's precision."""
        return (_converted(g, self.source),)

    def to(self, dtype: torch.dtype) -> Cast:
        """In one precision there is only real and complex."""
        return replace(self, source=precise(self.source, dtype), target=precise(self.target, dtype))

    def select(self, index: Tensor, n: int) -> Cast:
        """Itself: it does the same to every entry."""
        return self


@dataclass
class Take:
    """t -> the entries of t at `index` into its flat form, of the index's shape; 0 where that is negative."""

    inputs: tuple[int, ...]
    output: int
    index: Tensor
    input_size: torch.Size
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t at the index."""
        (t,) = tangents
        taken = _flat(t, self.input_size)[..., self.index.clamp(min=0).flatten()]
        taken = taken.masked_fill(self.index.flatten() < 0, 0)
        return _shaped(taken, self.index.shape)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g added up where it came from."""
        flat = _flat(g, self.index.shape).masked_fill(self.index.flatten() < 0, 0)
        total = g.new_zeros(*flat.shape[:-1], self.input_size.numel())
        total.index_add_(-1, self.index.clamp(min=0).flatten(), flat)
        return (_shaped(total, self.input_size),)

    def to(self, dtype: torch.dtype) -> Take:
        """Itself: an index has no precision."""
        return self

    def select(self, index: Tensor, n: int) -> None:
        """A storage may hold its inputs in any order."""


@dataclass
class Put:
    """t_1, t_2 -> t_1 with the entries of t_2 at `index` into its flat form; either t may be constant.

    `which` says what the inputs are: both, t_1 alone ("rest") or t_2 alone ("part").
    """

    inputs: tuple[int, ...]
    output: int
    index: Tensor
    size: torch.Size
    which: Literal["both", "rest", "part"]
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t_1 with t_2 in its place."""
        if self.which == "part":
            part = _flat(tangents[-1], self.index.shape)
            total = part.new_zeros(*part.shape[:-1], self.size.numel())
        else:
            total = _flat(tangents[0], self.size).clone()
            part = _flat(tangents[-1], self.index.shape) if self.which == "both" else total.new_zeros(())
        total[..., self.index.flatten()] = part
        return _shaped(total, self.size)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g without the place for t_1, and of the place for t_2."""
        flat = _flat(g, self.size)
        part = _shaped(flat[..., self.index.flatten()], self.index.shape)
        if self.which == "part":
            return (part,)
        rest = flat.clone()
        rest[..., self.index.flatten()] = 0
        rest = _shaped(rest, self.size)
        return (rest, part) if self.which == "both" else (rest,)

    def to(self, dtype: torch.dtype) -> Put:
        """Itself: an index has no precision."""
        return self

    def select(self, index: Tensor, n: int) -> None:
        """A storage may hold its inputs in any order."""


def _summed(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., *whole) summed to (..., *size), axes that were broadcast alone; as many of both."""
    axes = tuple(i for i in range(-len(size), 0) if size[i] == 1 and t.shape[i] != 1)
    return t.sum(axes, keepdim=True) if axes else t


def _flat(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., *size) as (..., entries)."""
    return t.reshape(*t.shape[: t.ndim - len(size)], size.numel())


def _shaped(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., entries) as (..., *size)."""
    return t.reshape((*t.shape[:-1], *size))


@dataclass(frozen=True)
class Input:
    """Stands for the i-th argument in the arguments of an `Operation`."""

    i: int


class Operation:
    """An operation of torch as a function of what y reaches, all else held.

    Args:
        target: the operation.
        arguments: its (args, kwargs), with an `Input` in each place that y reaches.
        entry: of an operation with several outputs, the one that is meant.
    """

    def __init__(self, target: Callable[..., Any], arguments: Any, entry: int | None = None) -> None:
        self.target, self.arguments, self.entry = target, arguments, entry
        self.leaves, self.structure = pytree.tree_flatten(arguments)

    def __call__(self, *primals: Tensor) -> Tensor:
        """The operation's output."""
        leaves = [primals[x.i] if isinstance(x, Input) else x for x in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        value = self.target(*args, **kwargs)
        return value if self.entry is None else value[self.entry]

    def to(self, dtype: torch.dtype) -> Operation:
        """The operation with what is held in another precision."""
        return self._holding(lambda t: cast(t, dtype))

    def without_held(self) -> Operation:
        """The operation with zeros for the numbers that are held; indices and masks stay."""
        return self._holding(lambda t: t.new_zeros(()).expand(t.shape) if is_number(t) else t)

    def _holding(self, change: Callable[[Tensor], Tensor]) -> Operation:
        leaves = [change(x) if isinstance(x, Tensor) else x for x in self.leaves]
        return Operation(self.target, pytree.tree_unflatten(leaves, self.structure), self.entry)


@dataclass
class Linear:
    """t -> op(t) for an operation that is linear, without constant, in what y reaches.

    `images` says that it does the same to each of the images that the first axis counts; `back` is its
    transpose (g, sizes of the inputs), where that is known.
    """

    inputs: tuple[int, ...]
    output: int
    function: Operation
    sizes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    images: bool = False
    back: Callable[[Tensor, tuple[torch.Size, ...]], tuple[Tensor, ...]] | None = None

    @property
    def leading(self) -> Leading:
        """More images are no other operation; anything else is mapped."""
        return "merged" if self.images else "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """op(t)."""
        return self.function(*map(_aligned, tangents))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """op' g."""
        sizes = self.sizes
        if self.images:
            sizes = tuple(torch.Size((len(g), *size[1:])) for size in sizes)
        if self.back is not None:
            return self.back(g, sizes)
        zeros = (
            torch.zeros((), dtype=dtype, device=g.device).expand(size)
            for size, dtype in zip(sizes, self.dtypes, strict=True)
        )
        return pulled(self.function, tuple(zeros), _aligned(g))

    def to(self, dtype: torch.dtype) -> Linear:
        """The factor that is held in another precision."""
        dtypes = tuple(precise(d, dtype) for d in self.dtypes)
        return replace(self, function=self.function.to(dtype), dtypes=dtypes)

    def select(self, index: Tensor, n: int) -> Linear | None:
        """With other sizes, for an operation on images."""
        if not (self.images and all(counts(size, n) for size in self.sizes)):
            return None
        return replace(self, sizes=tuple(some(size, index) for size in self.sizes))


@dataclass
class Local:
    """t -> d op (t) at the operation's inputs, which are kept.

    `forward` says how: torch's own forward mode; where it has none, two vjps, J t being the gradient of
    <J' g, t> by g; where those fail too, central differences of the operation in float64.
    """

    inputs: tuple[int, ...]
    output: int
    function: Operation
    primals: tuple[Tensor, ...]
    forward: Forward = "jvp"
    leading: Leading = "mapped"

    def apply(self, *tangents: Tensor) -> Tensor:
        """d op (t)."""
        tangents = tuple(map(_aligned, tangents))
        if self.forward == "jvp":
            with ALONE:
                return torch.func.jvp(self.function, self.primals, tangents)[1]
        if self.forward == "vjp":
            return _pushed_by_pulling(self.function, self.primals, tangents)
        return _difference(self.function, self.primals, tangents)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """(d op)' g, by torch's vjp; some of its kernels misread a cotangent that is not contiguous."""
        return pulled(self.function, self.primals, _aligned(g.contiguous()))

    def to(self, dtype: torch.dtype) -> Local:
        """The operation differentiated in another precision."""
        primals = tuple(cast(x, dtype) for x in self.primals)
        return replace(self, function=self.function.to(dtype), primals=primals)

    def select(self, index: Tensor, n: int) -> None:
        """An operation of any kind may treat its inputs differently."""


def _aligned(t: Tensor) -> Tensor:
    """t from the start of a storage: operations on strides count from there."""
    return t.clone() if t.storage_offset() else t


def _pushed_by_pulling(
    function: Operation, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """J t as the gradient, by u, of <J' u, t>."""
    xs, value = _graph(function, primals)
    with torch.inference_mode(False), torch.enable_grad():
        u = torch.zeros_like(value, requires_grad=True)
        parts = torch.autograd.grad(value, xs, u, create_graph=True, allow_unused=True)
    linear = [(g, t) for g, t in zip(parts, tangents, strict=True) if g is not None and g.requires_grad]
    if not linear:
        raise SpectralError("its derivative backwards has none of its own")
    return torch.autograd.grad([g for g, _ in linear], u, [t for _, t in linear])[0]


def _graph(function: Callable[..., Tensor], primals: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
    """Leaves with the primals' values, and the function's value with a graph that leads to them."""
    with torch.inference_mode(False), torch.enable_grad():
        xs = [(x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in primals]
        return xs, function(*xs)


def pulled(function: Callable[..., Tensor], primals: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, ...]:
    """(d function)' g at the primals, by a graph of its own: for that torch.func would load a compiler."""
    xs, value = _graph(function, primals)
    if not value.requires_grad:
        return tuple(map(torch.zeros_like, primals))
    parts = torch.autograd.grad(value, xs, g, allow_unused=True)
    return tuple(
        torch.zeros_like(x) if part is None else part for x, part in zip(primals, parts, strict=True)
    )


def _difference(function: Operation, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """(op(x + h t) - op(x - h t)) / 2h in float64, h at the cube root of its rounding."""
    exact, xs, ts = function.to(torch.float64), [], []
    for x, t in zip(primals, tangents, strict=True):
        xs.append(cast(x, torch.float64))
        ts.append(cast(t, torch.float64))
    size = max(float(t.abs().max()) for t in ts) or 1.0
    h = 6e-6 * max(float(x.abs().max()) for x in xs) / size or 6e-6 / size
    ahead, behind = (exact(*(x + s * h * t for x, t in zip(xs, ts, strict=True))) for s in (1, -1))
    return ((ahead - behind) / (2 * h)).to(function(*primals).dtype)


def is_number(t: Tensor) -> bool:
    """Whether t holds real or complex numbers, which have derivatives."""
    return t.is_floating_point() or t.is_complex()


def precise(dtype: torch.dtype, precision: torch.dtype) -> torch.dtype:
    """A dtype in the precision of another: real stays real, complex complex, integers integers."""
    if dtype.is_complex:
        return precision.to_complex()
    return precision if dtype.is_floating_point else dtype


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in another precision, unless it holds integers."""
    return t.to(precise(t.dtype, dtype))


def _converted(t: Tensor, dtype: torch.dtype) -> Tensor:
    return (t.real if t.is_complex() and not dtype.is_complex else t).to(dtype)


def counts(size: torch.Size, n: int) -> bool:
    """Whether the first axis of a size counts n inputs."""
    return len(size) > 1 and size[0] == n


def some(size: torch.Size, index: Tensor) -> torch.Size:
    """The size of some of the inputs that its first axis counts."""
    return torch.Size((len(index), *size[1:]))
