"""What an object holds, with the content of it, and how that is put back."""

from __future__ import annotations

import contextlib
import functools
from array import array
from collections import OrderedDict, UserDict, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectral.jacobians.draws import GENERATORS, restore, state_of

_LOOKED_AT = 100_000  # things, at most

_CONTAINERS = (list, dict, set, deque, UserDict, SimpleNamespace, np.ndarray, bytearray, array)
# Most of what a module holds; isinstance takes long to tell that it is none of the classes here.
_PLAIN = {bool, int, float, str, type(None), torch.dtype, torch.device}
_BUILT_IN = {list, dict, OrderedDict, set, deque}
_LOOKED_INTO = (Tensor, tuple, *_CONTAINERS, *GENERATORS)


class Kept:
    """What a module, or another object that is called, holds by name; not its parameters.

    With the content of its lists, tables, arrays and tensors, and the state of its generators.
    """

    def __init__(self, owner: Any) -> None:
        self.owner, self.attributes = owner, dict(vars(owner))
        self.attributes.pop("training", None)
        parameters: dict[str, Any] = self.attributes.get("_parameters", {})
        values = [*self.attributes.values(), *self.attributes.get("_buffers", {}).values()]
        # Most of what a module holds are tables of hooks with nothing in them.
        self.empty = [x for x in values if type(x) in _BUILT_IN and not x]
        held = _held([x for x in values if type(x) not in _BUILT_IN or x])
        others = [x for x in held if type(x) not in _BUILT_IN]
        containers = [x for x in held if type(x) in _BUILT_IN or isinstance(x, _CONTAINERS)]
        self.containers = [(c, _content(c)) for c in containers]
        self.generators = [(g, state_of(g)) for g in others if isinstance(g, GENERATORS)]
        self.tensors = [
            (t, t._version, t.detach().clone(), t.requires_grad)
            for t in others
            if isinstance(t, Tensor) and not isinstance(t, nn.Parameter) and not t.is_inference()
        ]
        # A backward pass inside the model fills gradients.
        self.gradients = [(p, p.grad) for p in parameters.values() if p is not None]
        for p, _ in self.gradients:
            p.grad = None

    def put_back(self) -> None:
        """All as it was."""
        now = vars(self.owner)
        for name in [*now]:
            if name not in self.attributes and name != "training":
                del now[name]
        now.update(self.attributes)
        for container in self.empty:
            if container:
                container.clear()
        for container, before in self.containers:
            _put_back(container, before)
        for generator, state in self.generators:
            restore(generator, state)
        for t, version, before, graph in self.tensors:
            if t.requires_grad and not graph:  # written to with a graph, which goes with the call
                with contextlib.suppress(RuntimeError):
                    t.detach_()
            # Writes through `.data` are not counted.
            with torch.no_grad():
                if t.shape != before.shape or t.dtype != before.dtype:
                    t.data = before
                elif t._version != version or (t.layout is torch.strided and not torch.equal(t, before)):
                    t.copy_(before)
        for p, gradient in self.gradients:
            p.grad = gradient


def _content(container: Any) -> Any:
    """A copy of what a container holds, not of the things themselves."""
    if type(container) in _BUILT_IN:
        return container.copy()
    if isinstance(container, UserDict):
        return dict(container.data)
    if isinstance(container, SimpleNamespace):
        return dict(vars(container))
    if isinstance(container, dict):
        return dict(container)
    return container.copy() if isinstance(container, (np.ndarray, bytearray)) else [*container]


def _put_back(container: Any, before: Any) -> None:
    """The content as it was, where it is not."""
    if type(container) in _BUILT_IN and not container and not before:
        return
    if isinstance(container, (UserDict, SimpleNamespace)):
        container = container.data if isinstance(container, UserDict) else vars(container)
    if isinstance(container, np.ndarray):
        if container.shape == before.shape and container.flags.writeable:
            container[...] = before
    elif isinstance(container, (bytearray, array)):
        container[:] = before if isinstance(container, bytearray) else array(container.typecode, before)
    elif not _same(container, before):
        container.clear()
        container.extend(before) if isinstance(container, (list, deque)) else container.update(before)


def _held(values: list[Any]) -> list[Any]:
    """The values, and what lists, tables and tuples among them hold, at any depth; each once."""
    found: dict[int, Any] = {}
    pending = values
    while pending and len(found) < _LOOKED_AT:
        value = pending.pop()
        if type(value) in _PLAIN or id(value) in found:
            continue
        if not _looked_into(type(value)):  # type: ignore[arg-type]  # of a class mypy knows no hash
            continue
        found[id(value)] = value
        if isinstance(value, (dict, UserDict)):
            pending += value.values()
        elif isinstance(value, SimpleNamespace):
            pending += vars(value).values()
        elif isinstance(value, (list, tuple, set, deque)):
            pending += value
    return [*found.values()]


@functools.cache
def _looked_into(kind: Any) -> bool:
    """Whether objects of a class are: asked of each, and abstract classes take long to tell."""
    return kind in _BUILT_IN or issubclass(kind, _LOOKED_INTO)


def _same(container: Any, before: Any) -> bool:
    """Whether two lists, tables or sets hold the same objects."""
    now, then = ([*c.items()] if isinstance(c, dict) else [(None, x) for x in c] for c in (container, before))
    return len(now) == len(then) and all(
        (a is b or (isinstance(a, (str, int)) and a == b)) and x is y
        for (a, x), (b, y) in zip(now, then, strict=True)
    )
