"""A diffusion network and its schedule as a denoiser y -> E[x | y]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from denoisers.adapters.prediction import Level, mean_from, prediction_of
from denoisers.adapters.schedule import Schedule
from spectral.errors import ModelOutputError, OptionError, ShapeError
from spectral.jacobians.model import first_tensor
from spectral.options import choice, number

Condition = Mapping[str, Any]
"""Keywords of the network beside image and time: tensors with an axis of images, or of one for all."""


class Diffusion(nn.Module):
    """f(y, sigma) = E[x | y],  y = x + sigma n, of a network that was trained on z = alpha w + sigma_z n.

    x are images in [0, 1], and w = low + (high - low) x the same images in the network's units. At the level
    with sigma_z / alpha = (high - low) sigma,

        z = alpha (low + (high - low) y),   E[w | z] = a z + b F(z, t),   f = (E[w | z] - low) / (high - low),

    (a, b) by what F predicts (`mean_from`). So J = df/dy = alpha dE[w | z]/dz, and for an optimal network

        Cov[x | y] = sigma^2 J,   J symmetric and non-negative:

    `spectral.posterior`, `sure`, `risk_curve` and the samplers of `denoisers` take f as it is, with
    `sigma_keyword="sigma"`. `f.at(timestep=500)` is f at one level, a function of y alone;
    `f.seen(timestep=500)` is z -> E[w | z], for an input in the scale of the schedule. Nothing is clipped.

    With guidance g the network's output is F_0 + g (F_1 - F_0), F_1 and F_0 told `condition` and
    `unconditional`. For g = 0 and 1 the network is called once; for others f is no conditional mean, and J
    need not be symmetric (`spectral.top_svd`).

    Args:
        network: F(z, t, **condition), t (N,) the time of each image. Of a wrapped output `.sample` or the
            first tensor is taken, of twice the channels of z the first half (the rest are variances). It
            is called in the precision of its weights; all else keeps that of y.
        schedule: the levels that it was trained at, and what it is told of them.
        prediction: what F is: "epsilon", "v", "sample", "flow", "score" or "edm".
        units: (low, high), what 0 and 1 are to the network; None for latents, which stay as they are.
        condition: keywords for the network; tensors of one row are for all images.
        unconditional: those that differ where nothing is asked for; needed for guidance other than 1.
        guidance: g.
        streams: "together", both in one call of twice the images; or "apart", in half the memory.

    Raises:
        OptionError: an option out of range.
    """

    told = True

    def __init__(
        self,
        network: Any,
        schedule: Schedule,
        prediction: str = "epsilon",
        *,
        units: tuple[float, float] | None = (-1.0, 1.0),
        condition: Condition | None = None,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
        streams: str = "together",
    ) -> None:
        super().__init__()
        low, high = (0.0, 1.0) if units is None else (number("units", end) for end in units)
        if not low < high:
            raise OptionError(f"units are what 0 and 1 are to the network, low < high; got {units}")
        choice("streams", streams, ("together", "apart"))
        self.network, self.schedule, self.prediction = network, schedule, prediction_of(prediction)
        self.low, self.width = low, high - low
        self.condition = dict(condition or {})
        self.unconditional = None if unconditional is None else dict(unconditional)
        self.guidance, self.streams = number("guidance", guidance), streams
        if self.guidance != 1 and self.unconditional is None:
            raise OptionError(
                f"guidance {self.guidance:g} needs what the network is told where nothing is asked for: "
                "pass unconditional (negative, of a prompt)"
            )

    def forward(self, y: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        """E[x | y] at a noise level, one number or one per image (N,).

        condition: instead of those given at construction, by name.

        Raises:
            OptionError: a level that the network was not trained at.
            ShapeError: y has no axis of images, or the network's output is of another shape.
        """
        return self.denoised(y, [self.level(s) for s in _numbers(sigma, y)], condition)

    @property
    def sigmas(self) -> tuple[float, float]:
        """The lowest and the highest noise level of y."""
        return self.schedule.lowest / self.width, self.schedule.highest / self.width

    def level(self, sigma: float) -> Level:
        """What the network makes of a noise level of y."""
        return self.schedule.at_ratio(self.width * sigma, self.width)

    def at(self, *, sigma: float | None = None, timestep: float | None = None) -> AtLevel:
        """y -> f(y, sigma) at one level, by sigma or by timestep; its `sigma` says which."""
        return AtLevel(self, self._one_level(sigma, timestep))

    def seen(self, *, sigma: float | None = None, timestep: float | None = None) -> Seen:
        """z -> E[w | z] at one level, z and w as the network sees them."""
        return Seen(self, self._one_level(sigma, timestep))

    def _one_level(self, sigma: float | None, timestep: float | None) -> Level:
        if (sigma is None) == (timestep is None):
            raise OptionError("a level is named by sigma or by timestep: give one of them")
        if sigma is not None:
            return self.level(number("sigma", sigma))
        return self.schedule.at_time(number("timestep", timestep))

    def denoised(self, y: Tensor, levels: list[Level], condition: Condition) -> Tensor:
        """E[x | y] at one level, or one per image."""
        _check_images(y)
        alpha = _factor([c.alpha for c in levels], y)
        w = self.mean(self.width * alpha * y + self.low * alpha, levels, condition)
        return (w - self.low) / self.width

    def mean(self, z: Tensor, levels: list[Level], condition: Condition) -> Tensor:
        """E[w | z] at one level, or one per image."""
        pairs = [mean_from(self.prediction, c.alpha, c.sigma) for c in levels]
        b = _factor([b for _, b in pairs], z)
        mean = b * self._predicted(z, _times(levels, z), condition)
        return mean if self.prediction == "sample" else _factor([a for a, _ in pairs], z) * z + mean

    def _predicted(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        asked, g = self.condition | dict(condition), self.guidance
        if g == 1 or self.unconditional is None:
            return self._called(z, t, asked)
        free = asked | self.unconditional
        if g == 0:
            return self._called(z, t, free)
        if self.streams == "apart":
            without, with_it = self._called(z, t, free), self._called(z, t, asked)
        else:
            told = {name: _both(name, free[name], asked.get(name), z) for name in free}
            without, with_it = self._called(torch.cat([z, z]), torch.cat([t, t]), told).chunk(2)
        return without + g * (with_it - without)

    def _precision(self, z: Tensor) -> torch.dtype:
        """That of the network's weights, where they have one."""
        weights = self.network.parameters() if isinstance(self.network, nn.Module) else ()
        own = {w.dtype for w in weights if w.is_floating_point()}
        return own.pop() if len(own) == 1 else z.dtype

    def _called(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        own = z.to(self._precision(z))
        told = {name: _placed(value, own) for name, value in condition.items()}
        out = tensor_of(self.network(own, t, **told), type(self.network).__name__).to(z.dtype)
        if out.ndim == z.ndim and out.shape[1] == 2 * z.shape[1]:
            out = out[:, : z.shape[1]]  # beside them, learned variances
        if out.shape != z.shape:
            raise ShapeError(
                f"{type(self.network).__name__} turns {tuple(z.shape)} into {tuple(out.shape)}: what a "
                "diffusion network predicts has the shape of its input, or twice its channels"
            )
        return out


class AtLevel(nn.Module):
    """y -> f(y, sigma), at one noise level of a `Diffusion`.

    Attributes:
        sigma: of the noise in y.
        level: alpha, sigma and time of the network.
    """

    told = False

    def __init__(self, denoiser: Diffusion, level: Level) -> None:
        super().__init__()
        if not level.alpha > 0:
            raise OptionError(
                f"at timestep {level.time:g} there is noise alone, and sigma is infinite: take an earlier "
                "one, or seen(timestep=...)"
            )
        self.denoiser, self.level = denoiser, level
        self.sigma = level.ratio / denoiser.width

    def forward(self, y: Tensor, **condition: Any) -> Tensor:
        """E[x | y]."""
        _check_fixed(condition)
        return self.denoiser.denoised(y, [self.level], condition)


class Seen(nn.Module):
    """z -> E[w | z] at one noise level, z = alpha w + sigma n and w in the units of the network.

    Cov[w | z] = `variance` J,  J = dE[w | z]/dz and variance = sigma^2 / alpha; J is 1 / alpha times the
    Jacobian of the same denoiser at y.

    Attributes:
        level: alpha, sigma and time.
        variance: sigma^2 / alpha.
    """

    told = False

    def __init__(self, denoiser: Diffusion, level: Level) -> None:
        super().__init__()
        self.denoiser, self.level = denoiser, level
        self.variance = level.sigma * level.ratio

    def forward(self, z: Tensor, **condition: Any) -> Tensor:
        """E[w | z]."""
        _check_fixed(condition)
        _check_images(z)
        return self.denoiser.mean(z, [self.level], condition)

    def z_of(self, y: Tensor) -> Tensor:
        """alpha (low + (high - low) y): what the network sees of y = x + sigma n, x in [0, 1]."""
        return self.level.alpha * (self.denoiser.low + self.denoiser.width * y)

    def y_of(self, z: Tensor) -> Tensor:
        """(z / alpha - low) / (high - low), the inverse."""
        return (z / self.level.alpha - self.denoiser.low) / self.denoiser.width


def _check_fixed(condition: Condition) -> None:
    if "sigma" in condition:
        raise OptionError("the noise level is fixed here: leave sigma out, or take the denoiser without at()")


def _check_images(y: Tensor) -> None:
    if y.ndim < 2 or not len(y):
        raise ShapeError(
            f"images have a first axis that counts them, (N, C, H, W), got {tuple(y.shape)}: y[None] adds it"
        )


def _numbers(sigma: Tensor | float, y: Tensor) -> list[float]:
    """Noise levels of images y: one, or one for each."""
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return [number("sigma", sigma)]
    if sigma.ndim > 1 or len(sigma) not in (1, len(y)):
        raise OptionError(
            f"sigma is one number, or one for each of {len(y)} images, got {tuple(sigma.shape)}"
        )
    return [number("sigma", s) for s in sigma.tolist()]


def _factor(values: list[float], y: Tensor) -> Any:
    """One number, or one for each image as a factor of images."""
    if len(values) == 1:
        return values[0]
    each = torch.tensor(values, dtype=torch.float64).to(y)
    return each.reshape(-1, *[1] * (y.ndim - 1))


def _times(levels: list[Level], z: Tensor) -> Tensor:
    """(N,): whole numbers where all are, else of at least float32, in which timesteps are told apart."""
    times = [c.time for c in levels]
    whole = all(isinstance(t, int) for t in times)
    dtype = torch.int64 if whole else torch.promote_types(z.dtype, torch.float32)
    return torch.tensor(times, dtype=dtype, device=z.device).expand(len(z))


def _placed(value: Any, z: Tensor) -> Any:
    """A condition on z's device, floats in its precision, one row for each image."""
    if isinstance(value, Mapping):
        return {name: _placed(v, z) for name, v in value.items()}
    if not isinstance(value, Tensor):
        return value
    placed = value.to(z.device, z.dtype if value.is_floating_point() else value.dtype)
    return placed.expand(len(z), *placed.shape[1:]) if placed.ndim and len(placed) == 1 else placed


def _both(name: str, free: Any, asked: Any, z: Tensor) -> Any:
    """A condition of both streams, those without it first."""
    if isinstance(free, Mapping) and isinstance(asked, Mapping):
        return {key: _both(f"{name}[{key!r}]", free[key], asked.get(key), z) for key in free}
    if isinstance(free, Tensor) and isinstance(asked, Tensor) and free.ndim:
        first, second = _placed(free, z), _placed(asked, z)
        if first.shape[1:] != second.shape[1:]:
            raise ShapeError(
                f"{name} has the shape {tuple(first.shape[1:])} in one stream and {tuple(second.shape[1:])} "
                'in the other: pad the shorter, or streams="apart"'
            )
        return torch.cat([first, second])
    same = free is asked if isinstance(free, Tensor) or isinstance(asked, Tensor) else free == asked
    if not same:
        raise OptionError(f'the streams differ in {name}, which is no tensor in both: streams="apart"')
    return free


def tensor_of(output: Any, name: str) -> Tensor:
    """The tensor that is meant in what a network or a layer returns: `.sample`, or what comes first.

    Raises:
        ModelOutputError: that is no tensor.
    """
    while isinstance(output, (tuple, list)) and output and not hasattr(output, "sample"):
        output = output[0]
    found = output if isinstance(output, Tensor) else first_tensor(output)[1]
    if found is None:
        raise ModelOutputError(f"{name} returned a {type(output).__name__} without a tensor")
    return found
