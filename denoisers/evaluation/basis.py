"""An eigenbasis at an image: what it shrinks, where the image lies in it, and the tangents it follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral.angles import subspace_angles
from spectral.base import Result
from spectral.errors import OptionError, ShapeError
from spectral.options import number
from spectral.results import EigenPairs


@dataclass(frozen=True, eq=False, repr=False)
class BasisAnalysis(Result):
    """lambda_k, <x, e_k> and the energy of x in e_1, ..., e_k; all float64.

    Attributes:
        values: (k,), lambda_k, in the order of the pairs.
        coefficients: (k,), <x, e_k>.
        energy: (k,), sum over j <= k of <x, e_j>^2 / |x|^2.
        norm: |x|.
        angles: (min(k, m),), principal angles between the spans of the m tangents and of the first m
            eigenvectors, in radians, the smallest first; None where no tangents were given.
        inside: (k,), |P e_k|^2, P the projection on the tangents: 1 for an eigenvector that is tangent, 0 for
            one that is normal; None likewise.
        reach: (k,), the largest angle of a tangent direction to the span of e_1, ..., e_k, in radians; pi / 2
            as long as k < m; None likewise.
    """

    values: Tensor
    coefficients: Tensor
    energy: Tensor
    norm: float
    angles: Tensor | None = None
    inside: Tensor | None = None
    reach: Tensor | None = None

    def dimension(self, share: float = 0.99) -> int | None:
        """The least k with `energy` >= share; None where all the pairs hold less.

        Raises:
            OptionError: share is not in (0, 1].
        """
        if not 0 < number("share", share) <= 1:
            raise OptionError(f"share lies in (0, 1], got {share}")
        found = (self.energy >= share).nonzero()
        return int(found[0]) + 1 if len(found) else None

    def __repr__(self) -> str:
        k = len(self.values)
        lines = [
            f"BasisAnalysis({k} eigenvectors)",
            "  lambda       " + " ".join(f"{v:.4f}" for v in self.values[:6].tolist()),
            "  |<x, e>|     " + " ".join(f"{v:.4g}" for v in self.coefficients[:6].abs().tolist()),
            f"  energy       {100 * self.energy[-1].item():.2f} % of |x|^2 in {k}",
        ]
        if self.angles is not None and self.inside is not None:
            degrees = " ".join(f"{math.degrees(a):.1f}" for a in self.angles.tolist())
            lines.append(f"  tangents     {degrees} degrees from the first {len(self.angles)}")
            lines.append("  inside       " + " ".join(f"{v:.3f}" for v in self.inside[:6].tolist()))
        return "\n".join(lines)


def basis_at(
    pairs: EigenPairs, x: Tensor, tangents: Tensor | NDArray[np.float64] | None = None
) -> BasisAnalysis:
    """Eigenpairs of a denoiser's Jacobian against the clean image, and against tangents of its source.

    Args:
        pairs: what `spectral.top_eigs` found at one noisy image.
        x: the clean image, of the shape of the solver's input (or with further axes of length 1).
        tangents: (m, ...), independent directions in which the clean image can move, of as many entries as x:
            `denoisers.images.Disks(...).tangents(parameters)[0]` are five.

    Raises:
        ShapeError: the pairs are of a batch, or there are none; x or the tangents have another size.
        OptionError: x is 0.
    """
    if pairs.values.ndim != 1 or not pairs.k:
        raise ShapeError("a basis is analysed at one image, from at least one pair: pass a result of one")
    rows = pairs.vectors.flatten(1).double().cpu()
    if x.numel() != rows.shape[1]:
        raise ShapeError(f"x is {tuple(x.shape)}, and the vectors have {rows.shape[1]} entries each")
    coefficients = pairs.coefficients(x.to(pairs.vectors.device)).cpu()
    norm = x.double().norm().item()
    if norm == 0:
        raise OptionError("x is 0 everywhere, and has no energy to share: take another image")
    energy = coefficients.square().cumsum(0) / norm**2
    values = pairs.values.double().cpu()
    if tangents is None:
        return BasisAnalysis(values, coefficients, energy, norm)
    directions = torch.as_tensor(tangents).double().cpu()
    if directions.ndim < 2 or directions[0].numel() != rows.shape[1]:
        shape = tuple(directions.shape)
        raise ShapeError(f"tangents are (m, ...) of {rows.shape[1]} entries each, got {shape}")
    directions = directions.flatten(1)
    m = len(directions)
    orthonormal = torch.linalg.qr(directions.mT)[0]
    reach = [
        subspace_angles(directions, rows[:k])[-1].item() if k >= m else math.pi / 2
        for k in range(1, pairs.k + 1)
    ]
    return BasisAnalysis(
        values,
        coefficients,
        energy,
        norm,
        angles=subspace_angles(rows[:m], directions),
        inside=(rows @ orthonormal).square().sum(1),
        reach=torch.tensor(reach, dtype=torch.float64),
    )
