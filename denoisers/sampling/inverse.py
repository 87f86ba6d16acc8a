"""Linear inverse problems with a denoiser as the prior: the ascent, constrained to what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoisers.sampling.ascent import Ascent, ascend, blind
from denoisers.sampling.constraint import Constraint
from denoisers.sampling.measurement import functions_of, noise_of
from denoisers.sampling.result import Samples
from denoisers.sampling.start import begin
from spectral.errors import OptionError, ShapeError
from spectral.options import number


def solve(
    model: Callable[..., Any],
    measurement: Any,
    values: Tensor,
    *,
    noise: float | Tensor | None = None,
    shape: Sequence[int] | None = None,
    h0: float = 0.01,
    beta: float = 0.1,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    mean: float = 0.5,
    max_steps: int = 5000,
    seed: int = 0,
    first: int = 0,
    every: int = 0,
    growing: bool = True,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Samples:
    """Images with the measured values v = M' x + tau n, likely under the prior in a blind denoiser.

    The ascent of `denoisers.sample` with f drawn to the values, before each step, by the noise of both:

        f_v = f(y) + w M (v - M' f(y)),   w = sigma^2 / (sigma^2 + tau^2),   d = f_v - y,

    M with orthonormal columns, n ~ N(0, I), and sigma = |f(y) - y| / sqrt(N). f_v is E[x | y, v] where
    Cov[x | y], which is sigma^2 J, is sigma^2 I on what is measured. Towards sigma = 0

        d / sigma^2 = (f(y) - y) / sigma^2 + M (v - M' y) / tau^2,

    the score of the posterior; as beta and the steps become small, draws become draws from it. With tau = 0,
    w = 1 and d = (I - M M') (f(y) - y) + M (v - M' y), the constrained ascent as it was published. It begins
    at N(f_v of the mean, sigma_start^2 I); what is returned is f_v, for tau = 0 with the values to rounding.
    The truth and a draw from its posterior have the same distribution given v: |M' x - v| of draws is about
    tau sqrt(r), r the number of values. Each image is one draw: the mean of several of the same values is
    nearer to the truth in mean square than any of them, and less sharp. Of another A than M' see
    `denoisers.sampling.constraint.Constraint`. (Kadkhodaie and Simoncelli 2021, arXiv 2007.13640.)

    Args:
        model: the denoiser f, as for `denoisers.sample`.
        measurement: A, linear; without noise with A A' a multiple of a projection, or of few values, so that
            A A' is formed. One of `denoisers.sampling` (`Inpainting`, `BlockAverage`, `RandomProjections`,
            `Frequencies`), an object with measure(x) and adjoint(v), or with A(x) and A_adjoint(v) as linear
            physics of deepinv have, a pair of functions (A, A'), or a `spectral.LinearOperator` on flattened
            images.
        values: A x, (B, ...): one row per image; values.expand(8, ...) for 8 draws of the same.
        noise: tau, the standard deviation of the values' noise, one number or one an image (a tensor (B,));
            None for that of deepinv's physics where it has GaussianNoise, and for 0 elsewhere.
        shape: (C, H, W), for an operator.
        h0, beta, sigma_start, sigma_end, mean, max_steps, seed, first, every, growing, progress,
            model_kwargs: as for `denoisers.sample`.

    Returns:
        The images; after Ctrl-C those there are, with the note "interrupted".

    Raises:
        ShapeError: values, measurement and shape do not fit together.
        NotSymmetricError: A' is not the transpose of A.
        OptionError, NotFiniteError: as for `denoisers.sample`, and see `Constraint`.
    """
    run = Ascent(h0, beta, sigma_start, sigma_end, max_steps, every, growing)
    caller = blind(model, model_kwargs)
    if not isinstance(values, Tensor) or values.ndim < 2 or not len(values):
        raise ShapeError("values are a tensor (B, ...), one row per image: values[None] for a single one")
    if values.is_complex():
        raise OptionError(
            "values are real: of complex ones give real and imaginary parts, torch.view_as_real(values), and "
            "a measurement of these"
        )
    with torch.no_grad():
        maps = functions_of(measurement, None if shape is None else tuple(shape))
        tau = noise_of(measurement, noise, len(values))
        constraint = Constraint(*maps, values.detach().to(caller.device, caller.dtype), tau)
        if shape is not None and constraint.shape != tuple(shape):
            raise ShapeError(f"the measurement is of images {constraint.shape}, not {tuple(shape)}")
        sides, many, streams = begin(caller, constraint.shape, len(values), seed, first)
        grey = constraint.values.new_full((many, *sides), number("mean", mean))
        start = constraint.values.new_full((many,), run.sigma_start)
        centre = constraint.project(grey, start, torch.arange(many, device=caller.device))
    method = "constrained ascent" + (f", noise {tau.max():g}" if tau.any() else "")
    return ascend(caller, streams, centre, run, constraint.project, method, (seed, first), progress)
