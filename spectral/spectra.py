"""The front door: spectra of a model's Jacobian, or of any operator, with their certificates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.estimators.norms import asymmetry
from spectral.operators import Jacobian, LinearOperator
from spectral.operators.subject import operator_of
from spectral.progress import bar
from spectral.results import EigenPairs, SingularTriplets
from spectral.solvers import Completeness, RitzPairs, RitzTriplets, dense, dense_svd, golub_kahan, lanczos
from spectral.solvers.certificate import certify, certify_triplets, error_bounds
from spectral.solvers.checks import check_operator
from spectral.solvers.lanczos import Which

log = logging.getLogger("spectral")

DENSE_BELOW = 128
DENSE_AT_MOST = 8192
ASYMMETRY_PROBES = 8


def top_eigs(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    which: Which = "largest",
    above: float | None = None,
    tol: float = 1e-4,
    method: Literal["auto", "lanczos", "dense"] = "auto",
    block: int = 1,
    batched: bool = False,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int = 10_000,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    **model_kwargs: Any,
) -> EigenPairs:
    """The k extreme eigenpairs S e = lambda e of the symmetric part S = (J + J') / 2, with proof.

    J is the Jacobian of `model_or_operator` at y, or the operator itself where y is None.  For an optimal
    denoiser J is the posterior covariance over sigma^2, e_k are the axes in which it shrinks noise and
    lambda_k the factors by which it does (Kadkhodaie et al., ICLR 2024, eq. 6 and 9).

    Each pair is certified: its residual comes from products formed after the solve; a probe of the
    complement looks for eigenvalues that were missed and bounds what it did not see; the asymmetry of J,
    which S does not show, is measured.

    Args:
        model_or_operator: an nn.Module or callable, with y; or a LinearOperator, tensor (n, n) or (B, n, n),
            NumPy array, SciPy matrix or LinearOperator, without.
        y: the noisy image, any shape, floating point.
        k: how many pairs, 1 <= k <= d; not used where `above` is given.
        which: "largest" (algebraic), "smallest", or "magnitude".
        above: find all eigenvalues beyond this value instead (larger; smaller for "smallest").
        tol: relative residual: |S e - lambda e| <= tol max |lambda|.
        method: "lanczos" (thick restart), "dense" (form S from d products), or "auto": dense where d <= 128,
            or where k >= d / 5 and d <= 8192.
        block: vectors a product; larger blocks cost more products, and find clusters sooner.
        batched: y[0], y[1], ... are independent images, solved in lock-step.
        start: (m, *y.shape), vectors whose combination starts the solve (with `batched`: (B, m, ...)).
        seed: of the random starts; a run repeats on one device.
        max_products: bound on the products; pairs short of tol are then marked so.
        progress: show a bar.
        checkpoint: a file in which the solve is kept while it runs; where it exists, the solve in it is
            resumed, also with another k, tol or max_products.  For the iterative methods.
        model_kwargs: passed to the model: noise level, label, ...

    Returns:
        EigenPairs, vectors (k, *input shape).  Ctrl-C returns what has been found, marked so.

    Raises:
        OptionError: k, tol, block, max_products or above out of range, or arguments that contradict.
        ShapeError: the output's shape is not the input's, or the operator is not square.
        NotSymmetricError, NotLinearError: products contradict the symmetry or the transpose the operator was
            given with, or its linearity.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> pairs = spectral.top_eigs(model, y, k=20)
        >>> pairs.values, pairs.vectors, pairs.residuals
    """
    began = time.perf_counter()
    problem = _Problem.of(model_or_operator, y, batched, model_kwargs, symmetric=True)
    S = problem.working.symmetric_part()
    problem.refuse(k, above, tol, method, ("auto", "lanczos", "dense"), block, max_products)
    checks = problem.examined()
    if which not in ("largest", "smallest", "magnitude"):
        raise OptionError(f'which is "largest", "smallest" or "magnitude", got {which!r}')
    if method == "dense" or (method == "auto" and problem.small(k, above)):
        method, found = "dense", dense(S, k, which=which, above=above)
    else:
        method = "lanczos"
        with bar(progress, "eigenpairs") as report:
            found = lanczos(
                S,
                k,
                which=which,
                above=above,
                tol=tol,
                block=min(block, problem.n),
                start=problem.rows(start),
                seed=seed,
                max_products=max_products,
                progress=report,
                checkpoint=checkpoint,
            )
    skew = None
    if not problem.A.symmetric:
        skew = asymmetry(problem.working, products=2 * ASYMMETRY_PROBES, seed=seed)
        found.spent["asymmetry"] = ASYMMETRY_PROBES
    descending, magnitude = which != "smallest", which == "magnitude"
    proof = certify(found.vectors, found.images, descending=descending, magnitude=magnitude)
    errors = error_bounds(proof.values, proof.residuals, found.completeness.bound, which=which)
    found.spent.update(checks)
    return EigenPairs(
        **problem.judged(found, proof.values, proof.residuals, errors, tol),
        vectors=problem.shaped(proof.vectors, problem.input_shape),
        orthogonality=problem.one(proof.orthogonality),
        asymmetry=skew,
        which=which,
        above=above,
        tol=tol,
        method=method,
        seconds=time.perf_counter() - began,
    )


def top_svd(
    model_or_operator: Callable[..., Any] | LinearOperator | Any,
    y: Tensor | None = None,
    k: int = 6,
    *,
    above: float | None = None,
    tol: float = 1e-4,
    method: Literal["auto", "golub-kahan", "dense"] = "auto",
    block: int = 1,
    batched: bool = False,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int = 10_000,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    **model_kwargs: Any,
) -> SingularTriplets:
    """The k largest singular triplets J v = sigma u, J' u = sigma v of a Jacobian or operator, with proof.

    The right tool where J need not be symmetric: a consistency model, an output of another shape.  J' J is
    never formed, so small singular values keep their digits.  Both residuals come from products formed after
    the solve; a probe looks for singular values that were missed and bounds what it did not see.

    Args:
        model_or_operator, y: as in `top_eigs`; the operator may be rectangular.
        k: how many triplets, 1 <= k <= min(r, d); not used where `above` is given.
        above: find all singular values above this instead.
        tol: relative residual: |J v - sigma u| and |J' u - sigma v| <= tol max sigma.
        method: "golub-kahan" (thick restart), "dense" (form J from d products), or "auto": dense where
            d <= 128, or where k >= d / 5 and d <= 8192.
        start: (m, *y.shape), right vectors whose combination starts the solve.
        block, batched, seed, max_products, progress, checkpoint, model_kwargs: as in `top_eigs`.

    Returns:
        SingularTriplets, right (k, *input shape), left (k, *output shape).

    Raises:
        OptionError: k, tol, block, max_products or above out of range, or arguments that contradict.
        NotSymmetricError, NotLinearError: the products with J' are not those of J's transpose, or not linear.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> triplets = spectral.top_svd(model, y, k=20, sigma=0.5)
        >>> triplets.values, triplets.left, triplets.right
    """
    began = time.perf_counter()
    problem = _Problem.of(model_or_operator, y, batched, model_kwargs, symmetric=False)
    problem.refuse(k, above, tol, method, ("auto", "golub-kahan", "dense"), block, max_products)
    checks = problem.examined()
    if method == "dense" or (method == "auto" and problem.small(k, above)):
        method, found = "dense", dense_svd(problem.working, k, above=above)
    else:
        method = "golub-kahan"
        with bar(progress, "singular triplets") as report:
            found = golub_kahan(
                problem.working,
                k,
                above=above,
                tol=tol,
                block=min(block, problem.n),
                start=problem.rows(start),
                seed=seed,
                max_products=max_products,
                progress=report,
                checkpoint=checkpoint,
            )
    proof = certify_triplets(found.right, found.left, found.images)
    # As eigenpairs of ((0, J), (J', 0)), whose other eigenvalues are -sigma and 0.
    joint = ((proof.left_residuals**2 + proof.right_residuals**2) / 2).sqrt()
    unseen = found.completeness.bound.clamp(min=0)
    errors = error_bounds(proof.values, joint, unseen, which="largest")
    residuals = torch.maximum(proof.left_residuals, proof.right_residuals)
    found.spent.update(checks)
    return SingularTriplets(
        **problem.judged(found, proof.values, residuals, errors, tol),
        left=problem.shaped(proof.left, problem.output_shape),
        right=problem.shaped(proof.right, problem.input_shape),
        left_residuals=problem.one(proof.left_residuals),
        right_residuals=problem.one(proof.right_residuals),
        orthogonality=problem.one(proof.orthogonality),
        which="largest",
        above=above,
        tol=tol,
        method=method,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True)
class _Problem:
    """What is solved: the operator, the one the solver works with, and the shapes of its vectors."""

    A: LinearOperator
    working: LinearOperator
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @classmethod
    def of(
        cls, subject: Any, y: Tensor | None, batched: bool, model_kwargs: dict[str, Any], symmetric: bool
    ) -> _Problem:
        """From a model and its input, or from an operator alone."""
        A = operator_of(subject, y, batched, **model_kwargs)
        if symmetric:
            A.symmetric_part()  # raises, before any work, where there is none
        shapes = (A.input_shape, A.output_shape) if isinstance(A, Jacobian) else (A.shape[1:], A.shape[:1])
        # Half precision is for products alone: the solver's own arithmetic is never below float32.
        return cls(A, A.to(torch.promote_types(A.dtype, torch.float32)), *shapes)

    @property
    def n(self) -> int:
        return self.A.shape[1]

    def refuse(
        self,
        k: int,
        above: float | None,
        tol: float,
        method: str,
        methods: tuple[str, ...],
        block: int,
        max_products: int,
    ) -> None:
        """Refuse options out of range."""
        most = min(self.A.shape)
        if above is None and not 1 <= k <= most:
            raise OptionError(f"k must be from 1 to d = {most}, the number of pixels; got {k}")
        if method not in methods:
            raise OptionError(f"method is one of {', '.join(methods)}; got {method!r}")
        if not tol > 0:
            raise OptionError(f"tol must be positive, got {tol}")
        if block < 1:
            raise OptionError(f"block must be at least 1, got {block}")
        if above is not None and self.A.batch:
            raise OptionError("above= finds a different number of pairs in each image: call it once an image")
        if above is None and max_products < k + block:
            raise OptionError(
                f"{k} pairs take at least {k + block} products, got max_products={max_products}"
            )

    def examined(self) -> dict[str, int]:
        """Products spent on trying an operator of unknown make; a Jacobian was tried when it was made."""
        return {} if isinstance(self.A, Jacobian) else {"checks": check_operator(self.working)}

    def small(self, k: int, above: float | None) -> bool:
        """Whether forming the matrix costs less than a Krylov solve would."""
        most = above is None and 5 * k >= self.n and self.n <= DENSE_AT_MOST
        return self.n <= DENSE_BELOW or most

    def rows(self, start: Tensor | None) -> Tensor | None:
        """`start` as (B, m, n)."""
        if start is None:
            return None
        rows = start.reshape(*(self.A.batch or (1,)), -1, self.n) if start.numel() % self.n == 0 else start
        if rows.ndim != 3 or rows.shape[1] == 0:
            raise ShapeError(
                f"start holds vectors of {self.n} entries, (m, *input shape); got {tuple(start.shape)}"
            )
        if not torch.isfinite(rows).all():
            raise NotFiniteError("start holds NaN or infinity")
        return rows

    def judged(
        self,
        found: RitzPairs | RitzTriplets,
        values: Tensor,
        residuals: Tensor,
        errors: Tensor,
        tol: float,
    ) -> dict[str, Any]:
        """The fields that say how good the values are, and the notes."""
        rounding = torch.finfo(self.working.dtype).eps * found.norm
        k = values.shape[-1]
        scale = values.abs().amax(-1) if k else values.new_zeros(len(values))
        tolerance = (tol * scale).clamp(min=10 * rounding)
        converged = residuals <= tolerance.unsqueeze(-1)
        notes = [*(self.A.notes if isinstance(self.A, Jacobian) else []), *found.notes]
        if k and bool((tol * scale < 10 * rounding).any()):
            notes.append(
                f"tol {tol:g} is below the rounding of {self.working.dtype} products: residuals of "
                f"{10 * rounding:.1e} were asked for instead"
            )
        if not bool(converged.all()):
            notes.append(f"{int((~converged).sum())} of {converged.numel()} are above the tolerance")
        for note in notes:
            log.info("%s", note)
        seen = found.completeness
        return {
            "values": self.one(values),
            "residuals": self.one(residuals),
            # Rounding in a product moves values by as much, however small the residual.
            "errors": self.one(errors.clamp(min=rounding)),
            "converged": self.one(converged),
            "tolerance": self.one(tolerance),
            "completeness": Completeness(self.one(seen.bound), seen.confidence, seen.products),
            "spent": found.spent,
            "operator": repr(self.A),
            "notes": notes,
        }

    def one(self, t: Tensor) -> Tensor:
        """(B, ...) on the CPU, without the first axis where there is no batch."""
        return t.cpu() if self.A.batch else t[0].cpu()

    def shaped(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Vectors (B, k, n) as (*batch, k, *shape)."""
        return rows.reshape(*self.A.batch, rows.shape[1], *shape)
