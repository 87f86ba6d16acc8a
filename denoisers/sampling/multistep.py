"""Sampling with consistency functions, in one step or several (Song, Dhariwal, Chen and Sutskever 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from denoisers.sampling.result import Samples
from denoisers.sampling.scheduled import falling, follow
from denoisers.sampling.start import Caller, noisy
from spectral.errors import OptionError
from spectral.options import number


def consistency(
    model: Callable[..., Any],
    shape: Sequence[int],
    count: int = 4,
    *,
    levels: Sequence[float] = (1.0,),
    sigma_min: float = 0.002,
    mean: float = 0.5,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    progress: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images by a consistency function f(x, sigma), which takes any point of the flow to its end.

        x = f(mean + s_1 z, s_1),   then for each further level s:   x <- f(x + sqrt(s^2 - sigma_min^2) z, s).

    One level is one-step sampling. Units are the model's own: levels and mean of one for [-1, 1] are twice
    those for [0, 1], and its mean is 0.

    Args:
        model: f; it is told the level under sigma_keyword, or as sigma.
        shape, count, mean, seed, first, every, progress, sigma_keyword, model_kwargs: as for `heun`.
        levels: falling.
        sigma_min: the level that f ends at, below all others.

    Raises:
        OptionError: the model is not told the level, or levels do not fall to one above sigma_min.
        ShapeError, NotFiniteError: as `denoisers.sample`.
    """
    told, least = falling(levels), number("sigma_min", sigma_min)
    if not 0 <= least < told[-1]:
        raise OptionError(f"sigma_min lies in [0, {told[-1]:g}), got {least:g}")
    caller = Caller(model, sigma_keyword, model_kwargs)
    if not caller.told:
        raise OptionError(
            "a consistency function f(x, sigma) is told the level: name the keyword, as in sigma_keyword='t'"
        )
    start, noise = noisy(caller, shape, count, mean, told[0], (seed, first))

    def path(y: Tensor) -> Iterator[tuple[float, Tensor]]:
        x = caller(y, told[0])
        yield told[0], x
        for s in told[1:]:
            x = caller(x + math.sqrt(s**2 - least**2) * noise(), s)
            yield s, x

    name = f"consistency function, {len(told)} level{'s' if len(told) > 1 else ''}"
    return follow(path(start), caller, name, told[-1], (seed, first), every, progress)
