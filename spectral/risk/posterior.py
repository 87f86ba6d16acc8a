"""The posterior of the clean image, to second order: Cov[x | y] = sigma^2 J for an optimal denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.base import Result
from spectral.eigs import top_eigs
from spectral.errors import OptionError, ShapeError
from spectral.estimators import Estimate, trace
from spectral.estimators.diagonal import diagonal_of
from spectral.estimators.results import plain, student_t
from spectral.estimators.sampling import Budget
from spectral.jacobians import jacobian
from spectral.operators import LinearOperator, from_functions
from spectral.options import number
from spectral.plots import inline
from spectral.results import EigenPairs
from spectral.risk.level import with_level

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorComponents(Result):
    """Mean, principal components and pixel variances of x given y, as a denoiser's Jacobian states them.

    They are the posterior's where the denoiser is E[x | y] (Miyasawa 1961): then J is symmetric and
    non-negative, and `pairs.asymmetry` and negative eigenvalues measure how far it is from that.  With
    `batched` tensors have a leading axis, one entry an image.

    Attributes:
        mean: f(y).
        pairs: eigenpairs of the symmetric part of J: directions e_k and lambda_k.
        sigma: the noise level.
        total_variance: sigma^2 tr J = sum of all pixels' variances, in squared units of y.
        pixel_variance: sigma^2 diag J, an image; may be negative where the denoiser is not optimal.
    """

    mean: Tensor
    pairs: EigenPairs
    sigma: float
    total_variance: Estimate
    pixel_variance: Estimate

    @property
    def deviations(self) -> Tensor:
        """sigma sqrt(lambda_k), (k,) or (B, k), in the units of y: standard deviation of <x, e_k>.

        0 where lambda_k is negative.
        """
        return self.sigma * self.pairs.values.clamp(min=0).sqrt()

    @property
    def explained(self) -> Tensor:
        """sum of the k variances over the total variance, () or (B,); nan where the total is not positive."""
        total = torch.as_tensor(self.total_variance.value, dtype=torch.float64)
        return self.deviations.square().sum(-1).to(total) / torch.where(total > 0, total, math.nan)

    @property
    def pixel_deviation(self) -> Tensor:
        """sigma sqrt(diag J), an image in the units of y; 0 where the variance is negative."""
        return torch.as_tensor(self.pixel_variance.value).clamp(min=0).sqrt()

    def scores(self, clean: Tensor) -> Tensor:
        """<x - f(y), e_k> / (sigma sqrt(lambda_k)), (k,) or (B, k): of variance one where all this holds.

        Raises:
            ShapeError: `clean` is of another shape.
            OptionError: an eigenvalue is not positive.
        """
        if clean.shape != self.mean.shape:
            raise ShapeError(f"the clean image has shape {tuple(self.mean.shape)}, got {tuple(clean.shape)}")
        if not bool((self.deviations > 0).all()):
            raise OptionError("a component has no positive variance: ask for fewer components")
        return self.pairs.coefficients(clean - self.mean) / self.deviations

    def coverage(self, clean: Tensor, level: float = 0.95) -> Estimate:
        """The share of scores inside the Gaussian interval of probability `level`, over held-out images.

        Scores of one image are not independent: the standard error is that between images (batched), and of
        independent scores for one image.
        """
        inside = (self.scores(clean).abs() <= student_t(level, math.inf)).double()
        if inside.ndim == 1:
            share = inside.mean().item()
            error = math.sqrt(share * (1 - share) / len(inside))
            return Estimate(share, error, len(inside), 0, "coverage", math.inf)
        each = inside.mean(-1)
        error = (each.std() / math.sqrt(len(each))).item()
        return Estimate(each.mean().item(), error, len(each), 0, "coverage", len(each) - 1)

    def traversal(self, k: int, steps: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3)) -> Tensor:
        """A strip of images f(y) + t sigma sqrt(lambda_k) e_k, t in `steps`: (len(steps), *mean.shape).

        Raises:
            OptionError: there is no component k (counted from 0).
        """
        count = self.pairs.k
        if not 0 <= k < count:
            raise OptionError(f"components are 0 to {count - 1}, got {k}")
        axis = self.deviations.ndim - 1
        direction = self.pairs.vectors.select(axis, k).reshape(self.mean.shape).to(self.mean)
        size = self.deviations.select(axis, k).to(self.mean)
        size = size.reshape(size.shape + (1,) * (self.mean.ndim - size.ndim))
        return torch.stack([self.mean + t * size * direction for t in steps])

    def plot(self) -> Figure:
        """Mean, deviations and walks along components; see `spectral.plots.estimates.posterior`."""
        from spectral.plots.estimates import posterior as draw  # noqa: PLC0415  takes a second to import

        return draw(self)

    def _picture(self) -> str:
        """Mean, deviations and the first components, where they are images."""
        one = self.mean if self.pairs.values.ndim == 1 else self.mean[0]
        if not inline.is_image(one.shape):
            return ""
        deviation, vectors = (
            x if self.pairs.values.ndim == 1 else x[0] for x in (self.pixel_deviation, self.pairs.vectors)
        )
        first = [(f"component {i}", e, True) for i, e in enumerate(vectors[: inline.MOST - 2], 1)]
        return inline.images([("E[x | y]", one, False), ("deviation", deviation, False), *first])

    def __repr__(self) -> str:
        shown = ", ".join(f"{s:.4f}" for s in self.deviations.reshape(-1, self.pairs.k)[0, :5].tolist())
        shares = self.explained.reshape(-1)[:5].tolist()
        share = ", ".join("no share" if math.isnan(s) else f"{100 * s:.1f} %" for s in shares)
        first = (
            f"PosteriorComponents({self.pairs.k} of standard deviation {shown} ..., explaining {share} of "
            f"the variance {self.total_variance!r})"
        )
        return "\n".join([first, *repr(self.pairs).splitlines()[2:]])


@front_door
def posterior(
    model: Any,
    y: Tensor,
    sigma: float,
    k: int = 6,
    *,
    tol: float = 1e-3,
    products: int = 100,
    seed: int = 0,
    batched: bool = False,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> PosteriorComponents:
    """Principal components of Cov[x | y] = sigma^2 J, its trace and its diagonal.

    Once the k pairs are known, trace and diagonal are probed on what they leave, J - sum lambda e e', whose
    probes vary less.

    Args:
        model: the denoiser.
        y: the noisy image.
        sigma: its noise level, in the units of y.
        k: how many components.
        tol: relative residual of the eigenpairs.
        products: products with J to spend on the trace, and as many on the diagonal.
        seed: of the probes and of the solver's start.
        batched: whether the first axis of y counts separate images.
        sigma_keyword: the model's keyword for the noise level; None for a blind denoiser.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Raises:
        OptionError: sigma or k out of range, or the model has a parameter sigma that nothing sets.
        ShapeError: the model changes the shape of y.

    Example:
        >>> a = torch.tensor([4.0, 1.0, 0.25, 0.0])  # x ~ N(0, diag(a)), whose E[x | y] is linear
        >>> found = spectral.posterior(lambda y: a / (a + 1) * y, torch.ones(4), sigma=1.0, k=2)
        >>> found.deviations.square()  # variances a / (a + 1)
        tensor([0.8000, 0.5000], dtype=torch.float64)
        >>> round(float(found.total_variance), 3)  # 0.8 + 0.5 + 0.2 + 0
        1.5
    """
    sigma = number("sigma", sigma)
    if sigma <= 0:
        raise OptionError(f"sigma is a standard deviation in the units of the image, positive; got {sigma}")
    keywords = with_level(model, sigma, sigma_keyword, model_kwargs)
    J = jacobian(model, y, batched=batched, model_kwargs=keywords)
    pairs = top_eigs(model, y, k, tol=tol, seed=seed, batched=batched, model_kwargs=keywords)
    rest, values = _without(J, pairs), pairs.values.double()
    tail = trace(rest, method="hutchinson", products=products, seed=seed)
    shape = tuple(y.shape[1:] if batched else y.shape)
    spread = diagonal_of(rest, shape, "auto", Budget(products), seed + 1)
    vectors = pairs.vectors.double().flatten(values.ndim)
    head = (values.unsqueeze(-1).to(vectors) * vectors.square()).sum(-2).reshape(y.shape)
    variance = _scaled(spread, head, sigma**2)
    total = _scaled(tail, values.sum(-1), sigma**2)
    return PosteriorComponents(J.output.detach(), pairs, sigma, total, variance)


def _scaled(estimate: Estimate, known: Tensor, factor: float) -> Estimate:
    """factor (estimate + known), with its error."""
    value, stderr = (torch.as_tensor(x, dtype=torch.float64) for x in (estimate.value, estimate.stderr))
    return replace(
        estimate, value=plain(factor * (value + known.to(value.device))), stderr=plain(factor * stderr)
    )


def _without(J: LinearOperator, pairs: EigenPairs) -> LinearOperator:
    """J - sum_k lambda_k e_k e_k'."""
    E = pairs.vectors.flatten(pairs.values.ndim).to(J.device, J.dtype)
    weighted = pairs.values.unsqueeze(-1).to(E) * E

    def without(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda V: product(V) - J.domain.inner(V, E) @ weighted

    forward, backward = without(J.apply), without(J.apply_transpose)
    return from_functions(forward, backward, J.shape[1], dtype=J.dtype, device=J.device, batch=J.batch)
