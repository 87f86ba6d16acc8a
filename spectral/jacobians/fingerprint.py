"""What tells one model from another, in all processes alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from spectral.jacobians.model import modules_in
from spectral.words import digest


def fingerprint(model: Callable[..., Any], attributes: bool = True) -> str:
    """A digest of every module that a callable holds: class, settings, parameters, buffers, and attributes
    that are numbers, words, tensors, or lists of such.

    What a plain function computes beside is known by its name alone.

    Args:
        model: the callable.
        attributes: whether they count, of which some may say where a module runs.
    """
    found = hashlib.sha256(_named(model).encode())
    for module in modules_in(model):
        found.update(f"{_named(module)} {module.extra_repr()} ".encode())
        for name, t in (*module._parameters.items(), *module._buffers.items()):
            found.update(f"{name} {'none' if t is None else digest(t)} ".encode())
        for name, value in sorted(vars(module).items() if attributes else ()):
            if not name.startswith("_") and name != "training":
                found.update(f"{name}={_told(value)} ".encode())
    return found.hexdigest()[:32]


def _told(value: Any) -> str:
    """An attribute in words, "" where it is no number, word or tensor, nor made of these alone."""
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(_told, value))
    if isinstance(value, dict):
        return ",".join(f"{key}:{_told(one)}" for key, one in value.items())
    return repr(value) if isinstance(value, (bool, int, float, complex, str, type(None))) else ""


def _named(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
