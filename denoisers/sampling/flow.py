"""The probability flow, dy/dsigma = (y - f(y, sigma)) / sigma, by Heun's rule and by DDIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from denoisers.sampling.result import Samples
from denoisers.sampling.scheduled import falling, follow, levels_between
from denoisers.sampling.start import Caller, levels_of, noisy

Step = Callable[[Tensor, Tensor, float, float], Tensor]
"""(y, f(y, s), s, s') -> y at s'."""


def heun(
    model: Callable[..., Any],
    shape: Sequence[int],
    count: int = 4,
    *,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    steps: int = 20,
    rho: float = 7.0,
    levels: Sequence[float] | None = None,
    mean: float = 0.5,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    progress: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images by Heun's rule along the probability flow (Karras et al. 2022, Algorithm 1): error O(steps^-2).

        slope(y, s) = (y - f(y, s)) / s,   a = slope(y, s),
        y <- y + (s' - s) (a + slope(y + (s' - s) a, s')) / 2   from each level s to the next, s',

    begun at N(mean, sigma_start^2 I); the image is f(y, sigma_end) at the last level. 2 steps - 1 evaluations
    an image. Nothing is drawn on the way: an image is a function of its noise.

    Args:
        model: the denoiser, told the level (see sigma_keyword) or blind.
        shape, count, mean, seed, first, every, progress, model_kwargs: as for `denoisers.sample`.
        sigma_start, sigma_end, steps, rho: `steps` levels, equidistant in sigma^(1/rho).
        levels: falling levels to use instead of these four.
        sigma_keyword: the model's keyword for the noise level, told as a tensor without axes; None for a
            parameter called sigma, or, where there is none, a blind denoiser.

    Raises:
        OptionError, ShapeError, NotFiniteError: as `denoisers.sample`.
    """

    def step(y: Tensor, f: Tensor, s: float, after: float) -> Tensor:
        a = (y - f) / s
        ahead = y + (after - s) * a
        return y + (after - s) * (a + (ahead - caller(ahead, after)) / after) / 2

    origin, told = (seed, first), _levels(levels, sigma_start, sigma_end, steps, rho)
    caller = Caller(model, sigma_keyword, model_kwargs)
    y, _ = noisy(caller, shape, count, mean, told[0], origin)
    name = f"Heun's rule, {len(told)} levels"
    return follow(_along(step, caller, y, told), caller, name, told[-1], origin, every, progress)


def ddim(
    model: Callable[..., Any],
    shape: Sequence[int],
    count: int = 4,
    *,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    steps: int = 40,
    rho: float = 7.0,
    levels: Sequence[float] | None = None,
    mean: float = 0.5,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    progress: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images by deterministic DDIM (Song, Meng and Ermon 2021), Euler's rule on the flow: error O(1/steps).

        y <- f(y, s) + (s'/s) (y - f(y, s))   from each level s to the next, s'.

    One evaluation a level. Arguments, the end and errors are those of `heun`.
    """

    def step(y: Tensor, f: Tensor, s: float, after: float) -> Tensor:
        return f + (after / s) * (y - f)

    origin, told = (seed, first), _levels(levels, sigma_start, sigma_end, steps, rho)
    caller = Caller(model, sigma_keyword, model_kwargs)
    y, _ = noisy(caller, shape, count, mean, told[0], origin)
    name = f"DDIM, {len(told)} levels"
    return follow(_along(step, caller, y, told), caller, name, told[-1], origin, every, progress)


def _along(step: Step, caller: Caller, y: Tensor, told: list[float]) -> Iterator[tuple[float, Tensor]]:
    """Each level and the images denoised there, y going from one to the next by a rule."""
    for s, after in pairwise(told):
        f = caller(y, s)
        yield s, f
        y = step(y, f, s, after)
    yield told[-1], caller(y, told[-1])


def _levels(levels: Sequence[float] | None, start: float, end: float, steps: int, rho: float) -> list[float]:
    return falling(levels) if levels is not None else levels_between(*levels_of(start, end), steps, rho)
