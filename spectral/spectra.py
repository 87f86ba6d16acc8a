"""The front door: spectra of a model's Jacobian, or of any operator, with their certificates."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from spectral.ambient import apart
from spectral.errors import OptionError
from spectral.estimators.norms import asymmetry
from spectral.nonsymmetric import full_eigs
from spectral.operators import Jacobian, LinearOperator
from spectral.operators.precision import Precision
from spectral.operators.scale import UnitScale
from spectral.options import choice
from spectral.problem import FULL_BELOW, Asked, Problem, by_a_right_way
from spectral.progress import bar
from spectral.results import EigenPairs, FullEigenPairs, SingularTriplets
from spectral.solvers import (
    Completeness,
    Progress,
    RitzPairs,
    RitzTriplets,
    chebyshev,
    dense,
    dense_svd,
    golub_kahan,
    lanczos,
    lobpcg,
    randomized,
    randomized_svd,
)
from spectral.solvers.certificate import certify, certify_triplets, error_bounds
from spectral.solvers.krylov import image
from spectral.solvers.search import INTERRUPTED, Which

ASYMMETRY_PROBES = 8

SYMMETRIC = ("auto", "lanczos", "lobpcg", "chebyshev", "randomized", "dense")
FULL = ("auto", "krylov-schur", "dense")
SINGULAR = ("auto", "golub-kahan", "randomized", "dense")


class Options(TypedDict, total=False):
    """The keywords of `top_eigs` on which the kind of its result does not depend."""

    which: Which
    above: float | None
    between: tuple[float, float] | None
    tol: float
    method: str
    block: int
    batched: bool
    start: Tensor | None
    seed: int
    max_products: int | None
    left: bool
    precision: Precision | None
    progress: bool
    checkpoint: str | Path | None
    model_kwargs: Mapping[str, Any] | None


@overload
def top_eigs(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    part: Literal["symmetric"] = "symmetric",
    **options: Unpack[Options],
) -> EigenPairs: ...


@overload
def top_eigs(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    part: Literal["full"],
    **options: Unpack[Options],
) -> FullEigenPairs: ...


@apart()
@by_a_right_way
def top_eigs(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    part: Literal["symmetric", "full"] = "symmetric",
    which: Which = "largest",
    above: float | None = None,
    between: tuple[float, float] | None = None,
    tol: float = 1e-4,
    method: str = "auto",
    block: int = 1,
    batched: bool = False,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    left: bool = False,
    precision: Precision | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> EigenPairs | FullEigenPairs:
    """The k extreme eigenpairs of a Jacobian, with proof: S e = lambda e, or J v = lambda v for part="full".

    J is the Jacobian of `model_or_operator` at y, or the operator itself where y is None, and
    S = (J + J') / 2 its symmetric part.  For an optimal denoiser J is the posterior covariance over sigma^2,
    e_k are the axes in which it shrinks noise and lambda_k the factors by which it does (Kadkhodaie et al.,
    ICLR 2024, eq. 6 and 9).

    Each pair is certified: its residual comes from products formed after the solve; a probe of the
    complement looks for eigenvalues that were missed and bounds what it did not see; the asymmetry of J,
    which S does not show, is measured.

    Args:
        model_or_operator: an nn.Module or callable, with y; or a LinearOperator, tensor (n, n) or (B, n, n),
            NumPy array, SciPy matrix or LinearOperator, without.
        y: the noisy image, any shape, floating point.
        k: how many pairs, 1 <= k <= d; not used where `above` or `between` is given.
        part: "symmetric", eigenpairs of S; "full", complex eigenpairs of J itself.
        which: "largest" (algebraic), "smallest", or "magnitude"; by real part or modulus for part="full".
        above: find all eigenvalues beyond this value instead (larger; smaller for "smallest").  Those that
            rounding cannot tell from it are returned too, and noted.
        between: (low, high): find all eigenvalues of S inside instead, from the largest down; as for `above`.
        tol: relative residual: |S e - lambda e| <= tol max |lambda|.
        method: "auto", or
            "lanczos" (thick restart), the fewest products in general;
            "lobpcg", from a good `start`, and with a preconditioner (`spectral.solvers.lobpcg`);
            "chebyshev" (Lanczos on a polynomial in S), for `between` and for hundreds of pairs in little
            memory;
            "randomized" (block Krylov), the best that exactly `max_products` products give;
            "dense" (form the matrix from d products), which "auto" takes where d <= 128 (300 for
            part="full"), or where k >= d / 5 and d <= 8192;
            "krylov-schur", or "dense", for part="full".
        block: vectors a product; larger blocks cost more products, and find clusters sooner.
        batched: y[0], y[1], ... are independent images, solved in lock-step; those that converge first drop
            out.
        start: (m, *y.shape), vectors whose combination starts the solve (with `batched`: (B, m, ...)), such
            as the basis at a neighbouring noise level.
        seed: of the random starts; a run repeats on one device.
        max_products: bound on the products of solve and probe, `spent` but for "checks", "residuals" and
            "asymmetry", which take five, one a pair found and eight besides; 10,000 by default.  Pairs short
            of tol are then marked so.  With `left`, or `precision`, it bounds both solves together, and the
            residuals of the first.  For "randomized" it bounds the residuals too.
        precision: "bfloat16", "tf32", "float32" or "float64": solve with products formed at it, then polish
            in the model's own by LOBPCG; certificates are always the model's own.  With k and method="auto".
        left: for part="full", find left vectors too, and with them each eigenvalue's condition.
        progress: show a bar.
        checkpoint: a file in which the solve is kept while it runs; where it exists, the solve in it is
            resumed, also with another k, tol or max_products.  For the methods "lanczos" and "krylov-schur".
        model_kwargs: keywords for the model, {name: value}: noise level, label, ...

    Returns:
        EigenPairs, vectors (k, *input shape); FullEigenPairs for part="full".  Ctrl-C returns what has been
        found, marked so.

    Raises:
        OptionError: k, tol, block, max_products or above out of range, or arguments that contradict.
        ShapeError: the output's shape is not the input's, or the operator is not square.
        NotSymmetricError, NotLinearError: products contradict the symmetry or the transpose the operator was
            given with, or its linearity.
        CheckpointError: the checkpoint belongs to another problem.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> pairs = spectral.top_eigs(model, y, k=20)
        >>> pairs.values, pairs.vectors, pairs.residuals
    """
    began = time.perf_counter()
    choice("part", part, ("symmetric", "full"))
    alone = part == "symmetric" and above is None and between is None and checkpoint is None
    if precision is not None and not (alone and isinstance(method, str) and method == "auto"):
        raise OptionError('precision= is for k pairs of the symmetric part, method="auto", no checkpoint')
    problem = Problem.of(model_or_operator, y, batched, model_kwargs, square=True)
    asked = Asked(k, which, above, between, tol, method, block, start, seed, max_products, checkpoint)
    asked = problem.checked(asked, FULL if part == "full" else SYMMETRIC)
    asked, checks = problem.examined(asked, transpose=part == "symmetric" or left)
    if part == "full":
        if left and max_products is not None and max_products < 2 * (k + asked.block) + 1:
            raise OptionError(f"left vectors take a second solve: max_products={max_products} is too few")
        if between is not None:
            raise OptionError('between= is for part="symmetric": complex eigenvalues lie in no interval')
        formed = method == "dense" or (method == "auto" and problem.small(asked, FULL_BELOW))
        with bar(progress, "eigenpairs of J") as report:
            options = asked.options(report, which=which, left=left, checkpoint=checkpoint)
            pairs = full_eigs(problem, asked.k, method="dense" if formed else "krylov-schur", **options)
        pairs.spent.update(checks)
        return pairs
    if left:
        raise OptionError('left= is for part="full": the symmetric part has the same vectors on both sides')
    with bar(progress, "eigenpairs") as report:
        method, found = _symmetric(problem, asked, precision, report)
    skew = None
    if not problem.A.symmetric:
        skew = asymmetry(problem.working, products=2 * ASYMMETRY_PROBES, seed=asked.seed)
        found.spent["asymmetry"] = ASYMMETRY_PROBES
    found.spent.update(checks)
    descending, magnitude = which != "smallest" or between is not None, which == "magnitude"
    proof = certify(found.vectors, found.images, descending=descending, magnitude=magnitude)
    problem.confirm(found, proof.vectors, proof.vectors)
    unseen = (
        found.completeness.bound if between is None else torch.full_like(found.completeness.bound, torch.inf)
    )
    errors = error_bounds(proof.values, proof.residuals, unseen, which=which)
    return EigenPairs(
        **problem.judged(
            found,
            proof.values,
            proof.residuals,
            errors,
            asked.tol,
            error=problem.rounding(problem.working.symmetric_part(), found, asked.seed),
            ends=asked.between or ([] if asked.above is None else [asked.above]),
            heights=proof.values.abs() if magnitude and between is None else proof.values,
        ),
        vectors=problem.shaped(proof.vectors, problem.input_shape),
        orthogonality=problem.one(proof.orthogonality),
        asymmetry=skew,
        which=which,
        above=above,
        between=between,
        tol=asked.tol,
        method=method,
        seconds=time.perf_counter() - began,
    )


def _symmetric(
    problem: Problem,
    asked: Asked,
    precision: Precision | None,
    report: Callable[[Progress], None] | None,
) -> tuple[str, RitzPairs]:
    """The method taken, and what it found of the symmetric part."""
    S, k, which = problem.working.symmetric_part(), asked.k, asked.which
    method = asked.method
    if asked.between is not None:
        if method not in ("auto", "chebyshev"):
            raise OptionError(f'between= is for method="chebyshev", got {method!r}')
        method = "chebyshev"
    if method == "auto":
        method = "dense" if problem.small(asked) else "lanczos"
    options = asked.options(report, which=which)
    if precision is not None:
        return f"lanczos in {precision}, lobpcg", _polished(problem, S, k, precision, options)
    if method == "dense":
        return method, dense(S, k, which=which, above=asked.above)
    if method == "lobpcg":
        return method, lobpcg(S, k, **options)
    if method == "chebyshev":
        return method, chebyshev(S, k, between=asked.between, **options)
    if method == "randomized":
        return method, randomized(S, k, **asked.budget(options))
    return method, lanczos(S, k, checkpoint=asked.checkpoint, **options)


def _polished(
    problem: Problem, S: LinearOperator, k: int, precision: Precision, options: dict[str, Any]
) -> RitzPairs:
    """Pairs solved for at another precision, and polished at the model's own.

    The products differ by nu = |(S - S~) x| / |S x|, measured on a random x, so that the first solve stops
    at max(tol, nu): beyond, it would converge to the eigenpairs of S~.
    """
    if not isinstance(problem.A, Jacobian):
        raise OptionError("precision= is for the Jacobian of a model: convert an operator's own products")
    most = options["max_products"]
    if most < 2 * k + 4:
        raise OptionError(f"precision= solves twice, and takes at least {2 * k + 4} products; got {most}")
    generator = torch.Generator().manual_seed(options["seed"])
    x = torch.randn(*S.batch, 1, S.shape[1], generator=generator).to(S.device, S.dtype)
    norm = functools.partial(torch.linalg.vector_norm, dim=-1)
    exact = S.apply(x)
    coarse = UnitScale(problem.A.at_precision(precision).to(S.dtype), problem.working.scale).symmetric_part()
    nu = (norm(coarse.apply(x) - exact) / norm(exact)).max().item()
    share = max(most // 2 - k - 1, 0)  # the pairs' residuals take k besides
    tol = max(options["tol"], nu)
    first = lanczos(coarse, k, **options | {"tol": tol, "confidence": 0.0, "max_products": share})
    coarsely = 1 + sum(first.spent.values())
    note = f"solved with products in {precision}, {nu:.0e} off"
    if INTERRUPTED in first.notes:
        rows = first.vectors
        images = image(S.apply, rows, S) if rows.shape[1] else rows
        nothing = Completeness(torch.full((len(rows),), torch.inf, dtype=torch.float64), 0.0, 0)
        spent = {precision: coarsely, "residuals": rows.shape[1]}
        return replace(first, images=images, completeness=nothing, spent=spent, notes=[note, *first.notes])
    start = first.vectors if first.vectors.shape[1] else options["start"]
    found = lobpcg(S, k, **options | {"start": start, "max_products": most - coarsely - 1})
    note = f"{note}, and polished in {problem.A.dtype}"
    spent = {precision: coarsely, **found.spent, "solve": found.spent["solve"] + 1}
    return replace(found, spent=spent, notes=[note, *found.notes])


@apart()
@by_a_right_way
def top_svd(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    above: float | None = None,
    tol: float = 1e-4,
    method: str = "auto",
    block: int = 1,
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
        method: "auto", "golub-kahan" (thick restart), "randomized" (block Krylov, exactly `max_products`), or
            "dense" (form J from d products), which "auto" takes where d <= 128, or where k >= d / 5 and
            d <= 8192.
        start: (m, *y.shape), right vectors whose combination starts the solve.
        checkpoint: as in `top_eigs`, for the method "golub-kahan".
        block, batched, seed, max_products, progress, model_kwargs: as in `top_eigs`.

    Returns:
        SingularTriplets, right (k, *input shape), left (k, *output shape).

    Raises:
        OptionError: k, tol, block, max_products or above out of range, or arguments that contradict.
        NotSymmetricError, NotLinearError: the products with J' are not those of J's transpose, or not linear.
        CheckpointError: the checkpoint belongs to another problem.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> triplets = spectral.top_svd(model, y, k=20, model_kwargs={"sigma": 0.5})
        >>> triplets.values, triplets.left, triplets.right
    """
    began = time.perf_counter()
    problem = Problem.of(model_or_operator, y, batched, model_kwargs, square=False)
    asked = Asked(k, "largest", above, None, tol, method, block, start, seed, max_products, checkpoint)
    asked = problem.checked(asked, SINGULAR)
    asked, checks = problem.examined(asked)
    with bar(progress, "singular triplets") as report:
        method, found = _singular(problem, asked, report)
    found.spent.update(checks)
    proof = certify_triplets(found.right, found.left, found.images)
    problem.confirm(found, proof.right, proof.left)
    # As eigenpairs of ((0, J), (J', 0)), whose other eigenvalues are -sigma and 0.
    joint = ((proof.left_residuals**2 + proof.right_residuals**2) / 2).sqrt()
    unseen = found.completeness.bound.clamp(min=0)
    errors = error_bounds(proof.values, joint, unseen, which="largest")
    residuals = torch.maximum(proof.left_residuals, proof.right_residuals)
    return SingularTriplets(
        **problem.judged(
            found,
            proof.values,
            residuals,
            errors,
            asked.tol,
            error=problem.rounding(problem.working, found, asked.seed),
            ends=[] if asked.above is None else [asked.above],
            heights=proof.values,
        ),
        left=problem.shaped(proof.left, problem.output_shape),
        right=problem.shaped(proof.right, problem.input_shape),
        left_residuals=problem.sized(proof.left_residuals),
        right_residuals=problem.sized(proof.right_residuals),
        orthogonality=problem.one(proof.orthogonality),
        which="largest",
        above=above,
        tol=asked.tol,
        method=method,
        seconds=time.perf_counter() - began,
    )


def _singular(
    problem: Problem, asked: Asked, report: Callable[[Progress], None] | None
) -> tuple[str, RitzTriplets]:
    """The method taken, and the triplets it found."""
    J, k, method = problem.working, asked.k, asked.method
    if method == "auto":
        method = "dense" if problem.small(asked) else "golub-kahan"
    options = asked.options(report)
    if method == "dense":
        return method, dense_svd(J, k, above=asked.above)
    if method == "randomized":
        return method, randomized_svd(J, k, **asked.budget(options))
    return method, golub_kahan(J, k, checkpoint=asked.checkpoint, **options)
