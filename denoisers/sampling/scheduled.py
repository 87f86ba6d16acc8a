"""What samplers with a schedule of noise levels share: the levels, and the way through them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from denoisers.sampling.result import Samples
from denoisers.sampling.start import Caller, every_of
from spectral.errors import OptionError
from spectral.options import number, whole
from spectral.progress import bar
from spectral.solvers.control import Progress
from spectral.solvers.search import INTERRUPTED


def levels_between(high: float, low: float, count: Any, rho: Any) -> list[float]:
    """`count` falling levels, equidistant in sigma^(1/rho) (Karras et al. 2022): rho = 7 usual, 1 linear.

    Raises:
        OptionError: count < 2, or rho < 1.
    """
    n, power = whole("steps", count), number("rho", rho)
    if n < 2:
        raise OptionError(f"steps must be >= 2, got {n}")
    if power < 1:
        raise OptionError(f"rho must be >= 1, got {power:g}")
    ends = high ** (1 / power), low ** (1 / power)
    return [(ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** power for i in range(n)]


def falling(levels: Sequence[Any]) -> list[float]:
    """Levels that a user gave.

    Raises:
        OptionError: there are none, or they do not fall, or one is not positive.
    """
    told = [number("levels", level) for level in levels]
    if not told or min(told) <= 0 or any(b >= a for a, b in pairwise(told)):
        raise OptionError(f"levels are positive and fall, got {told}")
    return told


@torch.no_grad()
def follow(
    path: Iterable[tuple[float, Tensor]],
    caller: Caller,
    method: str,
    end: float,
    origin: tuple[int, int],
    every: int,
    progress: bool,
) -> Samples:
    """Go through (noise level, denoised images) one by one; the last images are what is returned."""
    every = every_of(every)
    began = time.perf_counter()
    levels: list[float] = []
    frames: list[tuple[int, Tensor]] = []
    notes: list[str] = []
    images: Tensor | None = None
    with caller.ready(), bar(progress, "sampling", unit="evaluations") as report:
        try:
            for sigma, denoised in path:
                images = denoised
                levels.append(sigma)
                if every and (len(levels) - 1) % every == 0:
                    frames.append((len(levels), denoised.cpu()))
                if report is not None:
                    report(Progress("solve", caller.evaluations, len(images), 0, sigma, end))
        except KeyboardInterrupt:
            if images is None:
                raise
            notes.append(INTERRUPTED)
    if images is None:
        raise OptionError("a schedule holds at least one level")
    if every and frames[-1][0] != len(levels):
        frames.append((len(levels), images.cpu()))
    count = len(images)
    return Samples(
        images=images.cpu(),
        sigmas=torch.tensor(levels, dtype=torch.float64).expand(count, -1).clone(),
        steps=torch.full((count,), len(levels)),
        converged=torch.full((count,), levels[-1] <= end * (1 + 1e-9)),
        sigma_end=end,
        method=method,
        seed=origin[0],
        first=origin[1],
        evaluations=caller.evaluations,
        seconds=time.perf_counter() - began,
        trajectory=torch.stack([x for _, x in frames], 1) if every else None,
        frames=[t for t, _ in frames],
        notes=notes,
    )
