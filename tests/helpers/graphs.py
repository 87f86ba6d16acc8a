"""A stand-in for CUDA graphs, which repeats what says how it is repeated.

    monkeypatch.setattr(module, "torch", Torch())

While CAPTURING holds a graph, what is computed appends to its `work` a function that computes it again.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import torch

CAPTURING: list["Recorded"] = []
DRAWING = {"captured": False}  # whether the stand-in's generator takes a graph to be captured, as CUDA's does


class Recorded:
    """A graph of the stand-in for CUDA: it repeats what was computed while it was captured."""

    def __init__(self) -> None:
        self.work = []

    def replay(self) -> None:
        for repeat in self.work:
            repeat()


@contextmanager
def capturing(graph, **_):
    CAPTURING.append(graph)
    DRAWING["captured"] = True
    try:
        yield
        DRAWING["captured"] = False  # of a capture that fails torch does not come so far
    finally:
        CAPTURING.pop()


class Torch:
    """torch, with what graphs need of torch.cuda on the CPU."""

    cuda = SimpleNamespace(
        CUDAGraph=Recorded,
        graph=capturing,
        device=nullcontext,
        stream=nullcontext,
        Stream=lambda *_: Mock(),
        Event=Mock,
        current_stream=Mock(),
    )

    def __getattr__(self, name):
        return getattr(torch, name)
