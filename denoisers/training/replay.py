"""A step of training as a CUDA graph: most of what a small network's step costs is launching its kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from spectral.jacobians.program.cuda_graphs import beside, capturing

Update = Callable[..., Tensor]
"""Tensors of a batch, wherever they are, -> its loss; what else it changes stays where it is in memory."""

FIRST = 3  # updates as they are: libraries set up what cannot be captured, and optimisers their moments


class Replay:
    """update(*batch): the first few times as it is, then by a graph; the loss is the caller's own.

    Where no graph can be made of an update, one that asks the device for a value, all go as they are.

    Args:
        update: the same kernels in the same order each time.
        device: a GPU.
    """

    def __init__(self, update: Update, device: torch.device) -> None:
        self.update, self.device, self._done = update, device, 0
        # A graph is captured on a stream of its own, and autograd goes back on the one it went forwards on.
        self._side = torch.cuda.Stream(device)
        self._copies = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._held: list[Tensor] = []
        self._loss = torch.empty(0)

    def __call__(self, *batch: Tensor) -> Tensor:
        """The update of a batch, of one shape at all times, on the device or in pinned memory."""
        if self._done == FIRST:
            with suppress(RuntimeError):
                self._capture(batch)
        self._done += 1
        if self._graph is None:
            with beside(self._side):
                return self.update(*batch)
        for held, part in zip(self._held, self._arrived(batch), strict=True):
            held.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _arrived(self, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """The batch on the device, where it is copied to while the step before is at work."""
        with torch.cuda.stream(self._copies):
            there = [part.to(self.device, non_blocking=True) for part in batch]
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._copies)
        for part in there:
            part.record_stream(now)  # which reads it later than its own would let others have its memory
        return there

    def _capture(self, batch: tuple[Tensor, ...]) -> None:
        graph = torch.cuda.CUDAGraph()
        self._held = [torch.empty_like(part, device=self.device) for part in batch]
        with beside(self._side), capturing(graph, self._side, self._held[0]):
            self._loss = self.update(*self._held)
        self._graph = graph
