"""A denoiser over a range of noise levels: what it errs, what SURE says, and what its Jacobian says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral.ambient import front_door, tell
from spectral.base import Result
from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.estimators import Estimate
from spectral.estimators.results import with_error
from spectral.jacobians.jacobian import check_asked
from spectral.jacobians.model import Model
from spectral.jacobians.ways import called
from spectral.options import number, seed_of, whole
from spectral.plots import inline
from spectral.risk.level import with_level
from spectral.risk.sure import sure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class RiskCurve(Result):
    """Three measures of the risk per entry, image by image and noise level by noise level.

    Attributes:
        sigmas: (S,), noise levels.
        mse: (S, B), |f(y) - x|^2 / d.
        sure: (S, B), its unbiased estimate from y alone (eq. 7 of Kadkhodaie et al. 2024).
        sure_error: (S, B), the standard errors that `sure` stated.
        bayes: (S, B), sigma^2 tr J / d, the risk of an optimal denoiser (eq. 10): where it differs from
            mse, f is not E[x | y].
        products: with J and J', for each image and level.
        notes: what the reader should know of the model.
    """

    sigmas: Tensor
    mse: Tensor
    sure: Tensor
    sure_error: Tensor
    bayes: Tensor
    products: int
    notes: list[str] = field(default_factory=list, kw_only=True)

    def mean(self, name: str) -> Estimate:
        """The mean over images of "mse", "sure" or "bayes", (S,), with its standard error between images."""
        return _mean(getattr(self, name), self.products)

    def gap(self, name: str) -> Estimate:
        """The mean over images of `name` - mse, (S,), image by image: its error is the difference's own."""
        return _mean(getattr(self, name) - self.mse, self.products)

    def covered(self, level: float = 0.95) -> Tensor:
        """(S,), the share of images whose mse lies in sure's interval at `level`."""
        half = Estimate(self.sure, self.sure_error, 1, 0, "sure", math.inf).halfwidth(level)
        return ((self.sure - self.mse).abs() <= half).double().mean(-1)

    def plot(self) -> Figure:
        """The three against sigma, with 95 % bands; see `spectral.plots.estimates.risk`."""
        from spectral.plots.estimates import risk  # noqa: PLC0415  matplotlib takes a second to import

        return risk(self)

    def _picture(self) -> str:
        named = (("SURE", self.sure), ("sigma^2 tr J", self.bayes), ("true", self.mse))
        drawn = [(name, each.mean(-1).clamp(min=0).sqrt().tolist()) for name, each in named]
        return inline.lines(self.sigmas.tolist(), drawn, "root mean squared error over sigma", log=True)

    def __repr__(self) -> str:
        lines = [
            f"RiskCurve({self.mse.shape[1]} images; root mean squares)",
            "   sigma      true      SURE  sigma^2 tr J",
        ]
        for sigma, *means in zip(
            self.sigmas, *(getattr(self, n).mean(-1) for n in ("mse", "sure", "bayes")), strict=True
        ):
            true, estimated, bayes = (math.sqrt(max(m.item(), 0)) for m in means)
            lines.append(f"{sigma.item():8.4f}  {true:8.5f}  {estimated:8.5f}  {bayes:8.5f}")
        return "\n".join([*lines, *self.notes])


