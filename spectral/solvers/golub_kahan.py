"""Thick-restart block Golub-Kahan-Lanczos: singular triplets without forming A' A."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.operators.base import LinearOperator
from spectral.solvers.found import RitzTriplets
from spectral.solvers.search import Found, KrylovMethod
from spectral.solvers.target import Target


class GolubKahan(KrylovMethod[RitzTriplets]):
    """Thick-restart block Golub-Kahan-Lanczos: singular triplets, J' J never formed.

    A product is counted as one with A and one with A'.

    Attributes:
        block: vectors per product.
        basis: rows of either side kept before a restart, as in `Lanczos`.

    Source: Baglama and Reichel, SIAM J. Sci. Comput. 27 (2005).
    """

    name: ClassVar[str] = "golub-kahan"
    finds: ClassVar[type] = RitzTriplets

    def _begun(
        self, A: LinearOperator, target: Target, first: Tensor, generator: torch.Generator
    ) -> GolubKahanBasis:
        """From right vectors."""
        return GolubKahanBasis(A, first, generator)

    def _told(self, A: LinearOperator, target: Target, found: Found) -> RitzTriplets:
        """The largest singular triplets of A (r, n)."""
        return RitzTriplets(
            right=found.rows("V"),
            left=found.rows("U"),
            AV=found.rows("AV"),
            ATU=found.rows("ATU"),
            **found.told(),
        )
