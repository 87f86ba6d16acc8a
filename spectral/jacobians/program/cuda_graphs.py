"""A product replayed as a CUDA graph, where it is measured on the spot that this gains.

The product of a small network is a hundred kernels of some microseconds, and costs what their launches cost;
a graph launches all at once.  A large network's kernels hide their launches, and a graph would only keep a
product's memory.  So once a shape has come up as often as a trial costs products, one is captured, its replay
is held against the product on an input that it was not captured with, and both are timed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import float32_settings
from spectral.jacobians.free_memory import free_bytes
from spectral.jacobians.program.program import Product

PATIENCE = 10  # products of a shape before its trial, which costs about as many
TIMED = 3  # timings of either, of which the least counts
GAIN = 0.95  # a replay must take less than this share of the product's time
KEPT = 4  # graphs, each with the memory of a product
SHARE = 1 / 8  # of the free memory: where a product takes more, launches are not what it costs


def captured(product: Product, V: Tensor) -> Product:
    """The product by a CUDA graph, for inputs of V's shape on V's device."""
    graph, done, held = torch.cuda.CUDAGraph(), torch.cuda.Event(), V.clone()
    with torch.cuda.device(V.device):
        side = torch.cuda.Stream()
        with beside(side):
            product(held)  # what libraries set up for a stream cannot be captured
            with capturing(graph, side, held):
                out = product(held)

    def replay(V: Tensor) -> Tensor:
        stream = torch.cuda.current_stream(V.device)
        done.wait(stream)  # the last replay may have been on another stream
        held.copy_(V)
        graph.replay()
        result = out.clone()
        done.record(stream)
        return result

    return replay


@contextlib.contextmanager
def beside(side: torch.cuda.Stream) -> Iterator[None]:
    """On a stream, after what the current one has begun; the current one then goes on after it."""
    now = torch.cuda.current_stream(side.device)
    side.wait_stream(now)
    with torch.cuda.stream(side):
        yield
    now.wait_stream(side)


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph, side: torch.cuda.Stream, V: Tensor) -> Iterator[None]:
    """Into a graph, `beside`, which puts the current stream back where this fails; other threads go on.

    Releases of torch leave the device's generator capturing then, so that `torch.randn` raises from then on:
    a copy of V, which can be captured, ends that.
    """
    try:
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            yield
    except Exception:
        another, alone = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with (
            contextlib.suppress(RuntimeError),
            torch.cuda.graph(another, stream=alone, capture_error_mode="thread_local"),
        ):
            V.clone()
        raise


def device_seconds(product: Product, V: Tensor) -> float:
    """What product(V) takes by the GPU's clock, launches included: the least of a few."""
    stream = torch.cuda.current_stream(V.device)
    taken = []
    for _ in range(TIMED):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream.synchronize()
        began.record(stream)
        product(V)
        ended.record(stream)
        ended.synchronize()
        taken.append(began.elapsed_time(ended) / 1e3)
    return min(taken)


class Replayed:
    """product(V), by a graph for each shape and precision where that gains; results are the caller's own.

    Args:
        product: (c, ...) -> (c, ...), the same kernels in the same order for every V of a shape.
        vector_bytes: that it holds at once, for each of the c.
        note: told why where no graph can be made; products are then formed without.
        capture: product, V -> the product by a graph, for inputs of V's shape.
        seconds: product, V -> the time that it takes.
    """

    def __init__(
        self,
        product: Product,
        vector_bytes: int,
        note: Callable[[str], None],
        capture: Callable[[Product, Tensor], Product] = captured,
        seconds: Callable[[Product, Tensor], float] = device_seconds,
    ) -> None:
        self.product, self.vector_bytes, self.note = product, vector_bytes, note
        self.capture, self.seconds, self.capturable = capture, seconds, True
        self._seen: Counter[Any] = Counter()
        self._ways: dict[Any, Product] = {}

    def __call__(self, V: Tensor) -> Tensor:
        """product(V)."""
        key = V.shape, V.dtype, V.device, float32_settings()  # a graph goes on as it was captured
        if key in self._ways:
            return self._ways[key](V)
        self._seen[key] += 1
        if self._seen[key] > PATIENCE:
            self._ways[key] = self._faster(V)
        return self.product(V)

    def _faster(self, V: Tensor) -> Product:
        """The product by a graph, or as it is."""
        kept = sum(way is not self.product for way in self._ways.values())
        needed = self.vector_bytes * len(V)
        if not self.capturable or kept == KEPT or needed > SHARE * free_bytes(V.device):
            return self.product
        try:
            graph = self.capture(self.product, torch.ones_like(V))
            expected = self.product(V).double()
            apart, size = (graph(V).double() - expected).norm(), expected.norm()
            if not apart <= min(1e3 * torch.finfo(V.dtype).eps, 0.1) * size:
                raise RuntimeError(f"a replay was off by {apart / size:.0e}")
            return graph if self.seconds(graph, V) < GAIN * self.seconds(self.product, V) else self.product
        except Exception as failure:
            # Whatever torch and CUDA say of it, the product itself can still be formed.
            reason = str(failure).strip().split("\n")[0][:120]
            self.note(f"no CUDA graphs ({type(failure).__name__}: {reason})")
            self.capturable = False
            return self.product
