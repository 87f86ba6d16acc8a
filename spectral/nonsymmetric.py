"""Eigenpairs of a matrix that need not be symmetric, from an invariant subspace, with what they are worth."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.results import FullEigenPairs
from spectral.solvers.certificate import Completeness, rounding
from spectral.solvers.krylov_schur import ComplexTarget, SchurPairs, dense_schur, krylov_schur
from spectral.solvers.lanczos import RitzPairs
from spectral.solvers.schur import RealSchur, departure
from spectral.solvers.search import Which

if TYPE_CHECKING:
    from spectral.problem import Problem


def full_eigs(
    problem: Problem,
    k: int,
    *,
    method: str,
    which: Which,
    above: float | None,
    tol: float,
    left: bool,
    **options: Any,
) -> FullEigenPairs:
    """The k extreme eigenpairs J v = lambda v of a problem's operator itself: the front door's `part="full"`.

    Args:
        problem: the operator and the shapes of its vectors.
        method: "krylov-schur", or "dense", which forms J from d products.
        k, which, above, tol, left, options: those of `krylov_schur`, checked, of `problem.working`.

    Raises:
        OptionError: the problem is of several images.
        NotFiniteError, CheckpointError, TransposeMissingError: see `krylov_schur`.
    """
    began = time.perf_counter()
    J = problem.working
    if J.batch:
        raise OptionError('part="full" takes one image at a time: call it once an image')
    if method == "dense":
        found = dense_schur(J, k, which=which, above=above, left=left)
    else:
        found = krylov_schur(J, k, which=which, above=above, tol=tol, left=left, **options)
    proof = certify_full(found, k, which=which, above=above)
    problem.confirm(found, proof.Q[None], proof.Q[None])
    conditions, defective = proof.judged(rounding(found.eps, found.norm))
    left_rows = None if proof.left is None else problem.shaped(proof.left[None], problem.input_shape)
    notes = [*found.notes, *_remarks(proof, defective, found, tol)]
    noted = replace(found, notes=notes, completeness=proof.completeness)
    error = problem.rounding(J, found, options["seed"])
    judged = problem.judged(
        noted,
        proof.values[None],
        proof.residuals[None],
        (conditions * proof.residuals)[None],
        tol,
        error=conditions * error,
        ends=[] if above is None else [above],
        heights=(proof.values.abs() if which == "magnitude" else proof.values.real)[None],
    )
    return FullEigenPairs(
        **judged,
        vectors=problem.shaped(proof.vectors[None], problem.input_shape),
        left=left_rows,
        left_residuals=None if proof.left_residuals is None else problem.sized(proof.left_residuals[None]),
        condition=proof.condition,
        defective=defective,
        schur_vectors=problem.shaped(proof.Q[None], problem.input_shape),
        schur=problem.sized(proof.T[None]),
        schur_residual=problem.sized(proof.schur_residual[None]),
        departure=problem.sized(torch.tensor([departure(proof.T.numpy())], dtype=torch.float64)),
        orthogonality=proof.orthogonality,
        which=which,
        above=None if above is None else above * problem.scale.item(),
        tol=tol,
        method=method,
        seconds=time.perf_counter() - began,
    )


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

    def judged(self, accuracy: float) -> tuple[Tensor, Tensor]:
        """The conditions, as far as they are known, and which eigenvalues are defective, (k,) each.

        A double eigenvalue with one vector, changed by E, splits by about |E|^(1/2), to a condition of
        1 / (2 |E|^(1/2)).  From half of that a condition is told, |E| the residual relative to max |lambda|.
        """
        conditions = self.shown if self.condition is None else torch.maximum(self.condition, self.shown)
        scale = self.values.abs().max().clamp(min=1e-300) if len(self.values) else 1.0
        change = self.residuals.clamp(min=accuracy) / scale
        return conditions, conditions >= (0.25 / change.sqrt()).clamp(min=10.0)


def certify_full(found: SchurPairs, k: int, *, which: Which, above: float | None = None) -> CertifiedFull:
    """Eigenpairs of A in the span of the rows found, from fresh products.

    With Q orthonormal and W = A Q', the real Schur form of T = Q W rotates both; an eigenvector y of T gives
    v = Q' y, and |W y - lambda Q' y| with W straight from the operator.  Left vectors come from the two
    subspaces: with L spanning the left one and Y the eigenvectors of T, the rows of (L Q' Y)^{-1} L are left
    vectors, each orthogonal to all right ones but its own, also where eigenvalues are multiple.
    """
    target = ComplexTarget(k, which, above)
    sign = target.sign
    V, W = _orthonormal(found)
    error = rounding(found.eps, found.norm)
    form = RealSchur.of(sign * (V @ W.mT).cpu().numpy(), error)

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
    residuals = torch.linalg.vector_norm(AX - at * X, dim=-1)
    X = _turned(X, values)
    dtype = torch.promote_types(found.vectors.dtype, torch.complex64)
    gram = Q.to(found.vectors.dtype).double()
    proof = CertifiedFull(
        values=values,
        vectors=X.to(dtype),
        residuals=residuals.cpu(),
        Q=Q.to(found.vectors.dtype),
        T=T,
        schur_residual=_size(AQ - T.to(V).mT @ Q),
        orthogonality=(gram @ gram.mT - torch.eye(len(Q)).to(gram)).abs().amax().cpu()
        if len(Q)
        else _size(Q),
        shown=torch.from_numpy(found.conditions)[:wanted],
        completeness=replace(found.completeness, bound=sign * beyond.amax(0, keepdim=True)),
    )
    return proof if found.left is None else _with_left(proof, found.left, V, Y, X)


def _with_left(proof: CertifiedFull, left: RitzPairs, V: Tensor, Y: Tensor, X: Tensor) -> CertifiedFull:
    """The same with left vectors from the rows of a left invariant subspace; X holds the right ones."""
    L, LA = _orthonormal(left)
    U, S, Vh = torch.linalg.svd((L @ V.mT).to(Y.dtype) @ Y, full_matrices=False)
    # Parallel vectors, and subspaces that are orthogonal (of a Jordan block they are), have no dual basis:
    # clamped, it tells of them by its length.
    least = torch.finfo(torch.float64).eps * (S.max().clamp(min=1.0) if len(S) else 1.0)
    dual = ((Vh.mH / S.clamp(min=least)) @ U.mH)[: len(proof.values)]
    rows, images = dual @ L.to(Y.dtype), dual @ LA.to(Y.dtype)
    size = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    overlap = (rows * X).sum(-1, keepdim=True) / size
    scale = size * torch.where(overlap == 0, 1.0, overlap / overlap.abs().clamp(min=1e-300))
    rows, images = rows / scale, images / scale
    at = proof.values.to(X.device).unsqueeze(-1)
    return replace(
        proof,
        left=rows.conj().resolve_conj().to(proof.vectors.dtype),
        left_residuals=torch.linalg.vector_norm(images - at * rows, dim=-1).cpu(),
        condition=(1 / overlap.abs().squeeze(-1).clamp(min=torch.finfo(torch.float64).eps)).cpu(),
    )


def _orthonormal(found: RitzPairs) -> tuple[Tensor, Tensor]:
    """Rows (m, n) orthonormal in float64, and their images."""
    V, R = torch.linalg.qr(found.vectors[0].double().mT)
    return V.mT, torch.linalg.solve_triangular(R.mT, found.images[0].double(), upper=False)


def _turned(X: Tensor, values: Tensor) -> Tensor:
    """Unit rows with the entry of largest modulus real and positive; real where the value is."""
    if not len(X):
        return X
    lead = X.gather(-1, X.abs().argmax(-1, keepdim=True))
    X = X * (lead.conj() / lead.abs().clamp(min=1e-300))
    real = (values.imag == 0).to(X.device).unsqueeze(-1)
    X = torch.where(real, X.real.to(X.dtype), X)
    return X / torch.linalg.vector_norm(X, dim=-1, keepdim=True)


def _size(M: Tensor) -> Tensor:
    """|M|, the largest singular value; 0 for no rows."""
    return torch.linalg.matrix_norm(M, ord=2).cpu() if len(M) else torch.zeros((), dtype=torch.float64)


def _remarks(proof: CertifiedFull, defective: Tensor, found: SchurPairs, tol: float) -> list[str]:
    notes, values = [], proof.values
    if proof.left_residuals is not None and proof.condition is not None and len(values):
        # Of a left subspace that is good to tol the left vectors are good to tol times condition.
        far = proof.left_residuals > 10 * tol * proof.condition * values.abs().max()
        if far.any():
            notes.append(
                f"{int(far.sum())} of {len(values)} left vectors do not belong to the right ones found"
            )
    if defective.any():
        notes.append(
            f"{int(defective.sum())} of {len(values)} eigenvalues are too ill-conditioned to be told from "
            "defective ones at this accuracy: trust the invariant subspace (schur_vectors, schur) instead"
        )
    probe = found.completeness
    if 0 < probe.confidence < 1:
        notes.append(f"in {probe.products} products the probe saw nothing beyond the values returned")
    return notes
