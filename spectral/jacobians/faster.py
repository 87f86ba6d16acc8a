"""J' u of single vectors by the faster of two ways: a program's, or a graph that is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from spectral.jacobians.program.program import Product

log = logging.getLogger("spectral")

AFTER = 8  # products: a graph costs two or three, which fewer would not bring in
TRIED = 3  # of each way, the program's last: of more the least is less
GAIN = 0.95  # the graph must take less than this share of the time


class FasterBack:
    """A product of blocks by a program; from the AFTER-th single vector on by a graph, where that is faster.

    Both are timed on the vector that comes, and must agree on it.  Blocks go by the program, which takes
    several vectors at once.

    Args:
        program: V -> J' v for each row.
        graph: makes the same product by a graph, or raises.
        tolerance: relative, up to which they agree.

    Attributes:
        remark: says that the graph is taken, once it is.
    """

    def __init__(
        self,
        program: Product,
        graph: Callable[[], Product],
        tolerance: float,
    ) -> None:
        self.program, self._graph, self._tolerance, self.remark = program, graph, tolerance, ""
        self._taken: list[float] = []  # seconds of single vectors
        self._decided, self._kept = False, program

    def __call__(self, V: Tensor) -> Tensor:
        """J' v for each row of V (m, ...)."""
        if len(V) > 1:
            return self.program(V)
        if self._decided:
            return self._kept(V)
        began = time.perf_counter()
        result = self.program(V)
        self._taken.append(time.perf_counter() - began)
        if len(self._taken) >= AFTER:
            self._decided = True
            self._try(V, result)
        return result

    def _try(self, V: Tensor, result: Tensor) -> None:
        try:
            graph = self._graph()
            taken = []
            for _ in range(TRIED):
                began = time.perf_counter()
                other = graph(V)
                taken.append(time.perf_counter() - began)
        except Exception:  # torch cannot, or has no room: the program stays
            return
        apart = torch.linalg.vector_norm(other - result)
        if not apart <= self._tolerance * torch.linalg.vector_norm(result):
            return
        share = min(taken) / min(self._taken[-TRIED:])
        if share < GAIN:
            self._kept = graph
            self.remark = f"J' u of single vectors by a kept graph, in {share:.2f} of the time"
            log.info(self.remark)
