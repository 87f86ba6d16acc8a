"""Linear inverse problems with a denoiser as the prior: the ascent, constrained to what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoisers.sampling.ascent import Ascent, ascend, blind
from denoisers.sampling.measurement import Constraint, functions_of
from denoisers.sampling.result import Samples
from denoisers.sampling.start import begin
from spectral.errors import ShapeError
from spectral.options import number


def solve(
    model: Callable[..., Any],
    measurement: Any,
    values: Tensor,
    *,
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
    """Images with the measured values M' x = x_c, likely under the prior in a blind denoiser.

    The ascent of `denoisers.sample` with

        d = (I - M M') (f(y) - y) + M (x_c - M' y),

    M with orthonormal columns, begun at N((I - M M') mean + M x_c, sigma_start^2 I); what is returned is
    (I - M M') f(y) + M x_c, which has the measured values to rounding. Each image is one draw: the mean of
    several of the same values is nearer to the truth in mean square than any of them, and less sharp.
    (Kadkhodaie and Simoncelli 2021, arXiv 2007.13640.)

    Args:
        model: the denoiser f, as for `denoisers.sample`.
        measurement: A with A A' a multiple of the identity, or with few values, whose A A' is then inverted:
            one of `denoisers.sampling` (`Inpainting`, `BlockAverage`, `RandomProjections`, `Frequencies`), an
            object with measure(x) and adjoint(v), or with A(x) and A_adjoint(v) as linear physics of deepinv
            have, a pair of functions (A, A'), or a `spectral.LinearOperator` on flattened images.
        values: A x, (B, ...): one row per image; values.expand(8, ...) for 8 draws of the same.
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
    run = Ascent.of(h0, beta, sigma_start, sigma_end, max_steps, every, growing)
    caller = blind(model, model_kwargs)
    if not isinstance(values, Tensor) or values.ndim < 2 or not len(values):
        raise ShapeError("values are a tensor (B, ...), one row per image: values[None] for a single one")
    with torch.no_grad():
        maps = functions_of(measurement, None if shape is None else tuple(shape))
        constraint = Constraint(*maps, values.detach().to(caller.device, caller.dtype))
        if shape is not None and constraint.shape != tuple(shape):
            raise ShapeError(f"the measurement is of images {constraint.shape}, not {tuple(shape)}")
        sides, many, noise = begin(caller, constraint.shape, len(values), seed, first)
        grey = constraint.values.new_full((many, *sides), number("mean", mean))
        centre = constraint.project(grey, torch.arange(many, device=caller.device))
    return ascend(
        caller, noise, centre, run, constraint.project, "constrained ascent", (seed, first), progress
    )
