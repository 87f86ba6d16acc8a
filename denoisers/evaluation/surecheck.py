"""SURE against the true squared error: whether a denoiser's error can be known from noisy images alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from denoisers.chunks import CHUNK_PIXELS
from denoisers.evaluation.spread import over_images, parts, told
from spectral.base import Result
from spectral.errors import OptionError
from spectral.estimators import Estimate
from spectral.jacobians.model import Model
from spectral.risk import RiskCurve, risk_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBED = 8  # vectors a product carries through the model beside the image, or so


@dataclass(frozen=True, eq=False, repr=False)
class SureCheck(Result):
    """Mean squared error per pixel, true and by SURE, with errors.

    Attributes:
        curve: both for every noise level and image, and the standard errors that SURE stated.
    """

    curve: RiskCurve

    @property
    def true(self) -> Estimate:
        """The mean of |f(y) - x|^2 / d over images, (S,), with its standard error over images."""
        return over_images(self.curve.mse)

    @property
    def sure(self) -> Estimate:
        """The mean of SURE over images, (S,), with its standard error over images; of one as SURE states."""
        return self._with_error(self.curve.sure)

    @property
    def difference(self) -> Estimate:
        """The mean of SURE less the true error, (S,), image by image, so that what both share drops out.

        SURE is unbiased, so 0 lies in the interval but for chance. Of one image the error is the one that
        SURE stated.
        """
        return self._with_error(self.curve.sure - self.curve.mse)

    @property
    def covered(self) -> Tensor:
        """(S,), the share of images whose true error lies in the 95 % interval that SURE stated."""
        return self.curve.covered(0.95)

    @property
    def unit(self) -> float:
        """The power of ten just below the largest true error, in which the errors are told."""
        most = float(self.curve.mse.mean(1).max())
        return 10.0 ** math.floor(math.log10(most)) if 0 < most < math.inf else 1.0

    def in_words(self) -> list[list[str]]:
        """For each level the true error, SURE and their difference in `unit`, with errors at 95 %."""
        size = torch.tensor(1 / self.unit, dtype=torch.float64)
        columns = (parts(estimate.times(size)) for estimate in (self.true, self.sure, self.difference))
        return [[told(entry) for entry in row] for row in zip(*columns, strict=True)]

    def plot(self, title: str = "") -> Figure:
        """Both against sigma, and one against the other image by image; see `evaluation.figures.sure`."""
        from denoisers.evaluation.figures import sure  # noqa: PLC0415  matplotlib takes a second to import

        return sure(self, title)

    def _with_error(self, each: Tensor) -> Estimate:
        if each.shape[1] > 1:
            return over_images(each)
        error = self.curve.sure_error[:, 0]
        return Estimate(each[:, 0], error, 1, self.curve.products, "stated by SURE", math.inf)

    def __repr__(self) -> str:
        lines = [
            f"SureCheck({self.curve.mse.shape[1]} images; mean squared error per pixel in {self.unit:g}, "
            f"{self.curve.products} products per image)"
        ]
        entries = (self.curve.sigmas.tolist(), self.in_words(), self.covered.tolist())
        for sigma, (true, sure, off), share in zip(*entries, strict=True):
            lines.append(
                f"  sigma {sigma:.4g}: true {true}, SURE {sure}, difference {off}, {100 * share:.0f} % inside"
            )
        return "\n".join(lines)


def sure_check(
    model: Callable[..., Tensor],
    images: Tensor,
    sigmas: Sequence[float],
    *,
    products: int | None = None,
    seed: int = 0,
    sigma_keyword: str | None = None,
) -> SureCheck:
    """Add noise of each level to each image, and hold `spectral.sure` against |f(y) - x|^2 / d.

    Args:
        model: the denoiser, (N, C, H, W) -> the same, on any device.
        images: clean images (N, C, H, W).
        sigmas: noise levels.
        products: for each trace; by default as `spectral.sure` chooses.
        seed: of noise and probes.
        sigma_keyword: the model's keyword for the noise level; None for a blind denoiser.

    Raises:
        OptionError: no image, no sigma, or one that is not positive; or the model has a parameter sigma that
            nothing sets.
    """
    if not len(images):
        raise OptionError("SURE is checked on at least one image, got none")
    count = max(1, CHUNK_PIXELS // (PROBED * images[0].numel()))
    taken = Model(model, {}).taken
    curves = [
        risk_curve(
            model,
            taken(some),
            sigmas,
            products=products,
            seed=seed + i * len(sigmas),
            sigma_keyword=sigma_keyword,
        )
        for i, some in enumerate(images.split(count))
    ]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(curve, name).cpu() for curve in curves], 1)

    return SureCheck(
        RiskCurve(
            curves[0].sigmas,
            mse=joined("mse"),
            sure=joined("sure"),
            sure_error=joined("sure_error"),
            bayes=joined("bayes"),
            products=max(curve.products for curve in curves),
        )
    )
