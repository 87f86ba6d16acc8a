"""Stein's unbiased risk estimate: a denoiser's mean squared error from the noisy image alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import OptionError, ShapeError
from spectral.estimators import Estimate, trace
from spectral.estimators.probes import sampler
from spectral.estimators.results import Number, plain, with_error
from spectral.estimators.sampling import FEWEST
from spectral.estimators.trace import METHODS
from spectral.jacobians import jacobian
from spectral.jacobians.sharded import ShardedJacobian
from spectral.operators import LinearOperator
from spectral.options import choice
from spectral.risk.blackbox import FiniteDifference
from spectral.risk.level import with_level
from spectral.risk.noise import sigma_by_median, sigma_by_residual

FINITE_DIFFERENCE = "finite-difference"  # beside the methods of `trace`

_PROBES = 4  # for tr J^2, on which only the error bar rests


@dataclass(frozen=True, eq=False, repr=False)
class Sure(Estimate):
    """The mean squared error |f(y) - x|^2 / d of this y, estimated without x; `stderr` contains all sources.

    Attributes:
        divergence: tr J, with the error of probing it.
        noise_error: the part of `stderr` that no number of probes removes, since x is not known.
        sigma: noise level used; `sigma_error` its standard error, 0 where it was given.
        rule: "given", "median" or "residual".
    """

    divergence: Estimate
    noise_error: Number
    sigma: Number
    sigma_error: Number
    rule: str

    @property
    def psnr(self) -> Number:
        """-10 log10 MSE in dB, peak 1; NaN where the estimate of the MSE is not positive."""
        value = torch.as_tensor(self.value, dtype=torch.float64)
        return plain(-10 * torch.where(value > 0, value, math.nan).log10())

    def sampling_text(self) -> str:
        """How tr J was had: the other error is that of the noise."""
        return f"tr J {self.divergence.sampling_text()}"

    def __repr__(self) -> str:
        if isinstance(self.value, Tensor):
            return f"Sure({super().__repr__()}, divergence {self.divergence!r})"
        error = float(self.halfwidth())
        told = f"PSNR {float(self.psnr):.2f} dB" if self.value > 0 else "no PSNR"
        spent = "; ".join([f"{self.products} products", *self.notes])
        return (
            f"Sure(MSE {with_error(self.value, error)} (95 %), {told}; sigma "
            f"{float(self.sigma):.4g} {self.rule}; divergence {self.divergence!r}; {spent})"
        )


@front_door
def sure(
    model: Any,
    y: Tensor,
    sigma: float | Tensor | Literal["median", "residual"],
    *,
    method: str = "auto",
    products: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    batched: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Sure:
    """MSE = (|y - f(y)|^2 + 2 sigma^2 tr J - sigma^2 d) / d, unbiased for y = x + N(0, sigma^2 I).

    Its error against the squared error of this very y has two sources, both in `stderr`:
    probing tr J, and the noise, with variance (SURE for SURE, Bellec and Zhang 2021; exact in expectation)

        d^2 Var = 4 sigma^2 |y - f|^2 + 4 sigma^4 tr J^2 - 2 sigma^4 d,   tr J^2 from 4 probes.

    By default tr J is given as many probes as make its share a third of the noise's, as the same 4 probes
    tell: 8 from d = 1000 or so, 16 products in all.  More would not sharpen the answer.

    Args:
        model: the denoiser f, any shape preserved; colour and channels count in d.  Or a Jacobian of
            `sharded`, with sigma a number; its keywords are those that it was made with.
        y: the noisy image; of `sharded`, the rows that lie here.
        sigma: standard deviation of the noise, a float or (B,); or a rule to estimate it from y: "median"
            (`sigma_by_median`), or "residual" (`sigma_by_residual`; SURE then is sigma^2 tr J, the error of
            an optimal f).  Its error is propagated.
        method: for tr J, as in `trace`; "finite-difference" for a black box without derivatives
            (`FiniteDifference` with step sigma/100, Hutchinson's estimator).
        products: products with J and J' to spend on tr J.
        rtol: relative accuracy of tr J at 95 % instead.
        seed: of the probes.
        batched: whether the first axis of y counts separate images.
        sigma_keyword: the model's keyword for the noise level, told as a float, or as a tensor (B,) where it
            differs between images; None for a blind denoiser.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Returns:
        The mean squared error of each image, (B,) where batched; noted where it is negative, by chance, or
        since the noise in y is not of this sigma.

    Raises:
        ShapeError: f changes the shape.
        OptionError: sigma is not positive, or an unknown rule; the model has a parameter sigma that nothing
            sets, or is told what only its residual would say.

    Example:
        >>> x = torch.zeros(1, 1, 64, 64)
        >>> y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        >>> risk = spectral.sure(lambda y: y / 2, y, sigma=0.1)
        >>> low, high = risk.interval(0.95)
        >>> bool(low < (y / 2 - x).square().mean() < high)
        True
    """
    choice("method", method, (*METHODS, FINITE_DIFFERENCE))
    if isinstance(sigma, str) and sigma == "residual" and sigma_keyword is not None:
        raise OptionError('the residual tells the level of a blind denoiser: give sigma itself, or "median"')
    if isinstance(model, ShardedJacobian):
        options = (isinstance(sigma, str), method == FINITE_DIFFERENCE, batched, sigma_keyword, model_kwargs)
        model.domain.together(lambda: _check_shared(model, y, any(options)))
    level, level_error, rule = _level(model, y, sigma, batched, seed, model_kwargs)
    if isinstance(model, ShardedJacobian):
        A: Any = model
    else:
        told = level.to(y) if level.ndim else level.item()
        keywords = with_level(model, told, sigma_keyword, model_kwargs)
        if method == FINITE_DIFFERENCE:
            A = FiniteDifference(model, y, level / 100, batched, keywords)
        else:
            A = jacobian(model, y, batched=batched, model_kwargs=keywords)
    if method != FINITE_DIFFERENCE and A.input_shape != A.output_shape:
        raise ShapeError(f"the denoiser maps {A.input_shape} to {A.output_shape}")
    d, started = A.shape[1], A.count
    level = level.to(A.device)
    difference = (y - A.output).double().reshape(*A.batch, 1, -1)
    residual = A.codomain.dots(difference, difference).squeeze(-1)
    squared, energy = _squares(A, seed)
    noise = (4 * level**2 * residual + 4 * level**4 * squared - 2 * level**4 * d).clamp(min=0).sqrt() / d

    how = "hutchinson" if method == FINITE_DIFFERENCE else method
    if products is None and rtol is None:
        products = _enough(energy, noise * d / (6 * level**2), d)
        # So few probes are better spent without a sketch.
        how = "hutchinson" if method == "auto" and products < d else how
    divergence = trace(A, method=how, products=products, rtol=rtol, seed=seed + 1)

    tr, tr_error = (torch.as_tensor(x, dtype=torch.float64) for x in (divergence.value, divergence.stderr))
    value = (residual + level**2 * (2 * tr - d)) / d
    slope = 2 * level * (2 * tr - d) / d
    error = (noise**2 + (2 * level**2 * tr_error / d) ** 2 + (slope * level_error) ** 2).sqrt()
    found = Sure(
        value=plain(value),
        stderr=plain(error),
        samples=divergence.samples,
        products=A.count - started,
        method=method,
        dof=math.inf,
        divergence=divergence,
        noise_error=plain(noise),
        sigma=plain(level),
        sigma_error=plain(level_error),
        rule=rule,
    )
    return replace(found, notes=_negative(found))


def _negative(found: Sure) -> list[str]:
    """What it means where no squared error could be what is estimated."""
    value, half = (torch.as_tensor(x, dtype=torch.float64) for x in (found.value, found.halfwidth(0.999)))
    which = f"{{}} of {len(value)} estimates are" if value.ndim else "the estimate is"
    beyond, within = int((value + half < 0).sum()), int(((value < 0) & (value + half >= 0)).sum())
    notes = []
    if beyond:
        notes.append(
            f"{which.format(beyond)} negative, beyond its 99.9 % error: the noise in y is not of this sigma"
        )
    if within:
        notes.append(f"{which.format(within)} negative, within the error of a small one")
    return notes


def _check_shared(A: ShardedJacobian, y: Tensor, others: bool) -> None:
    """That a Jacobian over several processes is asked what it can say.

    Raises:
        OptionError: an option is of a model alone.
        ShapeError: y is not where the Jacobian was made.
    """
    if others:
        raise OptionError(
            "of a Jacobian over several processes sigma is a number, and keywords are those that it was made "
            'with: "median", "residual", finite differences and batched= are for a model, in one process'
        )
    if y.shape != A.y.shape or not torch.equal(y, A.y):
        raise ShapeError("y is the image, the rows that lie here of it, at which the Jacobian was made")


def _level(
    model: Any, y: Tensor, sigma: Any, batched: bool, seed: int, model_kwargs: Mapping[str, Any] | None
) -> tuple[Tensor, Tensor, str]:
    """sigma, its standard error and the rule, float64, () or (B,)."""
    if isinstance(sigma, str):
        if sigma == "median":
            found = sigma_by_median(y, batched=batched)
        elif sigma == "residual":
            found = sigma_by_residual(model, y, seed=seed, batched=batched, model_kwargs=model_kwargs)
        else:
            raise OptionError(f'sigma is a number, "median" or "residual", got {sigma!r}')
        value, error = (torch.as_tensor(x, dtype=torch.float64) for x in (found.value, found.stderr))
        return value, error, sigma
    try:
        value = torch.as_tensor(sigma, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise OptionError(f'sigma is a number, "median" or "residual", got {sigma!r}') from None
    # Its square is what counts.
    if not bool((value > 1e-150).all()) or not bool((value < 1e150).all()):
        raise OptionError(f"sigma is a standard deviation in the units of the image, positive; got {sigma}")
    if value.ndim > batched or (value.ndim and value.shape != y.shape[:1]):
        raise OptionError(f"sigma has one entry, or one per image where batched; got {tuple(value.shape)}")
    return value, torch.zeros_like(value), "given"


def _squares(A: LinearOperator, seed: int) -> tuple[Tensor, Tensor]:
    """tr J^2 = E <J' z, J z>, E <z, J J z> for a black box; and |S|_F^2 = (|J|_F^2 + tr J^2)/2."""
    Z = sampler(A, seed=seed)(_PROBES)
    image = A.apply(Z)
    if isinstance(A, FiniteDifference):
        squared = A.domain.dots(Z, A.apply(image)).mean(-1)
    else:
        squared = A.domain.dots(A.apply_transpose(Z), image).mean(-1)
    return squared, ((A.codomain.dots(image, image).mean(-1) + squared) / 2).clamp(min=0)


def _enough(energy: Tensor, error: Tensor, d: int) -> int:
    """Probes of variance 2 |S|_F^2, at least 8, that leave tr J this standard error in the worst image.

    Where noise contributes nothing that can be told, half a percent of sqrt(d) is error enough.
    """
    needed = 2 * energy / error.clamp(min=5e-3 * math.sqrt(d)).square()
    return min(d, max(FEWEST, math.ceil(needed.max().item())))