@front_door
def risk_curve(
    model: Callable[..., Tensor],
    images: Tensor,
    sigmas: Sequence[float],
    *,
    products: int | None = None,
    seed: int = 0,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> RiskCurve:
    """Add noise of each level to each image, and compare true error, SURE and sigma^2 tr J.

    Args:
        model: the denoiser.
        images: clean images x, (B, ...).
        sigmas: noise levels.
        products: for each trace; by default as `sure` chooses.
        seed: of noise and probes.
        sigma_keyword: the model's keyword for the noise level; None for a blind denoiser.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Raises:
        OptionError: no sigma, or one that is not positive; images are no floating-point tensor; or the model
            has a parameter sigma that nothing sets.
        ShapeError: images without a batch axis, or the model changes their shape.
        NotFiniteError: the model returned NaN or infinity.
    """
    check_asked(model, images, True, "images")
    sigmas, seed = _levels(sigmas), whole("seed", seed)
    rows: list[tuple[Tensor, ...]] = []
    spent = 0
    for index, sigma in enumerate(sigmas):
        y = images + sigma * _noise(images, seed + index)
        risk = sure(
            model,
            y,
            sigma,
            products=products,
            seed=seed,
            batched=True,
            sigma_keyword=sigma_keyword,
            model_kwargs=model_kwargs,
        )
        keywords = with_level(model, sigma, sigma_keyword, model_kwargs)
        error = (_denoised(model, y, keywords) - images).double().flatten(1).square().mean(1)
        d = images[0].numel()
        rows.append(
            (
                error,
                *map(torch.as_tensor, (risk.value, risk.stderr)),
                sigma**2 * torch.as_tensor(risk.divergence.value) / d,
            )
        )
        spent += risk.products
    mse, values, errors, bayes = (torch.stack(column).cpu() for column in zip(*rows, strict=True))
    return RiskCurve(torch.tensor(sigmas, dtype=torch.float64), mse, values, errors, bayes, spent)


@dataclass(frozen=True, eq=False, repr=False)
class KLBound(Estimate):
    """KL(p || p_theta) <= `value` nats, from the gap of two denoisers' errors.

    Attributes:
        sigmas: (S,), noise levels of the quadrature.
        gaps: (S,), mean over images of |f - x|^2 - |f* - x|^2.
        quadrature: |T(h) - T(2h)| of the trapezoid rule, its error unless the gaps are rough.
    """

    sigmas: Tensor
    gaps: Tensor
    quadrature: float

    def __repr__(self) -> str:
        return (
            f"KLBound({with_error(float(self.value), float(self.halfwidth()))} nats (95 %), quadrature "
            f"within {self.quadrature:.2g}; {self.samples} images, sigma from {self.sigmas[0]:.3g} to "
            f"{'; '.join([f'{self.sigmas[-1]:.3g}', *self.notes])})"
        )


@front_door
def kl_bound(
    model: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    images: Tensor,
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> KLBound:
    """KL(p || p_theta) <= integral (MSE(f) - MSE(f*)) sigma^-3 d sigma (eq. 5 of Kadkhodaie et al. 2024).

    p_theta is the distribution whose score is model's, f* = `reference` the optimal denoiser of p, or the
    best that is known (the bound then is on how much worse f models p than f* does).  The integral is the
    trapezoid rule in log sigma over the levels given: choose them so that the gap times sigma^-2 vanishes at
    both ends.  Both denoisers see the same noise, so the error is that of the difference, between images.

    Args:
        model: f, images (B, ...) -> the same shape.
        reference: f*.
        images: held-out samples x of p, (B, ...).
        sigmas: increasing noise levels, at least 3.
        seed: of the noise.
        sigma_keyword: the keyword of both for the noise level; None where they are blind.
        model_kwargs: keywords for both, {name: value}: label, ...

    Returns:
        Nats for a whole image, with its standard error.

    Raises:
        OptionError: sigmas do not increase, or fewer than 3 of them or 2 images; images are no floating-point
            tensor; or a denoiser has a parameter sigma that nothing sets.
        ShapeError: images without a batch axis, or a denoiser changes their shape.
        NotFiniteError: a denoiser returned NaN or infinity.
    """
    for f in (model, reference):
        check_asked(f, images, True, "images")
    sigmas, seed = _levels(sigmas), whole("seed", seed)
    levels = torch.tensor(sigmas, dtype=torch.float64)
    if len(levels) < 3 or len(images) < 2 or not bool((levels.diff() > 0).all()):
        raise OptionError("the integral takes at least 3 increasing noise levels and 2 images")
    gaps = []
    for index, sigma in enumerate(sigmas):
        y = images + sigma * _noise(images, seed + index)
        errors = []
        for f in (model, reference):
            keywords = with_level(f, sigma, sigma_keyword, model_kwargs)
            errors.append((_denoised(f, y, keywords) - images).double().flatten(1).square().sum(1))
        gaps.append((errors[0] - errors[1]).cpu())
    gap = torch.stack(gaps)
    weighted = gap / levels.square().unsqueeze(-1)
    each = torch.trapezoid(weighted, levels.log(), dim=0)
    coarse = torch.cat([torch.arange(0, len(levels) - 1, 2), torch.tensor([len(levels) - 1])])
    halved = torch.trapezoid(weighted[coarse], levels[coarse].log(), dim=0)
    return KLBound(
        value=each.mean().item(),
        stderr=(each.std() / math.sqrt(len(each))).item(),
        samples=len(each),
        products=0,
        method="trapezoid",
        dof=len(each) - 1,
        sigmas=levels,
        gaps=gap.mean(-1),
        quadrature=abs((each - halved).mean().item()),
    )


def _denoised(model: Callable[..., Any], y: Tensor, keywords: dict[str, Any]) -> Tensor:
    f = Model(model, keywords)
    _, _, output = called(f, y, tell, recorded=False)
    if f.switched:
        tell(f.in_evaluation("the error is"))
    if output.shape != y.shape:
        raise ShapeError(f"the denoiser maps {tuple(y.shape)} to {tuple(output.shape)}")
    if not torch.isfinite(output).all():
        raise NotFiniteError(f"{f.name} returned NaN or infinity")
    return output


def _noise(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed))
    return torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)


def _levels(sigmas: Sequence[float]) -> list[float]:
    """The noise levels, once they are what they should be."""
    try:
        levels = [number("sigmas", sigma) for sigma in sigmas]
    except TypeError:  # of what is no sequence
        levels = []
    if not levels or min(levels) <= 0:
        raise OptionError("noise levels are positive numbers in the units of the images, at least one")
    return levels


def _mean(each: Tensor, products: int) -> Estimate:
    count = each.shape[-1]
    return Estimate(each.mean(-1), each.std(-1) / math.sqrt(count), count, products, "images", count - 1)
