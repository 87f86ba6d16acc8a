"""Thick-restart block Golub-Kahan-Lanczos: singular triplets without forming A' A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spectral.linalg.blocks import first_block, stream
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.operators.base import LinearOperator
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.control import Control
from spectral.solvers.found import Completeness, RitzTriplets
from spectral.solvers.method import Method
from spectral.solvers.search import search
from spectral.solvers.target import Target


@dataclass(frozen=True, eq=False)
class GolubKahan(Method[RitzTriplets]):
    """Thick-restart block Golub-Kahan-Lanczos: singular triplets, J' J never formed.

    A product is counted as one with A and one with A'.

    Attributes:
        block: vectors a product.
        basis: rows of either side kept before a restart, as in `Lanczos`.

    Source: Baglama and Reichel, SIAM J. Sci. Comput. 27 (2005).
    """

    name: ClassVar[str] = "golub-kahan"
    finds: ClassVar[type] = RitzTriplets
    keeps: ClassVar[bool] = True

    block: int = 1
    basis: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzTriplets:
        """The largest singular triplets of A (r, n), with a probe for missed ones; see `Method.solve`.

        `control.start` holds right vectors.
        """
        generator, block = stream(control.seed), min(self.block, *A.shape)
        krylov = GolubKahanBasis(A, first_block(A, block, control.start, generator), generator)
        kept = None if control.checkpoint is None else Checkpoint(control.checkpoint, A, self.name)
        found = search(krylov, target, control, block=block, limit=self.basis, checkpoint=kept)
        return RitzTriplets(
            right=found.gather(lambda basis: basis.V[:, : basis.size]),
            left=found.gather(lambda basis: basis.U[:, : basis.size]),
            AV=found.gather(lambda basis: basis.AV[:, : basis.size]),
            ATU=found.gather(lambda basis: basis.ATU[:, : basis.size]),
            completeness=Completeness(found.unseen, found.confidence, found.spent["completeness"]),
            spent=found.spent,
            norm=found.norm,
            notes=found.notes,
        )
