"""How much better a denoiser does on what it has seen: PSNR of training images less that of held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoisers.evaluation.psnr import PSNRCurve, psnr_curve
from denoisers.evaluation.spread import parts, told
from spectral.base import Result
from spectral.errors import OptionError
from spectral.estimators import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class PSNRGap(Result):
    """PSNR curves of training and of held-out images at the same noise levels."""

    training: PSNRCurve
    held_out: PSNRCurve

    @property
    def difference(self) -> Estimate:
        """Mean output PSNR of training images less that of held-out ones, (S,) in dB.

        stderr^2 = s_1^2 / N_1 + s_2^2 / N_2, of two independent sets of images; degrees of freedom by Welch,
        the fewest of any level. NaN where a set is one image.
        """
        first, second = self.training.mean(), self.held_out.mean()
        a, b = (torch.as_tensor(mean.stderr).square() for mean in (first, second))
        fewest = min(first.dof, second.dof)
        welch = (a + b).square() / (a.square() / first.dof + b.square() / second.dof)
        dof = float(welch.nan_to_num(fewest).min()) if fewest else fewest
        value = torch.as_tensor(first.value) - torch.as_tensor(second.value)
        return Estimate(value, (a + b).sqrt(), first.samples + second.samples, 0, "Welch", dof)

    def plot(self, title: str = "") -> Figure:
        """Both curves with 95 % bands; see `denoisers.evaluation.figures.curves`."""
        from denoisers.evaluation.figures import curves  # noqa: PLC0415  matplotlib takes a second to import

        return curves({"training": self.training, "held out": self.held_out}, None, title)

    def __repr__(self) -> str:
        lines = [
            f"PSNRGap({self.training.noisy.shape[1]} training and {self.held_out.noisy.shape[1]} held-out "
            "images; dB)",
            "   sigma  training  held out  difference",
        ]
        columns = (self.training.sigmas, self.training.denoised.mean(1), self.held_out.denoised.mean(1))
        for *numbers, gap in zip(*(c.tolist() for c in columns), parts(self.difference), strict=True):
            lines.append("{:8.4f}  {:8.2f}  {:8.2f}  ".format(*numbers) + told(gap, 2))
        return "\n".join(lines)


def psnr_gap(
    model: Callable[..., Tensor],
    training: Tensor | NDArray[np.float32],
    held_out: Tensor | NDArray[np.float32],
    sigmas: Sequence[float],
    seed: int = 0,
    *,
    sigma_keyword: str | None = None,
) -> PSNRGap:
    """PSNR curves on images that a network was trained on, and on images that it was not.

    model: noisy (N, C, H, W) -> denoised; modules are put into evaluation mode. training, held_out:
    (N, C, H, W) in [0, 1]; their noise is that of `seed` and of the next seed. sigma_keyword: as of
    `psnr_curve`. Raises OptionError for no sigma, sigma <= 0, or a set without images.
    """
    if not (len(training) and len(held_out)):
        raise OptionError(f"a gap takes images of both kinds, got {len(training)} and {len(held_out)}")
    return PSNRGap(
        psnr_curve(model, training, sigmas, seed, sigma_keyword=sigma_keyword),
        psnr_curve(model, held_out, sigmas, seed + 1, sigma_keyword=sigma_keyword),
    )
