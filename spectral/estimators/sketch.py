"""A randomised range sketch that grows by blocks and keeps what was computed."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.estimators.probes import Sampler
from spectral.estimators.sampling import finite
from spectral.operators import LinearOperator


class Sketch:
    """Probes omega_i, an orthonormal basis Q of span {A omega_i}, and A Q or A' Q: two products per probe.

    Attributes:
        A: the operator.
        probes: rows omega_i, (*batch, k, n).
        basis: rows q_i of Q', (*batch, k, n), float32 at least.
        image: rows A q_i, or A' q_i where `transposed`, (*batch, k, n).
        triangle: R upper triangular, (*batch, k, k) float64, A omega_i = Q R[:, i].
    """

    def __init__(self, A: LinearOperator, draw: Sampler, k: int, transposed: bool = False) -> None:
        work = torch.promote_types(A.dtype, torch.float32)
        self.A, self._draw, self._second = A, draw, A.apply_transpose if transposed else A.apply
        self.probes = torch.empty(*A.batch, 0, A.domain.n, dtype=work, device=A.device)
        self.basis, self.image = self.probes, self.probes
        self.triangle = torch.empty(*A.batch, 0, 0, dtype=torch.float64, device=A.device)
        self.grow(k)

    @property
    def size(self) -> int:
        """k, the number of probes."""
        return self.probes.shape[-2]

    def grow(self, m: int) -> None:
        """m more probes, by block Gram-Schmidt: earlier basis vectors and products stay as they are."""
        A, work = self.A, self.basis.dtype
        omega = self._draw(m)
        rest = finite(A.apply(omega)).to(work)
        rest, mixed = self._project(rest)
        new, corner = self._orthonormal(rest)
        # Numerically dependent columns come out of one pass as rounding noise, orthogonal to nothing.
        new, again = self._project(new)
        new, tidy = self._orthonormal(new)
        mixed, corner = mixed + again @ corner, tidy @ corner

        k = self.size
        grown = torch.zeros(*A.batch, k + m, k + m, dtype=torch.float64, device=A.device)
        grown[..., :k, :k] = self.triangle
        grown[..., :k, k:], grown[..., k:, k:] = mixed, corner
        self.triangle = grown
        self.probes = torch.cat([self.probes, omega.to(work)], -2)
        self.basis = torch.cat([self.basis, new], -2)
        self.image = torch.cat([self.image, finite(self._second(new.to(A.dtype))).to(work)], -2)

    def removed(self, V: Tensor) -> Tensor:
        """(I - Q Q') v for each row v."""
        basis = self.basis.to(V.dtype)
        return V - self.A.codomain.inner(V, basis) @ basis

    def _project(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of V without their part in the basis, and that part's coordinates as columns, float64."""
        coordinates = self.A.codomain.inner(V, self.basis)
        return V - coordinates @ self.basis, coordinates.mT.double()

    def _orthonormal(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Q and R with V' = Q' R for the rows of V and Q."""
        Q, R = self.A.codomain.qr(V)
        return Q.contiguous(), R.double()
