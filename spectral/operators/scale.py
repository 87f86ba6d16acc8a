"""An operator over its own size, so that no square of a product leaves the range of its numbers.

Norms, Gram matrices and products of residuals square what an operator returns: in float32 they vanish below
1e-22 and overflow above 1e19, in float64 at 1e-162 and 1e154.  The front doors therefore ask all questions
about A / s, s a power of two near |A|, and multiply the answers by s, which is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectral.operators.base import Derived, LinearOperator
from spectral.operators.space import Space

STEP = 32  # s is a power of 2^32: operators of everyday size are left as they are


class UnitScale(Derived):
    """A / s of each problem, s = 2^(32 j) such that the first product's largest entry is within 2^16 of 1.

    s is told by the first product that is not zero, and costs none.  Once read it stays.
    """

    def __init__(self, A: LinearOperator, scale: Tensor | None = None) -> None:
        """Of A, whose `scale` (*batch) is known or told by its products."""
        super().__init__(A, symmetric=A.symmetric)
        self._settled = scale is not None
        self._scale = torch.ones(A.batch, dtype=torch.float64) if scale is None else scale

    @property
    def scale(self) -> Tensor:
        """s, (*batch) float64 on the CPU; 1 where all products so far were zero."""
        self._settled = True
        return self._scale

    def measure(self) -> int:
        """Settle s before it is needed; products spent, 1 where none was formed yet."""
        if self._settled or self.count:
            return 0
        generator = torch.Generator().manual_seed(0)
        x = self.domain.normal(*self.batch, 1, generator=generator)
        self.apply(x.to(self.device, self.dtype))
        return 1

    def _over(self, W: Tensor, space: Space) -> Tensor:
        if not self._settled and W.shape[-2]:  # of which a place may have no entry
            size = space.largest(W).abs().amax((-2, -1)).double().cpu()
            most = max(math.frexp(torch.finfo(self.dtype).max)[1] // STEP - 1, 0)
            power = (torch.frexp(size).exponent.double() / STEP).round().clamp(-most, most)
            told = (size > 0) & size.isfinite()
            self._scale = torch.where(told & (self._scale == 1), torch.exp2(STEP * power), self._scale)
            self._settled = bool(told.all())
        if bool((self._scale == 1).all()):
            return W
        return W * (1 / self._scale).to(W)[..., None, None]

    def _apply(self, V: Tensor) -> Tensor:
        return self._over(self.A.apply(V), self.codomain)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._over(self.A.apply_transpose(V), self.domain)

    def _select(self, index: Tensor) -> LinearOperator:
        return UnitScale(self.A.select(index), self.scale[index])

    def __repr__(self) -> str:
        return repr(self.A)


def unit_scale(A: LinearOperator) -> UnitScale:
    """A / s; see `UnitScale`."""
    return A if isinstance(A, UnitScale) else UnitScale(A)
