"""What is around a call and is not to change it: a front door computes the same inside as outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Outside of inference mode and of autocast, which would round a solver's own arithmetic.

    As a decorator it puts every call of a function there.
    """
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield
