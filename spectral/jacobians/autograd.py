"""Products with a function's Jacobian by torch's own differentiation, or by differences, where no program is.

Each way is a pair of functions of one vector, v -> J v and u -> J' u.  They differ in the first alone: the
second is one pass back through a graph that is kept.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.errors import SpectralError

Function = Callable[[Tensor], Tensor]
Seeing = Callable[[Tensor], None]


class NoGraphError(SpectralError):
    """No graph leads from an output to y: all of it is detached, or computed without gradients."""


class Pair(NamedTuple):
    """J v and J' u of one vector each, shaped like the input and the output."""

    push: Function
    pull: Function


def reverse(function: Function, y: Tensor, see: Seeing | None = None) -> Pair:
    """J' u by a graph that is kept; J v by two passes back, as the gradient of <J' u, v> by u.

    Raises:
        NoGraphError: no graph leads from the output to y.
    """
    with torch.enable_grad(), plain_attention():
        output, x = _graph(function, y)
        if see is not None:
            see(output.detach())
        u = torch.zeros_like(output).requires_grad_()
        pull = _pull(output, x)

    def push(v: Tensor) -> Tensor:
        with torch.enable_grad():
            g = torch.autograd.grad(output, x, u, retain_graph=True, create_graph=True)[0]
            if not g.requires_grad:
                raise SpectralError("its derivative backwards has none of its own")
            return torch.autograd.grad(g, u, v)[0]

    return Pair(push, pull)


def backwards(function: Function, y: Tensor) -> Function:
    """J' u alone, by a graph in which attention keeps no weights.

    Raises:
        NoGraphError: no graph leads from the output to y.
    """
    with torch.enable_grad():
        return _pull(*_graph(function, y))


def forward(function: Function, y: Tensor, see: Seeing | None = None) -> Pair:
    """J v by torch's forward mode, afresh each time, when the value at y is shown to `see`."""

    def push(v: Tensor) -> Tensor:
        with forward_ad.dual_level(), plain_attention():
            value = forward_ad.unpack_dual(function(forward_ad.make_dual(y, v)))
            if see is not None:
                see(value.primal)
            return torch.zeros_like(value.primal) if value.tangent is None else value.tangent.clone()

    return Pair(push, backwards(function, y))


def differences(function: Function, y: Tensor, see: Seeing | None = None, step: float = 2e-3) -> Pair:
    """J v by central differences."""
    return Pair(lambda v: difference(function, y, v, step), backwards(function, y))


def difference(function: Function, y: Tensor, v: Tensor, step: float = 2e-3) -> Tensor:
    """(f(y + h v) - f(y - h v)) / 2h, h so that no entry of y moves by more than `step` of its size."""
    ahead, behind, h = either_side(function, y, v, step)
    return (ahead - behind) / (2 * h)


def either_side(function: Function, y: Tensor, v: Tensor, step: float) -> tuple[Tensor, Tensor, float]:
    """f(y + h v), f(y - h v) and h; see `difference`."""
    h = step * rms(y) / (float(v.abs().max()) or 1.0)
    return function(y + h * v), function(y - h * v), h


class Slopes(NamedTuple):
    """What differences by two steps tell of J v.

    Attributes:
        value: J v by the shorter step, h.
        apart: how far that is from J v by 4 h, in norm.
        kinks: what does not go away with h of (f(y + h v) - 2 f(y) + f(y - h v)) / 2h, that is half the jump
            of the slope, where units switch at y or beside it.
    """

    value: Tensor
    apart: float
    kinks: Tensor


def slopes(function: Function, y: Tensor, v: Tensor, output: Tensor, step: float) -> Slopes:
    """Of f at y, where it is `output`, along v.

    Of a smooth f the second difference over h is f'' h / 2 + O(h^3), and four times that by h is that by 4 h.
    """
    found = []
    for length in (step, 4 * step):
        ahead, behind, h = either_side(function, y, v, length)
        found.append(((ahead - behind) / (2 * h), (ahead - 2 * output + behind) / (2 * h)))
    (near, bend), (far, further) = found
    apart = float(torch.linalg.vector_norm((near - far).double()))
    return Slopes(near, apart, (4 * bend - further) / 3)


def rms(y: Tensor) -> float:
    """The root mean square of y's entries, by which steps are told; 1 where all are zero."""
    return float(y.double().square().mean().sqrt()) or 1.0


def plain_attention() -> contextlib.AbstractContextManager[None]:
    """Attention as products and a softmax, which torch differentiates forwards, and twice."""
    return sdpa_kernel(SDPBackend.MATH)


def _graph(function: Function, y: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) with a graph that leads to x = y, and x."""
    x = y.detach().clone().requires_grad_()
    output = function(x)
    if not output.requires_grad:
        raise NoGraphError("no graph leads from its output to y")
    return output, x


def _pull(output: Tensor, x: Tensor) -> Function:
    def pull(u: Tensor) -> Tensor:
        g = torch.autograd.grad(output, x, u, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(x) if g is None else g

    return pull


def alone(pull: Function, u: Tensor) -> tuple[Tensor, bool]:
    """J' u, and whether torch formed it by itself: no function, hook or checkpoint of Python's was called.

    A graph does the same at each pass.  Where Python is watched already, by a profiler, the answer is no.
    """
    if sys.getprofile() is not None:
        return pull(u), False
    inside, passes, called = False, 0, False

    def watch(frame: Any, event: str, what: Any) -> None:
        nonlocal inside, passes, called
        if event in ("c_call", "c_return", "c_exception") and what.__name__ == "run_backward":
            inside = event == "c_call"
            passes += inside
        called = called or (inside and event == "call")

    sys.setprofile(watch)
    try:
        result = pull(u)
    finally:
        sys.setprofile(None)
    return result, passes == 1 and not called and u.device.type == "cpu"


def declared_functions(output: Tensor) -> list[str]:
    """The names of the torch.autograd.Functions in the graph of an output."""
    names: set[str] = set()
    visited: set[Any] = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            names.add(type(node).__name__.removesuffix("Backward"))
        pending += [following for following, _ in node.next_functions]
    return sorted(names)
