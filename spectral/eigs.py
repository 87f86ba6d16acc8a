"""The front door: eigenpairs of the symmetric part of a model's Jacobian, or of an operator, with proof."""

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
from spectral.estimators.norms import asymmetry
from spectral.jacobians.precision import Precision
from spectral.operators import LinearOperator
from spectral.problem import Problem, by_a_right_way, proved
from spectral.progress import bar
from spectral.results import EigenPairs
from spectral.solvers import (
    LOBPCG,
    Chebyshev,
    Completeness,
    Control,
    Dense,
    Lanczos,
    Method,
    RitzPairs,
    Target,
)
from spectral.solvers.certificate import certify, error_bounds
from spectral.solvers.search import INTERRUPTED
from spectral.solvers.target import Which

ASYMMETRY_PROBES = 8

METHODS: dict[str, type[Method[RitzPairs]]] = {
    method.name: method for method in (Lanczos, LOBPCG, Chebyshev, Dense)
}


@front_door
@by_a_right_way
def top_eigs(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    which: Which = "largest",
    above: float | None = None,
    between: tuple[float, float] | None = None,
    tol: float = 1e-4,
    method: str | Method[RitzPairs] = "auto",
    confidence: float = 0.99,
    mask: Tensor | None = None,
    orthogonal_to: Tensor | None = None,
    batched: bool = False,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    precision: Precision | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> EigenPairs:
    """The k extreme eigenpairs S e = lambda e of a Jacobian's symmetric part, with proof.

    J is the Jacobian of `model_or_operator` at y, or the operator itself where y is None, and
    S = (J + J') / 2 its symmetric part.  For an optimal denoiser J is the posterior covariance over sigma^2,
    e_k are the axes in which it shrinks noise and lambda_k the factors by which it does (Kadkhodaie et al.,
    ICLR 2024, eq. 6 and 9).  J itself is for `top_eigs_full` and `top_svd`.

    Each pair is certified: its residual comes from products formed after the solve; a probe of the
    complement looks for eigenvalues that were missed and bounds what it did not see; the asymmetry of J,
    which S does not show, is measured.

    Args:
        model_or_operator: an nn.Module or callable, with y; or a LinearOperator, tensor (n, n) or (B, n, n),
            NumPy array, SciPy matrix or LinearOperator, without.
        y: the noisy image, any shape, floating point.
        k: how many pairs, 1 <= k <= d; not used where `above` or `between` is given.
        which: "largest" (algebraic), "smallest", or "magnitude".
        above: find all eigenvalues beyond this value instead (larger; smaller for "smallest").  Those that
            rounding cannot tell from it are returned too, and noted.
        between: (low, high): find all eigenvalues of S inside instead, from the largest down; as for `above`.
        tol: relative residual: |S e - lambda e| <= tol max |lambda|.
        method: "auto", a method of `spectral.solvers` such as `Lanczos(block=4)`, or the name of one with its
            defaults:
            "lanczos" (thick restart), the fewest products in general;
            "lobpcg", from a good `start`, and with a preconditioner (`spectral.solvers.LOBPCG`);
            "chebyshev" (Lanczos on a polynomial in S), for `between` and for hundreds of pairs in little
            memory;
            "dense" (form the matrix from d products), which "auto" takes where d <= 128, or where k >= d / 5
            and d <= 8192.
        confidence: of what is said of eigenvalues that were not returned; 0 to do without the probe.
        mask: True where vectors may differ from zero, broadcastable to the shape of y (of one image with
            `batched`, or of all): eigenpairs of M S M, M the projector on those entries, on its range.
        orthogonal_to: (p, *y.shape) or (p, d), of any lengths and rank (with `batched` also (B, p, ...)):
            eigenpairs of P S P on the complement of their parts in the mask, P the projector on it.  Neither
            adds zeros to the spectrum: d is then the dimension that is left; residuals, bounds and the
            asymmetry are those of the restricted operator.
        batched: y[0], y[1], ... are independent images, solved in lock-step; those that converge first drop
            out.
        start: (m, *y.shape), vectors whose combination starts the solve (with `batched`: (B, m, ...)), such
            as the basis at a neighbouring noise level.
        seed: of the random starts; a run repeats on one device.
        max_products: bound on the products of solve and probe, `spent` but for "checks", "residuals",
            "rounding" and "asymmetry", which take five, one per pair found, three and eight besides; 10,000
            by default.  Pairs short of tol are then marked so.  With `precision` it bounds both solves
            together, and the residuals of the first.
        precision: "bfloat16", "tf32", "float32" or "float64": solve with products formed at it, then polish
            in the model's own by LOBPCG; certificates are always the model's own.  With k and method="auto".
        progress: show a progress bar.
        checkpoint: a file in which the solve is kept while it runs; where it exists, the solve in it is
            resumed, also with another k, tol or max_products.  For the method "lanczos".
        model_kwargs: keywords for the model, {name: value}: noise level, label, ...

    Returns:
        EigenPairs, vectors (k, *input shape).  Ctrl-C returns what has been found, marked so; a second one,
        or one before there is anything, raises KeyboardInterrupt.

    Raises:
        OptionError: k, tol, max_products or above out of range, or arguments that contradict.
        ShapeError: the output's shape is not the input's, or the operator is not square.
        NotSymmetricError, NotLinearError: products contradict the symmetry or the transpose the operator was
            given with, or its linearity.
        CheckpointError: the checkpoint belongs to another problem.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> y = torch.linspace(0.1, 1.0, 10)
        >>> pairs = spectral.top_eigs(lambda y: y.square() / 2, y, k=3)  # J = diag(y)
        >>> pairs.values
        tensor([1.0000, 0.9000, 0.8000], dtype=torch.float64)
        >>> pairs.vectors.shape, bool(pairs.converged.all()), bool(pairs.complete)
        (torch.Size([3, 10]), True, True)
    """
    began = time.perf_counter()
    problem = Problem.of(
        model_or_operator, y, batched, model_kwargs, square=True, mask=mask, orthogonal_to=orthogonal_to
    )
    asked = Target.of(k, which, above, between)
    control = problem.request(
        tol=tol,
        max_products=max_products,
        confidence=confidence,
        seed=seed,
        start=start,
        checkpoint=checkpoint,
    )

    def auto() -> Method[RitzPairs]:
        if asked.between is not None:
            return Chebyshev()
        return Dense() if problem.small(asked, control) else Lanczos()

    chosen = problem.method(method, METHODS, asked, control, auto)
    if precision is not None and not (method == "auto" and asked.counted and checkpoint is None):
        raise OptionError('precision= is for k pairs, method="auto", no checkpoint')
    target, checks = problem.scaled(asked)
    S, name = problem.working.symmetric_part(), chosen.name
    with bar(progress, "eigenpairs") as report:
        control = replace(control, progress=report)
        if precision is None:
            found = chosen.solve(S, target, control)
        else:
            name = f"lanczos in {precision}, lobpcg"
            found = _polished(problem, S, target, control, precision)
    found.spent.update(checks)

    def certified(found: RitzPairs) -> EigenPairs:
        skew = None
        if not problem.working.symmetric:
            skew = asymmetry(problem.working, products=2 * ASYMMETRY_PROBES, seed=control.seed)
            found.spent["asymmetry"] = ASYMMETRY_PROBES
        inside, magnitude = target.between is not None, target.magnitude
        proof = certify(
            S.domain,
            found.vectors,
            found.AV,
            descending=target.sign > 0 or inside,
            magnitude=magnitude,
        )
        problem.confirm(found, proof.vectors, proof.vectors)
        bound = found.completeness.bound
        errors = error_bounds(
            proof.values,
            proof.residuals,
            torch.full_like(bound, torch.inf) if inside else bound,
            which=target.which,
        )
        return EigenPairs(
            **problem.report(
                found,
                proof.values,
                proof.residuals,
                errors,
                control.tol,
                error=problem.rounding(S, found, control.seed),
                ends=target.ends,
                heights=proof.values.abs() if magnitude and not inside else proof.values,
            ),
            vectors=problem.as_inputs(proof.vectors),
            orthogonality=problem.one(proof.orthogonality),
            asymmetry=skew,
            which=asked.which,
            above=asked.above,
            between=asked.between,
            tol=control.tol,
            method=name,
            seconds=time.perf_counter() - began,
        )

    return proved(found, certified)


def _polished(
    problem: Problem, S: LinearOperator, target: Target, control: Control, precision: Precision
) -> RitzPairs:
    """Pairs solved for at another precision, and polished at the model's own.

    The products differ by nu = |(S - S~) x| / |S x|, measured on a random x, so that the first solve stops
    at max(tol, nu): beyond, it would converge to the eigenpairs of S~.
    """
    coarse = problem.at(precision).symmetric_part()
    k, most = target.k, control.budget
    if most < 2 * k + 4:
        raise OptionError(f"precision= solves twice, and takes at least {2 * k + 4} products; got {most}")
    generator = torch.Generator().manual_seed(control.seed)
    x = S.domain.normal(*S.batch, 1, generator=generator).to(S.device, S.dtype)
    norm, exact = S.codomain.norms, S.apply(x)
    nu = (norm(coarse.apply(x) - exact) / norm(exact)).max().item()
    share = max(most // 2 - k - 1, 0)  # the pairs' residuals take k besides
    roughly = replace(control, tol=max(control.tol, nu), confidence=0.0, max_products=share)
    first = Lanczos().solve(coarse, target, roughly)
    coarsely = 1 + sum(first.spent.values())
    note = f"solved with products in {precision}, {nu:.0e} off"
    if INTERRUPTED in first.notes:
        rows = first.vectors
        nothing = Completeness(torch.full((len(rows),), torch.inf, dtype=torch.float64), 0.0, 0)
        spent = {precision: coarsely, "residuals": rows.shape[1]}
        return replace(first, AV=S.apply(rows), completeness=nothing, spent=spent, notes=[note, *first.notes])
    start = first.vectors if first.vectors.shape[1] else control.start
    rest = replace(control, start=start, max_products=most - coarsely - 1)
    found = LOBPCG().solve(S, target, rest)
    note = f"{note}, and polished in {problem.A.dtype}"
    spent = {precision: coarsely, **found.spent, "solve": found.spent["solve"] + 1}
    return replace(found, spent=spent, notes=[note, *found.notes])
