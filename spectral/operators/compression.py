"""An operator between subspaces: only these entries may move, or only these are looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.errors import ShapeError
from spectral.operators.base import Derived, LinearOperator
from spectral.operators.space import Space
from spectral.operators.subspace import Subspace


class Compression(Derived):
    """F' A E on coordinates, E and F the isometries of two subspaces; E' A E where they are one.

    For symmetric A and F = E it is symmetric, and its eigenpairs (theta, x) are those of A on the subspace:
    A E x - theta E x is orthogonal to it.  One product with A each.

    Args:
        A: the operator.
        inputs: where vectors lie; None for everywhere.
        outputs: where products are looked at; None for everywhere.

    Raises:
        ShapeError: a subspace is of another R^n.
    """

    def __init__(
        self, A: LinearOperator, inputs: Subspace | None = None, outputs: Subspace | None = None
    ) -> None:
        spaces = []
        for space, part in ((A.codomain, outputs), (A.domain, inputs)):
            if part is not None and (part.whole.dimension, part.whole.n) != (space.dimension, space.n):
                raise ShapeError(f"a subspace of R^{part.whole.dimension} does not fit {A!r}")
            spaces.append(space if part is None else part.space)
        super().__init__(A, spaces=(spaces[0], spaces[1]), symmetric=A.symmetric and inputs is outputs)
        self.inputs = None if inputs is None else inputs.to(A.dtype)
        self.outputs = self.inputs if inputs is outputs else None if outputs is None else outputs.to(A.dtype)

    def projected(self, seed: int) -> tuple[Tensor, Space]:
        """A random vector's part in what vectors are restricted to, which tells restrictions apart; and the
        space that it is of."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for part in (self.inputs, self.outputs):
            if part is not None:
                z = part.whole.normal(*self.batch, 1, generator=generator).to(self.device, self.dtype)
                found.append((part.embed(part.coordinates(z)), part.whole))
        if not found:
            return torch.zeros(0), Space(0)
        (rows, space), *rest = found
        for more, other in rest:
            rows, space = torch.cat([rows, more], dim=-1), space.beside(other)
        return rows, space

    def _apply(self, V: Tensor) -> Tensor:
        W = self.A.apply(V if self.inputs is None else self.inputs.embed(V))
        return W if self.outputs is None else self.outputs.coordinates(W)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        W = self.A.apply_transpose(V if self.outputs is None else self.outputs.embed(V))
        return W if self.inputs is None else self.inputs.coordinates(W)

    def _select(self, index: Tensor) -> LinearOperator:
        inputs = None if self.inputs is None else self.inputs.select(index)
        outputs = None if self.outputs is None else self.outputs.select(index)
        return Compression(self.A.select(index), inputs, inputs if self.inputs is self.outputs else outputs)
