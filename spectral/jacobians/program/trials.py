"""Whether a step is the derivative of its operation: tried on random vectors, where it is recorded.

A step that a rule has made is held against torch's derivative of that one operation, entry by entry and in
both directions; torch's own is held against itself, J v against J' u, and against differences.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectral.errors import SpectralError
from spectral.jacobians.program import fusion
from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.rules import Seen
from spectral.jacobians.program.rules.attention import Attention
from spectral.jacobians.program.rules.deviations import WeightedSum
from spectral.jacobians.program.rules.norms import Norm, by_torch
from spectral.jacobians.program.rules.pointwise import Diagonal, Sum
from spectral.jacobians.program.rules.pooling import Gather
from spectral.jacobians.program.rules.products import Matmul
from spectral.jacobians.program.steps import (
    Forward,
    Linear,
    Local,
    Operation,
    Step,
    aten,
    cast,
    either_side,
    pulled,
)
from spectral.jacobians.program.trees import leaves

log = logging.getLogger("spectral")

# A rule is tried on random vectors, at the inputs that it is met with.  Of maps and kernels beyond so many
# entries, which torch would share out among threads, only norms and maxima are: a trial holds several maps
# and passes over them, where a forward pass holds two.
TRIED = 1 << 15
DIFFERENCES = 1e-3  # relative error of an operation's differences beyond which they are of no use


# Steps of differences, in units of `either_side`.  An operation of the user's own may round in float32; those
# of torch do not, and may switch as often as sorting many numbers does: the shortest steps tell.
_SHARES = {torch.float64: (1.0, 1e2, 1e3), torch.float32: (1.0, 0.1, 10.0)}
_SHORTER: dict[torch.dtype, tuple[float, ...]] = {torch.float64: (1.0, 1e-2, 1e-4)}


class ContradictionError(SpectralError):
    """The derivatives of one operation, forwards, backwards and by differences, contradict each other."""


class LeftOutError(SpectralError):
    """Torch takes an operation's derivative for zero, which it is not, or knows none: nothing tells of it."""


class Tried(NamedTuple):
    """An operation's derivative on random vectors: ahead = D t, back = D' g."""

    tangents: tuple[Tensor, ...]
    g: Tensor
    ahead: Tensor
    back: tuple[Tensor, ...]


