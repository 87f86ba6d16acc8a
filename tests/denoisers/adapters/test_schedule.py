"""Levels: from sigma / alpha to times and back, ends, and what lies between timesteps."""

import math

import pytest
import torch

from denoisers.adapters import ByTime, Diffusion, Discrete, Exploding, Flow, mean_from
from spectral.errors import OptionError

SIGNAL = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist()
SCHEDULES = {
    "discrete": Discrete(SIGNAL),
    "flow": Flow(1000.0),
    "exploding": Exploding(0.002, 80.0),
    "scaled": Exploding(0.002, 80.0, lambda s: math.log(s) / 4, scaled=True),
    "falling": ByTime(lambda t: (1 - t / 2, t), 0.01, 1.0),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_there_and_back(kind):
    schedule = SCHEDULES[kind]
    for ratio in (0.02, 0.7, 1.6):
        level = schedule.at_ratio(ratio)
        assert level.ratio == pytest.approx(ratio, rel=1e-14)
        back = schedule.at_time(level.time)
        assert back.alpha == pytest.approx(level.alpha, rel=1e-12)
        assert back.sigma == pytest.approx(level.sigma, rel=1e-12)


def test_timesteps_are_met_exactly():
    schedule = Discrete(SIGNAL)
    for t in (0, 1, 500, 998, 999):
        level = schedule.at_time(t)
        assert (level.alpha, level.sigma) == (math.sqrt(SIGNAL[t]), math.sqrt(1 - SIGNAL[t]))
        rounded = float(torch.tensor(level.ratio, dtype=torch.float32))
        found = schedule.at_ratio(rounded).time
        assert found == t and isinstance(found, int)


def test_between_timesteps():
    a, b = (Discrete(SIGNAL).at_time(t) for t in (40, 41))
    ratio = math.sqrt(a.ratio * b.ratio)
    level = Discrete(SIGNAL).at_ratio(ratio)
    assert level.time == pytest.approx(40.5) and level.ratio == pytest.approx(ratio, rel=1e-14)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
    nearest = Discrete(SIGNAL, "nearest")
    assert nearest.at_ratio(1.001 * ratio) == b and nearest.at_ratio(0.999 * ratio) == a
    with pytest.raises(OptionError, match="whole timesteps"):
        nearest.at_time(40.5)


def test_the_nearest_level_is_named():
    network = lambda z, t: z  # noqa: E731
    f = Diffusion(network, Discrete(SIGNAL, "nearest"))
    level = Discrete(SIGNAL).at_time(40)
    assert f.at(sigma=1.001 * level.ratio / 2).sigma == level.ratio / 2


def test_no_signal_at_the_end():
    """Zero terminal signal: a timestep with an infinite ratio, told v, and only in the network's view."""
    schedule = Discrete([*SIGNAL[:-1], 0.0])
    assert schedule.highest == pytest.approx(Discrete(SIGNAL).at_time(998).ratio)
    f = Diffusion(lambda z, t: -0.5 * torch.ones_like(z), schedule, "v")
    z = torch.randn(1, 1, 2, 2)
    torch.testing.assert_close(f.seen(timestep=999)(z), 0.5 * torch.ones_like(z))
    with pytest.raises(OptionError, match="noise alone"):
        f.at(timestep=999)
    with pytest.raises(OptionError, match="noise alone"):
        mean_from("epsilon", 0.0, 1.0)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_levels_out_of_range(kind):
    schedule = SCHEDULES[kind]
    for ratio in (0.99 * schedule.lowest, 1.01 * schedule.highest, -1.0, 0.0):
        with pytest.raises(OptionError, match=r"sigma lies in \["):
            schedule.at_ratio(ratio)
    low, high = sorted((schedule.first, schedule.last))
    for time in (low - 1e-3, high + 1e-3):
        with pytest.raises(OptionError, match=r"timestep lies in \["):
            schedule.at_time(time)
    for ratio in (schedule.lowest, schedule.highest):
        assert schedule.at_ratio(ratio * (1 + 1e-7)).ratio == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discrete([0.5]),
        lambda: Discrete([0.1, 0.5]),
        lambda: Discrete([1.5, 0.5]),
        lambda: Discrete(SIGNAL, "linear"),
        lambda: Exploding(2.0, 1.0),
        lambda: Exploding(0.0, 1.0),
        lambda: Flow(0.0),
        lambda: ByTime(lambda t: (1.0, 1 - t), 0.0, 0.9),
        lambda: ByTime(lambda t: (1 - t, t)),
    ],
)
def test_bad_schedules(make):
    with pytest.raises(OptionError):
        make()
