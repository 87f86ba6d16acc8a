"""What is around a call and is not to change it: a front door computes the same inside as outside."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from typing import Any, Literal, ParamSpec, TypeVar

import torch

from spectral.words import of_call

P = ParamSpec("P")
R = TypeVar("R")


Float32 = Literal["ieee", "tf32"]

_multiplied: ContextVar[Float32 | None] = ContextVar("multiplied", default=None)  # as this call has asked
_asked: list[list[Float32]] = []  # by calls under way, of all threads: the last one's is in force
_before: tuple[str, ...] = ()
_LOCK = threading.Lock()


def _multipliers() -> tuple[Any, ...]:
    """What multiplies float32 on a GPU: matrices, convolutions, recurrences."""
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn


def float32_settings() -> tuple[str, ...]:
    """How torch multiplies float32 on a GPU, matrices, in convolutions and recurrences: "ieee", "tf32"."""
    # By their newer names: the older cannot be read where the newer were set.
    return tuple(part.fp32_precision for part in _multipliers())


def _set(settings: tuple[str, ...]) -> None:
    for part, kind in zip(_multipliers(), settings, strict=True):
        part.fp32_precision = kind


@contextlib.contextmanager
def float32_as(kind: Float32 | None = None) -> Iterator[None]:
    """float32 is multiplied on GPUs as `kind` says, for one call; afterwards as before.

    None stands for what is asked already around this call, or else "ieee": torch lets convolutions be
    TensorFloat-32, whose 2^-11 would be taken for a wrong derivative, and would be most of a residual.
    Without a GPU None does nothing.
    """
    global _before  # noqa: PLW0603  what a process has once
    if kind is None and (_multiplied.get() or not torch.cuda.is_initialized()):
        yield
        return
    token, mine = _multiplied.set(kind or "ieee"), [kind or "ieee"]
    with _LOCK:
        _before = _before if _asked else float32_settings()
        _asked.append(mine)
        _set(3 * (mine[0],))
    try:
        yield
    finally:
        with _LOCK:
            del _asked[next(i for i, other in enumerate(_asked) if other is mine)]
            _set(3 * (_asked[-1][0],) if _asked else _before)
        _multiplied.reset(token)


_default: ContextVar[torch.device | None] = ContextVar("default", default=None)


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Tensors are made on the CPU where no device is named, whatever `torch.set_default_device` says.

    Small matrices are the CPU's, and kernels that are given addresses would read a GPU's as such.
    """
    default = torch.get_default_device()
    if default.type == "cpu":
        yield
        return
    token = _default.set(default)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _default.reset(token)


@contextlib.contextmanager
def as_outside() -> Iterator[None]:
    """Inside of `on_host`, for what is the user's: tensors are made where they are by default outside."""
    default = _default.get()
    if default is None:
        yield
        return
    with torch.device(default):
        yield


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Outside of inference mode, and of autocast and TensorFloat-32, which would round a solver's numbers.

    Tensors are made `on_host`.
    """
    with (
        on_host(),
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        float32_as(),
    ):
        yield


_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def tell(note: str) -> None:
    """Add what was decided about a model to the notes of the results that are being made."""
    heard = _heard.get()
    if heard is not None:
        heard.append(note)


def front_door(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes apart, and whose result tells what was decided about the model on the way.

    Of an operator that several processes share, all make the same call.
    """

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        shared = next((x.in_step for x in given if hasattr(x, "in_step")), None)
        step = contextlib.nullcontext() if shared is None else shared(lambda: of_call(function, args, kwargs))
        heard = [note for x in given for note in getattr(x, "notes", ()) if hasattr(x, "apply")]
        token = _heard.set(heard)
        try:
            with apart(), step:
                result = function(*args, **kwargs)
        finally:
            _heard.reset(token)
        for note in heard:
            tell(note)
        return _with_notes(result, heard)

    return entered


def _with_notes(result: R, heard: list[str]) -> R:
    """A result that tells what was heard, each thing once."""
    notes = getattr(result, "notes", None)
    if not isinstance(notes, list) or not is_dataclass(result) or isinstance(result, type):
        return result
    new = [note for note in dict.fromkeys(heard) if note not in notes]
    return replace(result, notes=[*new, *notes]) if new else result