class Trials:
    """Trials of one record's steps.

    Attributes:
        rounding: the largest, relative, that differences of an operation were found to have.
    """

    def __init__(self) -> None:
        self.rounding = 0.0
        self._alike: set[Any] = set()  # what stands or falls with its geometry, whatever the numbers
        self._random: dict[torch.device, torch.Generator] = {}
        self._used = 0  # of the numbers drawn once for all

    def stand_for(self, found: fusion.Found, dtypes: Iterable[torch.dtype]) -> bool:
        """Whether attention does what the steps do that it stands for; not tried where weights are large.

        dtypes: of what these steps make.
        """
        step, steps = found
        if max(step.weights.size.numel(), step.o.numel(), step.weights.q.numel(), step.v.numel()) > TRIED:
            return True
        given = {step.inputs[one.place]: one for one in step.given.values()}
        of = {slot: torch.empty((), dtype=one.dtype).expand(one.size) for slot, one in given.items()}
        tangents = {slot: self.draw(like.to(step.o.device)) for slot, like in of.items()}
        g = self.draw(torch.empty((), dtype=step.result.dtype, device=step.o.device).expand(step.result.size))
        ours, theirs = fusion.back_through([step], g), fusion.back_through(steps, g)
        pairs = [(fusion.through([step], tangents), fusion.through(steps, tangents))]
        pairs += [(ours[slot], theirs[slot]) for slot in given]
        return _agree(step, pairs, max(map(_tolerance, (step.result.dtype, *dtypes))))

    def stands(self, step: Step, seen: Seen) -> bool:
        """Whether a rule's step does what torch's own derivative of the operation does."""
        entries = [seen.like.numel(), *(x.numel() for x in seen.primals)]
        alike = _geometry(step, seen)
        if isinstance(step, Convolution):
            entries.append(step.weight.numel())
        if isinstance(step, Attention):  # the plain form has weights
            entries.append(step.weights.size.numel())
        if alike in self._alike or (
            max(entries) > TRIED and not isinstance(step, (Norm, WeightedSum, Gather))
        ):
            return True
        primals = tuple(x.clone() if x.is_inference() else x for x in seen.primals)
        if seen.promoted:
            primals = tuple(x.to(seen.like.dtype) for x in primals)
        if isinstance(step, Norm):
            tangent, g = self.draw(primals[0]), self.draw(seen.like)
            tried = Tried((tangent,), g, *by_torch(seen, tangent, g))
        else:
            local = Local(seen.inputs, seen.output, seen.operation(), primals)
            tried = self._by_entries(step, seen, local) or self.by_torch(
                local,
                ("vjp", "jvp", "differences"),  # jvp may load a compiler
            )
        # A copy: slopes are laid out for the first tangents that come, and these lie as torch draws them.
        own = step if isinstance(step, Convolution) else copy.copy(step)
        pairs = [(own.apply(*(t.clone() for t in tried.tangents)), tried.ahead)]
        pairs += zip(own.transpose(tried.g.clone()), tried.back, strict=True)
        stands = _agree(step, pairs, _tolerance(seen.like.dtype))
        if stands and alike is not None:
            self._alike.add(alike)
        return stands

    def _by_entries(self, step: Step, seen: Seen, local: Local) -> Tried | None:
        """Torch's derivative where a rule says that it is diagonal, by one pass back: D t = t (D' g) / g.

        That D' g is a slope times g, for a random g, is what the rule is then held to.  Of operations of
        torch's own alone: of others, and of zeros, `by_torch` finds out whether there is a derivative.
        """
        diagonal = isinstance(step, Diagonal) and step.keeps_size and len(local.primals) == 1
        if not diagonal or seen.target.namespace != "aten":
            return None
        (x,) = local.primals
        if x.shape != seen.like.shape or x.dtype != seen.like.dtype or x.is_complex():
            return None
        g, t = self.draw(x), self.draw(x)
        g += g.sign()  # whose products with small slopes keep their digits in half precision
        if not g.all():
            return None
        back = pulled(local.function, (x,), g)[0]
        usable = torch.isfinite(back).all() and back.any()
        return Tried((t,), g, back / g * t, (back,)) if usable else None

    def by_torch(self, step: Local, ways: tuple[Forward, ...] = ("jvp", "vjp", "differences")) -> Tried:
        """Set the step to the first of some ways that has this operation's derivative, and try it.

        Raises:
            LeftOutError: torch leaves the operation out of its graph.
            SpectralError: none has.
        """
        xs = step.primals
        noise, tangents = self.draw(step.function(*xs)), tuple(self.draw(x) for x in xs)
        reason = "no way forwards"
        for forward in ways:
            step.forward = forward
            try:
                ahead = step.apply(*tangents)
            except Exception as failure:
                reason = str(failure).split("\n")[0]
                continue
            if not torch.isfinite(ahead).all():
                reason = "its derivative is not finite"
                continue
            g = half_along(noise, ahead)
            back = step.transpose(g)
            if not all(bool(torch.isfinite(t).all()) for t in back):
                raise SpectralError("its derivative is not finite")
            if not any(bool(t.any()) for t in back) and not _has_derivative(step.function, xs):
                raise LeftOutError("it has no derivative")
            error = _apart_by(g, ahead, back, tangents)
            if forward != "vjp":  # what it misses altogether shows along the way back
                along = tuple(
                    t + b * (size_of(t) / (size_of(b) or 1.0)) for t, b in zip(tangents, back, strict=True)
                )
                error = max(error, _apart_by(g, step.apply(*along), back, along))
            rough = forward == "differences" and error <= DIFFERENCES
            self.rounding = max(self.rounding, 10 * error) if rough else self.rounding
            if rough or error <= max(_tolerance(x.dtype) for x in (noise, *xs)):
                return Tried(tangents, g, ahead, back)
            reason = f"its derivatives forwards and backwards differ by {error:.0e}"
        raise (ContradictionError if "differ" in reason else SpectralError)(reason)

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal entries, of the shape and precision of a tensor."""
        # On a GPU there: of norms, which are always tried, the host takes seconds for a large image's.
        device = like.device if like.is_cuda else torch.device("cpu")
        count, dtype = like.numel(), _drawn(like.dtype)
        if count > TRIED:
            generator = self._random.setdefault(device, torch.Generator(device).manual_seed(0))
            drawn = torch.randn(like.shape, generator=generator, dtype=dtype, device=device)
            return drawn.to(like.device, like.dtype)
        numbers = _normal(dtype, device)
        if self._used + count > len(numbers):
            self._used = 0
        drawn = numbers[self._used : self._used + count].view(like.shape)
        self._used += count
        return drawn.to(like.device, like.dtype, copy=True)


def _agree(step: Step, pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> bool:
    """Whether what a step makes is what else was made."""
    least = 0.0
    if isinstance(step, Attention):  # where one key has all the weight the terms, of o's size, cancel
        least = float(step.o.abs().max()) / 100
    if isinstance(step, Norm):  # and in a group of one entry, or two
        least = float(step.scale.abs().max())
    return all(
        ours.shape == true.shape and _apart(ours, true, max(least, 1e-300)) <= tolerance
        for ours, true in pairs
    )


def _apart_by(g: Tensor, ahead: Tensor, back: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> float:
    """|<g, D t> - <D' g, t>|, relative to the most that it could be."""
    right = sum(inner(b, t) for b, t in zip(back, tangents, strict=True))
    sizes = (size_of(b) * size_of(t) for b, t in zip(back, tangents, strict=True))
    return abs(inner(g, ahead) - right) / max(size_of(g) * size_of(ahead), *sizes, 1e-300)


