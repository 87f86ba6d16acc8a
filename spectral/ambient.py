"""What is around a call and is not to change it: a front door computes the same inside as outside."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
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


def front_door(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes apart; of an operator that several processes share, all make the same call."""

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        shared = next((x.in_step for x in given if hasattr(x, "in_step")), None)
        step = contextlib.nullcontext() if shared is None else shared(lambda: of_call(function, args, kwargs))
        with apart(), step:
            return function(*args, **kwargs)

    return entered
