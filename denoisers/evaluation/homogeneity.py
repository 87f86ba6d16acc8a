"""Whether a denoiser is homogeneous of degree one, as networks without additive constants are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoisers.chunks import denoise
from spectral.base import Result
from spectral.errors import NotFiniteError, OptionError
from spectral.risk.level import takes_sigma

SCALES = (0.01, 0.1, 0.3, 3.0, 10.0, 100.0)  # by powers of two rounding is the same, and none would be seen


@dataclass(frozen=True, eq=False, repr=False)
class Homogeneity(Result):
    """|f(s y) - s f(y)| / |s f(y)|, scale by scale and image by image.

    Attributes:
        scales: (S,), s.
        errors: (S, N); 0 where both sides are 0, infinite where f(y) alone is.
    """

    scales: Tensor
    errors: Tensor

    @property
    def each(self) -> Tensor:
        """(S,), the largest error of any image."""
        return self.errors.amax(1)

    @property
    def worst(self) -> float:
        """The largest error of any scale and image."""
        return self.errors.max().item()

    def __repr__(self) -> str:
        count = self.errors.shape[1]
        lines = [f"Homogeneity({count} images; |f(s y) - s f(y)| / |s f(y)| at most {self.worst:.1e})"]
        lines += [
            f"  s = {s:<6g} {error:.1e}"
            for s, error in zip(self.scales.tolist(), self.each.tolist(), strict=True)
        ]
        return "\n".join(lines)


def homogeneity(
    model: Callable[[Tensor], Tensor], y: Tensor, scales: Sequence[float] = SCALES
) -> Homogeneity:
    """|f(s y) - s f(y)| / |s f(y)| in the Euclidean norm: rounding alone, where f has no additive constants.

    Where it is, f(y) = J(y) y (eq. 6 of arXiv 2310.02557), and one network serves every intensity.

    Args:
        model: the denoiser f, (N, C, H, W) -> the same; modules are put into evaluation mode for the call.
        y: noisy images (N, C, H, W).
        scales: positive numbers s.

    Raises:
        OptionError: no image, no scale, one that is not positive, or a model that is told sigma, to which it
            would have to be scaled as well.
        NotFiniteError: f returned NaN or infinity.
    """
    levels = torch.tensor([float(s) for s in scales], dtype=torch.float64)
    if not len(levels) or not bool(((levels > 0) & levels.isfinite()).all()):
        raise OptionError(f"scales are positive numbers, at least one; got {list(scales)}")
    if takes_sigma(model):
        raise OptionError(
            "homogeneity is that of blind denoisers, and this model is told sigma, which would have to be "
            "scaled as well: take a blind one, or fix its level"
        )
    if not len(y):
        raise OptionError("homogeneity is measured on at least one image, got none")
    one = denoise(model, y).double().flatten(1)
    errors = []
    for s in levels.tolist():
        scaled = denoise(model, s * y).double().flatten(1)
        off, size = (scaled - s * one).norm(dim=1), s * one.norm(dim=1)
        errors.append(torch.where(off == 0, 0.0, off / size).cpu())
    found = torch.stack(errors)
    if found.isnan().any():
        raise NotFiniteError("the model returned NaN or infinity: take scales nearer to 1")
    return Homogeneity(levels, found)