def hold_against_differences(step: Local, tried: Tried) -> None:
    """Hold D t against differences of the operation: its ways are one derivative, right or wrong.

    In half precision that of the same operation at the same numbers in float32, where that exists.

    Raises:
        LeftOutError: torch's derivative is zero, and that of the operation is not.
        ContradictionError: they differ, where differences by two steps h agree and no unit switches at x.
    """
    least = max(DIFFERENCES, 4 * torch.finfo(tried.ahead.dtype).eps)
    if least > DIFFERENCES:
        try:
            tried = _in_float32(step, tried)
        except ContradictionError:
            raise
        except Exception as failure:  # it does not exist in that precision
            log.debug("%s in float32: %s", step.function.target, failure)
    size = max(size_of(tried.ahead), 1e-300)
    found: list[tuple[Tensor, float]] = []
    shares = _SHARES if step.forward == "vjp" else _SHORTER
    for precision, each in shares.items():
        here: Tensor | None = None
        for share in each:
            try:
                ahead, behind, h = either_side(step.function, step.primals, tried.tangents, precision, share)
            except Exception:  # it does not exist in that precision
                break
            D = (ahead - behind) / (2 * h)
            if size_of(D - tried.ahead) <= least * size:
                return
            if here is None:
                here = either_side(step.function, step.primals, tried.tangents, precision, 0.0)[0]
            rounding = torch.finfo(precision).eps * size_of(here)
            found.append((D, (size_of(ahead - 2 * here + behind) + rounding) / h / size))
    if step.forward != "vjp":
        found = found[:-3:-1]
    pairs = [(size_of(D - E) / size, D, min(b, c)) for (D, b), (E, c) in itertools.combinations(found, 2)]
    if pairs:
        apart, D, bend = min(pairs, key=lambda pair: pair[0])
        off = size_of(D - tried.ahead) / size
        zero = not any(bool(part.any()) for part in (tried.ahead, *tried.back))
        if zero and off > 100 * max(apart, bend):
            raise LeftOutError("torch's derivative of it is zero, and its own is not")
        if not zero and off > max(5 * apart, bend):
            raise ContradictionError(f"its derivative is off by {off:.1e} from differences of it")


