"""What is around a call and is not to change it: a front door computes the same inside as outside."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from typing import ParamSpec, TypeVar

import torch

from spectral.words import of_call

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Outside of inference mode and of autocast, which would round a solver's own arithmetic."""
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
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
