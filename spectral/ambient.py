"""What is around a call and is not to change it: a front door computes the same inside as outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def apart(door: Callable[P, R]) -> Callable[P, R]:
    """The function outside of inference mode and autocast, which would round its own arithmetic."""

    @functools.wraps(door)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            return door(*args, **kwargs)

    return entered
