"""Noise levels that a diffusion network was trained at: from sigma / alpha to its timestep, and back."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

from denoisers.adapters.prediction import Level
from spectral.errors import OptionError
from spectral.options import choice, number

SLACK = 1e-5  # relative: a level that went through float32 is still the one it was
WHOLE = 1e-3  # timesteps: nearer to a whole one than float32 tells of sigma, it is that one


class Schedule(ABC):
    """Levels (alpha, sigma, time) of z = alpha w + sigma n, in order of rising ratio sigma / alpha.

    Attributes:
        lowest, highest: ratios that `at_ratio` takes; ends that float32 rounds over are within.
        first, last: times that `at_time` takes, `first` the one with the least noise.
    """

    lowest: float
    highest: float
    first: float
    last: float

    def at_ratio(self, ratio: float, width: float = 1.0) -> Level:
        """The level with sigma / alpha = ratio, scaled as the network was trained.

        width: of the network's units; an error tells ratio / width, the noise level in the user's.

        Raises:
            OptionError: the network was not trained at such a level.
        """
        if not self.lowest * (1 - SLACK) <= ratio <= self.highest * (1 + SLACK):
            low, high = self.lowest / width, self.highest / width
            raise OptionError(
                f"sigma lies in [{low:.4g}, {high:.4g}], the levels of this schedule, got {ratio / width:.4g}"
            )
        return self._at_ratio(min(max(ratio, self.lowest), self.highest))

    def at_time(self, time: float) -> Level:
        """The level of a timestep, or of a continuous time.

        Raises:
            OptionError: the network was not trained at such a time.
        """
        low, high = sorted((self.first, self.last))
        if not low <= time <= high:
            raise OptionError(f"timestep lies in [{low:g}, {high:g}] for this schedule, got {time:g}")
        return self._at_time(time)

    @abstractmethod
    def _at_ratio(self, ratio: float) -> Level: ...

    @abstractmethod
    def _at_time(self, time: float) -> Level: ...


class Discrete(Schedule):
    """alpha_t = sqrt(c_t), sigma_t = sqrt(1 - c_t) at whole timesteps t = 0, 1, ..., c_t falling.

    Between two timesteps, t is interpolated linearly in log(sigma / alpha), as samplers do that take levels
    of their own: alpha and sigma are exact for the level that was asked for, and the network is told a
    timestep that is no whole number. At the timesteps themselves nothing is interpolated. No y can be
    rescaled to another ratio, so `between="nearest"`, for networks that look timesteps up in a table, takes
    the network's own denoiser at the nearest timestep, alpha and sigma included: y is then denoised for a
    level up to half a step away, less than a percent in most of a usual schedule, a fifth at its first steps.

    Args:
        signal: c_t, the cumulative products of 1 - beta_t ("alphas_cumprod").
        between: "interpolate" or "nearest".
    """

    def __init__(self, signal: Sequence[float], between: str = "interpolate") -> None:
        choice("between", between, ("interpolate", "nearest"))
        self.signal, self.between = [float(c) for c in signal], between
        if (
            len(self.signal) < 2
            or not 0 <= self.signal[-1] < self.signal[0] <= 1
            or any(b >= a for a, b in pairwise(self.signal))
        ):
            raise OptionError("a schedule has two or more values that fall, in [0, 1]")
        # Without noise, and without image, there is no finite ratio: those ends are timesteps alone.
        self._times = [t for t, c in enumerate(self.signal) if 0 < c < 1]
        self._logs = [math.log((1 - self.signal[t]) / self.signal[t]) / 2 for t in self._times]
        self.first, self.last = self._times[0], len(self.signal) - 1
        self.lowest, self.highest = math.exp(self._logs[0]), math.exp(self._logs[-1])

    def _at_ratio(self, ratio: float) -> Level:
        x, logs = math.log(ratio), self._logs
        i = min(max(bisect.bisect_right(logs, x) - 1, 0), len(logs) - 2)
        t = self._times[i] + min(max((x - logs[i]) / (logs[i + 1] - logs[i]), 0.0), 1.0)
        if self.between == "nearest":
            return self._at_time(round(t))
        if abs(t - round(t)) < WHOLE:
            t = round(t)
        alpha = 1 / math.hypot(1, ratio)
        return Level(alpha, ratio * alpha, t)

    def _at_time(self, time: float) -> Level:
        if time != int(time):
            if self.between == "nearest" or time > self._times[-1]:
                raise OptionError(f"this schedule has whole timesteps, got {time:g}")
            i = min(int(time) - self._times[0], len(self._logs) - 2)
            part = time - self._times[i]
            ratio = math.exp((1 - part) * self._logs[i] + part * self._logs[i + 1])
            alpha = 1 / math.hypot(1, ratio)
            return Level(alpha, ratio * alpha, time)
        c = self.signal[int(time)]
        return Level(math.sqrt(c), math.sqrt(1 - c), int(time))


class Flow(Schedule):
    """alpha = 1 - sigma: straight lines from images to noise; the network is told scale sigma.

    Args:
        scale: what the network counts time in: 1000 for timesteps in (0, 1000].
    """

    def __init__(self, scale: float = 1000.0) -> None:
        self.scale = number("scale", scale)
        if self.scale <= 0:
            raise OptionError(f"scale is positive, got {scale}")
        self.lowest, self.highest = 1e-6, 1e6
        self.first, self.last = 0.0, self.scale

    def _at_ratio(self, ratio: float) -> Level:
        sigma = ratio / (1 + ratio)
        return Level(1 / (1 + ratio), sigma, self.scale * sigma)

    def _at_time(self, time: float) -> Level:
        sigma = time / self.scale
        if sigma == 0:
            raise OptionError("at timestep 0 there is no noise: f is the identity there")
        return Level(1 - sigma, sigma, time)


class Exploding(Schedule):
    """alpha = 1: z = w + sigma n, the network told sigma or a function of it.

    Args:
        lowest, highest: levels that the network was trained at.
        label: sigma -> what the network is told, rising; sigma itself by default.
        scaled: z / sqrt(1 + sigma^2) is what the network sees, so that alpha = 1 / sqrt(1 + sigma^2).
    """

    def __init__(
        self,
        lowest: float,
        highest: float,
        label: Callable[[float], float] | None = None,
        scaled: bool = False,
    ) -> None:
        self.lowest, self.highest = number("lowest", lowest), number("highest", highest)
        if not 0 < self.lowest < self.highest:
            raise OptionError(f"levels rise from lowest to highest, positive, got {lowest} and {highest}")
        self._label, self._scaled = label or _same, scaled
        self.first, self.last = self._label(self.lowest), self._label(self.highest)

    def _at_ratio(self, ratio: float) -> Level:
        alpha = 1 / math.hypot(1, ratio) if self._scaled else 1.0
        return Level(alpha, ratio * alpha, self._label(ratio))

    def _at_time(self, time: float) -> Level:
        ratio = _where(
            lambda x: self._label(math.exp(x)), time, math.log(self.lowest), math.log(self.highest)
        )
        return self._at_ratio(math.exp(ratio))._replace(time=time)


class ByTime(Schedule):
    """alpha and sigma as functions of a continuous time; sigma / alpha rises from `first` to `last`.

    A ratio's time is found by bisection, to rounding.

    Args:
        functions: t -> (alpha, sigma).
        first, last: times; where there is no noise, or no image, start and end a little inside.
    """

    def __init__(
        self, functions: Callable[[float], tuple[float, float]], first: float = 0.0, last: float = 1.0
    ) -> None:
        self._functions, self.first, self.last = functions, number("first", first), number("last", last)
        self.lowest, self.highest = self._at_time(self.first).ratio, self._at_time(self.last).ratio
        if not 0 < self.lowest < self.highest < math.inf:
            raise OptionError(
                f"sigma / alpha rises from first to last, positive and finite; got {self.lowest:g} at "
                f"{self.first:g} and {self.highest:g} at {self.last:g}"
            )

    def _at_ratio(self, ratio: float) -> Level:
        time = _where(lambda t: self._at_time(t).ratio, ratio, self.first, self.last)
        alpha, sigma, _ = self._at_time(time)
        size = math.hypot(alpha, sigma) / math.hypot(
            1, ratio
        )  # the ratio is exact, whatever the functions round
        return Level(size, ratio * size, time)

    def _at_time(self, time: float) -> Level:
        alpha, sigma = self._functions(time)
        return Level(float(alpha), float(sigma), time)


def _same(sigma: float) -> float:
    return sigma


def _where(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """x between two ends, in either order, with rising(x) = value."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high if abs(rising(high) - value) <= abs(rising(low) - value) else low
