"""Annealed Langevin dynamics (Song and Ermon 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from denoisers.sampling.result import Samples
from denoisers.sampling.scheduled import falling, follow
from denoisers.sampling.start import Caller, levels_of, noisy
from spectral.errors import OptionError
from spectral.options import number, whole


def langevin(
    model: Callable[..., Any],
    shape: Sequence[int],
    count: int = 4,
    *,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    steps: int = 20,
    per_level: int = 5,
    epsilon: float = 0.2,
    levels: Sequence[float] | None = None,
    mean: float = 0.5,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    progress: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images by Langevin dynamics at noise levels that fall, `per_level` steps at each.

        y <- y + (epsilon / 2) (f(y, s) - y) + sqrt(epsilon) s z,

    the step epsilon s^2 of the score (f - y) / s^2; at rest y has the density of x + N(0, s^2), but for
    a part of at most epsilon / (4 - epsilon) of the variance. The image is f(y, sigma_end) at the last level
    (Jolicoeur-Martineau et al. 2021).

    Args:
        model, shape, count, mean, seed, first, every, progress, sigma_keyword, model_kwargs: as for `heun`.
        sigma_start, sigma_end, steps: `steps` levels in geometric progression.
        per_level: steps at each level.
        epsilon: in (0, 2).
        levels: falling levels to use instead.

    Raises:
        OptionError, ShapeError, NotFiniteError: as `denoisers.sample`.
    """
    repeats, step = whole("per_level", per_level), number("epsilon", epsilon)
    if repeats < 1 or not 0 < step < 2:
        raise OptionError(f"per_level must be >= 1 and epsilon lie in (0, 2), got {repeats} and {step:g}")
    told = falling(levels) if levels is not None else _geometric(*levels_of(sigma_start, sigma_end), steps)
    caller = Caller(model, sigma_keyword, model_kwargs)
    start, noise = noisy(caller, shape, count, mean, told[0], (seed, first))

    def path(y: Tensor) -> Iterator[tuple[float, Tensor]]:
        for s in told:
            for _ in range(repeats):
                f = caller(y, s)
                yield s, f
                y = y + step / 2 * (f - y) + math.sqrt(step) * s * noise()
        yield told[-1], caller(y, told[-1])

    name = f"annealed Langevin, {len(told)} levels x {repeats}, epsilon {step:g}"
    return follow(path(start), caller, name, told[-1], (seed, first), every, progress)


def _geometric(high: float, low: float, steps: Any) -> list[float]:
    n = whole("steps", steps)
    if n < 2:
        raise OptionError(f"steps must be >= 2, got {n}")
    return [high * (low / high) ** (i / (n - 1)) for i in range(n)]
