"""What every sampler begins with: the model as a function of y and sigma, and noisy images to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from denoisers.chunks import CHUNK_PIXELS
from denoisers.sampling.noise import Noise
from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.jacobians.keywords import keywords_of
from spectral.jacobians.model import Model, parameters_of
from spectral.options import number, seed_of, whole
from spectral.risk.level import takes_sigma


class Caller:
    """(y, sigma) -> f(y), or f(y, sigma) for a model that is told: (B, C, H, W) -> the same, in chunks.

    sigma_keyword: the model's keyword for the noise level; None for "sigma" where it has a parameter of that
    name, and for a blind denoiser otherwise. The level is told as a tensor without axes.

    Attributes:
        told: whether the model is told the level.
        evaluations: images that went through the model so far.
        dtype, device: of the model's parameters; float32 on the CPU where there are none.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        sigma_keyword: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        keywords = keywords_of(model_kwargs)
        if sigma_keyword is None and "sigma" not in keywords and takes_sigma(model):
            sigma_keyword = "sigma"
        if sigma_keyword is not None and sigma_keyword in keywords:
            raise OptionError(
                f"sigma_keyword and model_kwargs both set {sigma_keyword!r}: leave one of them out"
            )
        self.keyword, self.told, self.evaluations = sigma_keyword, sigma_keyword is not None, 0
        self.model = Model(model, keywords)
        self.model.check_loaded()
        parameters = [p for p in parameters_of(self.model.modules) if p is not None]
        self.device = parameters[0].device if parameters else torch.device("cpu")
        self.dtype = self.model.precision() or torch.float32

    @contextmanager
    def ready(self) -> Iterator[None]:
        """In evaluation mode and without gradients; all of the model's own is put back afterwards."""
        with self.model.ready():
            yield

    def __call__(self, y: Tensor, sigma: float | None = None) -> Tensor:
        """f at each image.

        Raises:
            ShapeError: the model changes the shape.
            NotFiniteError: it returned NaN or infinity.
        """
        if self.keyword is not None:
            self.model.keywords[self.keyword] = torch.as_tensor(sigma, dtype=y.dtype, device=y.device)
        parts = y.split(max(1, CHUNK_PIXELS // y[0].numel()))
        f = torch.cat([self.model(part) for part in parts]).to(y.dtype)
        self.evaluations += len(y)
        if f.shape != y.shape:
            raise ShapeError(
                f"{self.model.name} turns {tuple(y.shape)} into {tuple(f.shape)}: a denoiser keeps the shape"
            )
        if not f.isfinite().all():
            raise NotFiniteError(
                f"{self.model.name} returned NaN or infinity: start from a lower noise level, one it was "
                "trained at"
            )
        return f


def begin(
    caller: Caller, shape: Sequence[int], count: Any, seed: Any, first: Any
) -> tuple[tuple[int, ...], int, Noise]:
    """The checked shape of an image and number of images, and their noise.

    Raises:
        OptionError: count < 1, first < 0, or a bad seed.
        ShapeError: shape is no (C, H, W) of positive numbers.
    """
    try:
        sides = tuple(whole("shape", side) for side in shape)
    except TypeError:
        raise ShapeError(f"shape is that of one image, (C, H, W), got {shape!r}") from None
    if len(sides) != 3 or min(sides) < 1:
        raise ShapeError(f"shape is that of one image, (C, H, W), got {sides}: grey ones have C = 1")
    count, first = whole("count", count), whole("first", first)
    if count < 1:
        raise OptionError(f"count must be >= 1, got {count}")
    if first < 0:
        raise OptionError(f"first must be >= 0, got {first}")
    return sides, count, Noise(seed_of(seed), first, count, sides, caller.dtype, caller.device)


def noisy(
    caller: Caller, shape: Sequence[int], count: Any, mean: Any, sigma: float, origin: tuple[Any, Any]
) -> tuple[Tensor, Noise]:
    """Images from N(mean, sigma^2 I) to start from, and the noise that they go on with.

    origin: (seed, first). Raises what `begin` does.
    """
    _, _, noise = begin(caller, shape, count, *origin)
    return number("mean", mean) + sigma * noise(), noise


def levels_of(start: Any, end: Any) -> tuple[float, float]:
    """Noise levels to start and to end at.

    Raises:
        OptionError: not start > end > 0.
    """
    high, low = number("sigma_start", start), number("sigma_end", end)
    if not high > low > 0:
        raise OptionError(
            f"noise levels fall from sigma_start to sigma_end, both positive; got {high:g} and {low:g}"
        )
    return high, low


def every_of(every: Any) -> int:
    """How often a frame is kept, 0 for never.

    Raises:
        OptionError: it is negative, or no whole number.
    """
    value = whole("every", every)
    if value < 0:
        raise OptionError(f"every is a number of steps, 0 for no trajectory; got {value}")
    return value
