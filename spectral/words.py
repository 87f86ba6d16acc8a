"""What was asked, in words that can be compared: with what a folder holds, and between processes."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter


def in_words(value: Any, tensor: Callable[[Tensor], str] | None = None) -> Any:
    """A value as JSON: tensors by their digests, or by `tensor`; what else JSON cannot hold by its repr
    without addresses."""
    tensor = tensor or (lambda t: f"tensor {digest(t)}")
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, Mapping):
        return {str(name): in_words(part, tensor) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_words(part, tensor) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        told = (f"{field.name}={in_words(getattr(value, field.name), tensor)}" for field in fields(value))
        return f"{type(value).__qualname__}({', '.join(told)})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def digest(x: Tensor) -> str:
    """What tells one tensor from another: of its type, shape and bytes."""
    if isinstance(x, UninitializedParameter):
        return "uninitialized"
    held = x.detach() if x.layout is torch.strided else x.detach().to_dense()
    found = hashlib.sha256(f"{held.dtype} {tuple(held.shape)} ".encode())
    if held.numel() and not held.is_meta:
        held = held.cpu().resolve_conj().resolve_neg().contiguous()
        found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def of_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call in words that are the same wherever its operands' rows lie: of tensors kind and number alone, of
    operators the whole size.  Whether progress is shown is each process's own affair."""
    call = {"call": function.__name__}
    try:
        given = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as wrong:  # which the call itself will raise
        return call | {"arguments": str(wrong)}
    given.apply_defaults()
    told = {name: value for name, value in given.arguments.items() if name != "progress"}
    return call | {name: _anywhere(value) for name, value in told.items()}


def _anywhere(value: Any) -> Any:
    if hasattr(value, "in_step"):
        return f"operator {tuple(value.shape)}"
    return in_words(value, lambda t: f"{t.dtype}, {t.ndim} axes")
