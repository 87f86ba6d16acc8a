"""The front door to singular triplets of a model's Jacobian, or of an operator, with proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.operators import LinearOperator
from spectral.problem import Problem, by_a_right_way, proved
from spectral.progress import bar
from spectral.results import SingularTriplets
from spectral.solvers import DenseSVD, GolubKahan, Method, RitzTriplets, Target
from spectral.solvers.certificate import certify_triplets, error_bounds

METHODS: dict[str, type[Method[RitzTriplets]]] = {method.name: method for method in (GolubKahan, DenseSVD)}


@front_door
@by_a_right_way
def top_svd(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    above: float | None = None,
    tol: float = 1e-4,
    method: str | Method[RitzTriplets] = "auto",
    confidence: float = 0.99,
    mask: Tensor | None = None,
    output_mask: Tensor | None = None,
    orthogonal_to: Tensor | None = None,
    batched: bool = False,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> SingularTriplets:
    """The k largest singular triplets J v = sigma u, J' u = sigma v of a Jacobian or operator, with proof.

    The right tool where J need not be symmetric: a consistency model, an output of another shape.  J' J is
    never formed, so small singular values keep their digits.  Both residuals come from products formed after
    the solve; a probe looks for singular values that were missed and bounds what it did not see.

    Args:
        model_or_operator, y: as in `top_eigs`; the operator may be rectangular.
        k: how many triplets, 1 <= k <= min(r, d); not used where `above` is given.
        above: find all singular values above this instead, and those that rounding cannot tell from it.
        tol: relative residual: |J v - sigma u| and |J' u - sigma v| <= tol max sigma.
        method: "auto", a method of `spectral.solvers`, or the name of one with its defaults: "golub-kahan"
            (thick restart), or "dense" (form J from d products), which "auto" takes where d <= 128, or where
            k >= d / 5 and d <= 8192.
        mask, orthogonal_to: as in `top_eigs`, of right vectors: only these entries may move.
        output_mask: as mask, of left vectors and the shape of the output: only these entries are looked at.
        start: (m, *y.shape), right vectors whose combination starts the solve.
        checkpoint: as in `top_eigs`, for the method "golub-kahan".
        confidence, batched, seed, max_products, progress, model_kwargs: as in `top_eigs`.

    Returns:
        SingularTriplets, right (k, *input shape), left (k, *output shape).

    Raises:
        OptionError: k, tol, max_products or above out of range, or arguments that contradict.
        NotSymmetricError, NotLinearError: the products with J' are not those of J's transpose, or not linear.
        CheckpointError: the checkpoint belongs to another problem.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> A = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.0, 0.7]])
        >>> triplets = spectral.top_svd(lambda y: A @ y, torch.ones(3), k=2)  # J = A, two rows
        >>> triplets.values
        tensor([0.7000, 0.3000], dtype=torch.float64)
        >>> triplets.left.shape, triplets.right.shape
        (torch.Size([2, 2]), torch.Size([2, 3]))
    """
    began = time.perf_counter()
    problem = Problem.of(
        model_or_operator,
        y,
        batched,
        model_kwargs,
        square=False,
        mask=mask,
        orthogonal_to=orthogonal_to,
        output_mask=output_mask,
    )
    asked = Target.of(k, "largest", above)
    control = problem.request(
        tol=tol,
        max_products=max_products,
        confidence=confidence,
        seed=seed,
        start=start,
        checkpoint=checkpoint,
    )

    def auto() -> Method[RitzTriplets]:
        return DenseSVD() if problem.small(asked, control) else GolubKahan()

    chosen = problem.method(method, METHODS, asked, control, auto)
    target, checks = problem.scaled(asked)
    with bar(progress, "singular triplets") as report:
        found = chosen.solve(problem.working, target, replace(control, progress=report))
    found.spent.update(checks)

    def certified(found: RitzTriplets) -> SingularTriplets:
        proof = certify_triplets(problem.working, found)
        problem.confirm(found, proof.right, proof.left)
        # As eigenpairs of ((0, J), (J', 0)), whose other eigenvalues are -sigma and 0.  Where the one that is
        # near may be 0, by a J + E which has the triplet, |E| = max(|J v - sigma u|, |J' u - sigma v|)
        # (Kahan, Parlett and Jiang 1982).
        joint = ((proof.left_residuals**2 + proof.right_residuals**2) / 2).sqrt()
        worse = torch.maximum(proof.left_residuals, proof.right_residuals)
        unseen = found.completeness.bound.clamp(min=0)
        errors = error_bounds(proof.values, joint, unseen, which="largest")
        return SingularTriplets(
            **problem.report(
                found,
                proof.values,
                worse,
                torch.where(proof.values > joint, errors, worse),
                control.tol,
                error=problem.rounding(problem.working, found, control.seed),
                ends=target.ends,
                heights=proof.values,
            ),
            left=problem.as_outputs(proof.left),
            right=problem.as_inputs(proof.right),
            left_residuals=problem.sized(proof.left_residuals),
            right_residuals=problem.sized(proof.right_residuals),
            orthogonality=problem.one(proof.orthogonality),
            which="largest",
            above=asked.above,
            tol=control.tol,
            method=chosen.name,
            seconds=time.perf_counter() - began,
        )

    return proved(found, certified)
