"""Eigenpairs of a matrix that need not be symmetric, from an invariant subspace, with what they are worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spectral.linalg.schur import RealSchur
from spectral.linalg.unseen import rounding
from spectral.operators.space import Space, lower_inverse
from spectral.solvers.found import Completeness, RitzPairs, SchurPairs
from spectral.solvers.target import ComplexTarget


@dataclass(frozen=True)
class CertifiedFull:
    """Eigenpairs in an invariant subspace, and their residuals, from fresh products.

    values (k,), vectors (k, n) complex, residuals |A v - lambda v| (k,); Q (m, n) orthonormal and T (m, m),
    the ordered real Schur form on the subspace; schur_residual |A Q' - Q' T|; orthogonality max |Q Q' - I|;
    shown (k,), lower bounds of the conditions; completeness, of all eigenvalues but these; left,
    left_residuals, condition: as in `FullEigenPairs`.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    Q: Tensor
    T: Tensor
    schur_residual: Tensor
    orthogonality: Tensor
    shown: Tensor
    completeness: Completeness
    left: Tensor | None = None
    left_residuals: Tensor | None = None
    condition: Tensor | None = None

    def conditions(self, accuracy: float) -> tuple[Tensor, Tensor]:
        """The conditions, as far as they are known, and which eigenvalues are defective, (k,) each.

        A double eigenvalue with one vector, changed by E, splits by about |E|^(1/2), to a condition of
        1 / (2 |E|^(1/2)).  From half of that a condition is told, |E| the residual relative to max |lambda|.
        """
        conditions = self.shown if self.condition is None else torch.maximum(self.condition, self.shown)
        scale = self.values.abs().max().clamp(min=1e-300) if len(self.values) else 1.0
        change = self.residuals.clamp(min=accuracy) / scale
        return conditions, conditions >= (0.25 / change.sqrt()).clamp(min=10.0)


def certify_full(space: Space, found: SchurPairs, target: ComplexTarget) -> CertifiedFull:
    """Eigenpairs of A in the span of the rows found, from fresh products.

    With Q orthonormal and W = A Q', the real Schur form of T = Q W rotates both; an eigenvector y of T gives
    v = Q' y, and |W y - lambda Q' y| with W straight from the operator.  Left vectors come from the two
    subspaces: with L spanning the left one and Y the eigenvectors of T, the rows of (L Q' Y)^{-1} L are left
    vectors, each orthogonal to all right ones but its own, also where eigenvalues are multiple.
    """
    sign = target.sign
    V, W = _orthonormal(space, found)
    error = rounding(found.eps, found.norm)
    form = RealSchur.of(sign * space.inner(V, W).cpu().numpy(), error)

    def height(values: np.ndarray) -> np.ndarray:
        return target.height(torch.from_numpy(values)).numpy()

    form = form.ordered(height)
    order = form.order(height)  # differs where blocks were too close to be exchanged
    theta = torch.from_numpy(form.values[order])
    wanted = target.wanted(theta[None], error)
    Z = torch.from_numpy(form.Z).to(V)
    Q, AQ, T = Z.mT @ V, Z.mT @ W, sign * torch.from_numpy(form.T)
    values, Y = theta, torch.from_numpy(form.vectors[:, order])
    if sign < 0:
        values, Y = -values.conj().resolve_conj(), Y.conj().resolve_conj()
    Y = Y.to(V.device)
    X, AX = (Y[:, :wanted].mT @ rows.to(Y.dtype) for rows in (V, W))
    values = values[:wanted]
    # Among values alike to rounding the subspace may hold more than are returned: they are not unseen.
    beyond = torch.cat([sign * found.completeness.bound, target.height(theta[wanted:])])
    at = values.to(V.device).unsqueeze(-1)
    residuals = space.norms(AX - at * X)
    X = _turned(space, X, values)
    dtype = torch.promote_types(found.vectors.dtype, torch.complex64)
    proof = CertifiedFull(
        values=values,
        vectors=X.to(dtype),
        residuals=residuals.cpu(),
        Q=Q.to(found.vectors.dtype),
        T=T,
        schur_residual=_size(space, AQ - T.to(V).mT @ Q),
        orthogonality=space.overlap(Q.to(found.vectors.dtype)).cpu(),
        shown=torch.from_numpy(found.conditions)[:wanted],
        completeness=replace(found.completeness, bound=sign * beyond.amax(0, keepdim=True)),
    )
    return proof if found.left is None else _with_left(space, proof, found.left, V, Y, X)


def _with_left(
    space: Space, proof: CertifiedFull, left: RitzPairs, V: Tensor, Y: Tensor, X: Tensor
) -> CertifiedFull:
    """The same with left vectors from the rows of a left invariant subspace; X holds the right ones."""
    L, LA = _orthonormal(space, left)
    U, S, Vh = torch.linalg.svd(space.inner(L, V).to(Y.dtype) @ Y, full_matrices=False)
    # Parallel vectors, and subspaces that are orthogonal (of a Jordan block they are), have no dual basis:
    # clamped, it tells of them by its length.
    least = torch.finfo(torch.float64).eps * (S.max().clamp(min=1.0) if len(S) else 1.0)
    dual = ((Vh.mH / S.clamp(min=least)) @ U.mH)[: len(proof.values)]
    rows, AV = dual @ L.to(Y.dtype), dual @ LA.to(Y.dtype)
    size = space.norms(rows).unsqueeze(-1)
    overlap = space.dots(rows, X).unsqueeze(-1) / size
    scale = size * torch.where(overlap == 0, 1.0, overlap / overlap.abs().clamp(min=1e-300))
    rows, AV = rows / scale, AV / scale
    at = proof.values.to(X.device).unsqueeze(-1)
    return replace(
        proof,
        left=rows.conj().resolve_conj().to(proof.vectors.dtype),
        left_residuals=space.norms(AV - at * rows).cpu(),
        condition=(1 / overlap.abs().squeeze(-1).clamp(min=torch.finfo(torch.float64).eps)).cpu(),
    )


def _orthonormal(space: Space, found: RitzPairs) -> tuple[Tensor, Tensor]:
    """Rows (m, n) orthonormal in float64, and A times each."""
    V, R = space.qr(found.vectors[0].double())
    return V, lower_inverse(R.mT, like=V) @ found.AV[0].double()


def _turned(space: Space, X: Tensor, values: Tensor) -> Tensor:
    """Unit rows with the entry of largest modulus real and positive; real where the value is."""
    if not len(X):
        return X
    lead = space.largest(X)
    X = X * (lead.conj() / lead.abs().clamp(min=1e-300))
    real = (values.imag == 0).to(X.device).unsqueeze(-1)
    X = torch.where(real, X.real.to(X.dtype), X)
    return X / space.norms(X).unsqueeze(-1)


def _size(space: Space, M: Tensor) -> Tensor:
    """|M|, the largest singular value; 0 for no rows."""
    return torch.linalg.matrix_norm(space.qr(M)[1], ord=2).cpu() if len(M) else M.new_zeros(()).cpu()