def _in_float32(step: Local, tried: Tried) -> Tried:
    """The same trial in float32, where ways forwards and backwards that are not one show.

    Raises:
        ContradictionError: they differ.
    """
    wide = step.to(torch.float32)
    assert isinstance(wide, Local)
    tangents, g = tuple(cast(t, torch.float32) for t in tried.tangents), cast(tried.g, torch.float32)
    ahead, back = wide.apply(*tangents), wide.transpose(g)
    error = _apart_by(g, ahead, back, tangents)
    if ahead.dtype == g.dtype and error > DIFFERENCES:
        raise ContradictionError(f"its derivatives forwards and backwards differ by {error:.0e}")
    return Tried(tangents, g, ahead, back)


def _geometry(step: Step, seen: Seen) -> Any:
    """What a step depends on, where that is no number: of another one like it there is nothing to try.

    None where its formula is made of the numbers that it was met with.
    """
    if isinstance(step, Convolution):
        return seen.target, *step.geometry
    every = leaves((seen.args, seen.kwargs))
    held = any(isinstance(x, Tensor) and not seen.reaches(x) for x in every)
    scaled = seen.target is aten.mul.Tensor or (seen.target is aten.div.Tensor and seen.reaches(seen.args[0]))
    if held:
        factor = isinstance(step, Matmul) and not all(step.reached)
        linear = factor or (isinstance(step, Diagonal) and scaled)
    else:
        linear = isinstance(step, (Linear, Sum))
    if not linear:
        return None
    told = ((x.shape, x.stride(), x.dtype, seen.reaches(x)) if isinstance(x, Tensor) else x for x in every)
    return str(seen.target), seen.entry, str([*told])


@functools.lru_cache(4)
def _normal(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers for the vectors of small trials, each taken in its turn: more than one trial takes."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(8 * TRIED, generator=generator, dtype=dtype, device=device)


def _drawn(dtype: torch.dtype) -> torch.dtype:
    """The precision in which to draw random numbers of a dtype."""
    return dtype if dtype in (torch.float64, torch.complex128, torch.complex64) else torch.float32


def _tolerance(dtype: torch.dtype) -> float:
    """Relative disagreement of one operation's derivatives that rounding may explain."""
    return min(1e3 * torch.finfo(dtype).eps, 0.1)


def _has_derivative(function: Operation, primals: tuple[Tensor, ...]) -> bool:
    """Whether torch's graph goes through an operation; where it does not, torch.func tells of zeros."""
    with torch.enable_grad():
        node = function(*(x.detach().requires_grad_() for x in primals)).grad_fn
    return node is not None and "NotImplemented" not in node.name()


def size_of(t: Tensor) -> float:
    """The Euclidean norm, in float64, also where squares would leave its range."""
    wide = t.to(torch.promote_types(t.dtype, torch.float64))
    size = float(torch.linalg.vector_norm(wide))
    if 1e-140 < size < 1e140 or not wide.numel():
        return size
    most = float(wide.abs().max())
    return most * float(torch.linalg.vector_norm(wide / most)) if 0 < most < math.inf else size


def inner(a: Tensor, b: Tensor) -> float:
    """The real inner product, of complex entries as pairs."""
    wide = torch.promote_types(a.dtype, torch.float64)
    return float((a.to(wide).conj() * b.to(wide)).real.sum())


def half_along(noise: Tensor, Jv: Tensor) -> Tensor:
    """u for <u, J v>: half at random and half J v, since of two vectors at random little would be seen.

    Of few entries the halves might cancel: they are on one side.
    """
    share = (-1 if inner(noise, Jv) < 0 else 1) / max(size_of(noise), 1e-30)
    return share * noise + Jv / max(size_of(Jv), torch.finfo(Jv.dtype).tiny)


def contradiction(v: Tensor, u: Tensor, Jv: Tensor, Ju: Tensor) -> float:
    """|<u, J v> - <J' u, v>|, relative to the most that it could be."""
    return _apart_by(u, Jv, (Ju,), (v,))


def _apart(ours: Tensor, true: Tensor, least: float) -> float:
    """The largest difference of an entry, relative to the largest entry, or `least`."""
    if not true.numel():
        return 0.0
    return float((ours - true).abs().max().double() / true.abs().max().double().clamp(min=least))
