"""The front door to complex eigenpairs of a Jacobian itself, or of an operator, with what they are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import OptionError
from spectral.linalg.schur import departure
from spectral.linalg.unseen import rounding
from spectral.operators import LinearOperator
from spectral.problem import Problem, by_a_right_way, proved
from spectral.progress import bar
from spectral.results import FullEigenPairs
from spectral.solvers import ComplexTarget, DenseSchur, KrylovSchur, Method, SchurPairs
from spectral.solvers.invariant import CertifiedFull, certify_full
from spectral.solvers.target import Which

DENSE_BELOW = 300  # non-normal operators may take Krylov spaces of many times n products

METHODS: dict[str, type[Method[SchurPairs]]] = {method.name: method for method in (KrylovSchur, DenseSchur)}


@front_door
@by_a_right_way
def top_eigs_full(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    which: Which = "largest",
    above: float | None = None,
    left: bool = False,
    tol: float = 1e-4,
    method: str | Method[SchurPairs] = "auto",
    confidence: float = 0.99,
    mask: Tensor | None = None,
    orthogonal_to: Tensor | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> FullEigenPairs:
    """The k extreme eigenpairs J v = lambda v of a Jacobian itself, complex, with proof.

    Values and vectors are complex, in conjugate pairs that are never parted.  Residuals come from products
    formed after the solve; a probe bounds what was not seen; each eigenvalue comes with its condition, which
    tells how far a residual can move it.

    Args:
        model_or_operator, y: as in `top_eigs`, of one image.
        k: how many, 1 <= k <= d; one more where k would part a pair; not used where `above` is given.
        which: "largest" or "smallest" by real part, or "magnitude" by modulus.
        above: find all eigenvalues beyond this real part (modulus) instead.
        left: find left vectors too, by a second solve with J', and with them the conditions themselves,
            which are bounded from below without.
        tol: relative residual: |J v - lambda v| <= tol max |lambda|.
        method: "auto", a method of `spectral.solvers`, or the name of one with its defaults: "krylov-schur",
            or "dense" (form J from d products), which "auto" takes where d <= 300, or where k >= d / 5 and
            d <= 8192.
        mask, orthogonal_to: as in `top_eigs`, of J in place of S.
        max_products: as in `top_eigs`; with `left` it bounds both solves together.
        checkpoint: as in `top_eigs`, for the method "krylov-schur"; the solve for left vectors is kept beside
            it, in `checkpoint`.left.
        confidence, start, seed, progress, model_kwargs: as in `top_eigs`.

    Returns:
        FullEigenPairs, vectors (k, *input shape), complex.

    Raises:
        OptionError: several images, or an option out of range.
        ShapeError: the output's shape is not the input's, or the operator is not square.
        TransposeMissingError: `left`, of an operator without products with its transpose.
        NotLinearError, CheckpointError, NotFiniteError, NotDeterministicError, ModelOutputError: see
            `top_eigs`.

    Example:
        >>> A = torch.tensor([[0.3, -0.7, 0.0], [0.7, 0.3, 0.0], [0.0, 0.0, 0.1]])  # turns, and shrinks
        >>> pairs = spectral.top_eigs_full(lambda y: A @ y, torch.ones(3), k=2, left=True)
        >>> pairs.values
        tensor([0.3000+0.7000j, 0.3000-0.7000j], dtype=torch.complex128)
        >>> pairs.condition.round(decimals=3)  # J is normal
        tensor([1., 1.], dtype=torch.float64)
    """
    began = time.perf_counter()
    problem = Problem.of(
        model_or_operator, y, False, model_kwargs, square=True, mask=mask, orthogonal_to=orthogonal_to
    )
    J = problem.working
    if J.batch:
        raise OptionError("top_eigs_full takes one image at a time: call it once an image")
    asked = ComplexTarget.of(k, which, above, left=left)
    control = problem.request(
        tol=tol,
        max_products=max_products,
        confidence=confidence,
        seed=seed,
        start=start,
        checkpoint=checkpoint,
    )

    def auto() -> Method[SchurPairs]:
        return DenseSchur() if problem.small(asked, control, DENSE_BELOW) else KrylovSchur()

    chosen = problem.method(method, METHODS, asked, control, auto)
    target, checks = problem.scaled(asked, transpose=left)
    with bar(progress, "eigenpairs") as report:
        found = chosen.solve(J, target, replace(control, progress=report))

    def certified(found: SchurPairs) -> FullEigenPairs:
        proof = certify_full(J.domain, found, target)
        problem.confirm(found, proof.Q[None], proof.Q[None])
        conditions, defective = proof.conditions(rounding(found.eps, found.norm))
        notes = [*found.notes, *_remarks(proof, defective, found, control.tol)]
        fields = problem.report(
            replace(found, notes=notes, completeness=proof.completeness),
            proof.values[None],
            proof.residuals[None],
            (conditions * proof.residuals)[None],
            control.tol,
            error=conditions * problem.rounding(J, found, control.seed),
            ends=target.ends,
            heights=(proof.values.abs() if target.magnitude else proof.values.real)[None],
        )
        fields["spent"].update(checks)
        return FullEigenPairs(
            **fields,
            vectors=problem.as_inputs(proof.vectors[None]),
            left=None if proof.left is None else problem.as_inputs(proof.left[None]),
            left_residuals=None
            if proof.left_residuals is None
            else problem.sized(proof.left_residuals[None]),
            condition=proof.condition,
            defective=defective,
            schur_vectors=problem.as_inputs(proof.Q[None]),
            schur=problem.sized(proof.T[None]),
            schur_residual=problem.sized(proof.schur_residual[None]),
            departure=problem.sized(torch.tensor([departure(proof.T.numpy())], dtype=torch.float64)),
            orthogonality=proof.orthogonality,
            which=asked.which,
            above=asked.above,
            tol=control.tol,
            method=chosen.name,
            seconds=time.perf_counter() - began,
        )

    return proved(found, certified)


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
