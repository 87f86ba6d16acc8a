"""The front door: spectra of a model's Jacobian, or of any operator, with their certificates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.estimators.norms import asymmetry
from spectral.operators import Jacobian, LinearOperator, as_operator, jacobian
from spectral.progress import bar
from spectral.results import EigenPairs
from spectral.solvers import Completeness, RitzPairs, dense, lanczos
from spectral.solvers.certificate import certify, error_bounds
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
        max_products: bound on solve and completeness together; pairs short of tol are then marked so.
        progress: show a bar.
        model_kwargs: passed to the model: noise level, label, ...

    Returns:
        EigenPairs, vectors (k, *input shape).  Ctrl-C returns what has been found, marked so.

    Raises:
        OptionError: k, tol, block, max_products or above out of range, or arguments that contradict.
        ShapeError: the output's shape is not the input's, or the operator is not square.
        NotFiniteError, NotDeterministicError, ModelOutputError: see `jacobian`.

    Example:
        >>> pairs = spectral.top_eigs(model, y, k=20)
        >>> pairs.values, pairs.vectors, pairs.residuals
    """
    began = time.perf_counter()
    A, model_shape = _operator(model_or_operator, y, batched, model_kwargs)
    n = A.shape[1]
    _check_options(k, n, which, above, tol, method, block, max_products, A.batch)
    # Half precision is for products alone: the solver's own arithmetic is never below float32.
    working = A.to(torch.promote_types(A.dtype, torch.float32))
    S = working.symmetric_part()

    if method == "auto":
        small = n <= DENSE_BELOW or (above is None and 5 * k >= n and n <= DENSE_AT_MOST)
        method = "dense" if small else "lanczos"
    if method == "dense":
        found = dense(S, k, which=which, above=above)
    else:
        rows = None if start is None else _start_rows(start, A)
        with bar(progress, "eigenpairs") as report:
            found = lanczos(
                S,
                k,
                which=which,
                above=above,
                tol=tol,
                block=min(block, n),
                start=rows,
                seed=seed,
                max_products=max_products,
                progress=report,
            )
    skew = None
    if not A.symmetric:
        skew = asymmetry(working, products=2 * ASYMMETRY_PROBES, seed=seed)
        found.spent["asymmetry"] = ASYMMETRY_PROBES
    return _certified(A, S, found, skew, which, above, tol, method, began, model_shape)


def _certified(
    A: LinearOperator,
    S: LinearOperator,
    found: RitzPairs,
    skew: Any,
    which: Which,
    above: float | None,
    tol: float,
    method: str,
    began: float,
    shape: tuple[int, ...],
) -> EigenPairs:
    """Fresh residuals, error bounds and notes around what a solver found."""
    descending, magnitude = which != "smallest", which == "magnitude"
    proof = certify(found.vectors, found.images, descending=descending, magnitude=magnitude)
    k = proof.values.shape[-1]
    unseen = found.completeness.bound
    rounding = torch.finfo(S.dtype).eps * found.norm
    # Rounding in a product moves eigenvalues by as much, however small the residual.
    errors = error_bounds(proof.values, proof.residuals, unseen, which=which).clamp(min=rounding)
    scale = proof.values.abs().amax(-1) if k else torch.zeros(len(proof.values), dtype=torch.float64)
    tolerance = (tol * scale).clamp(min=10 * rounding)
    notes = [*(A.notes if isinstance(A, Jacobian) else []), *found.notes]
    if k and bool((tol * scale < 10 * rounding).any()):
        notes.append(
            f"tol {tol:g} is below the rounding of {S.dtype} products: {rounding:.1e} was asked instead"
        )
    converged = proof.residuals <= tolerance.unsqueeze(-1)
    if not bool(converged.all()):
        notes.append(f"{int((~converged).sum())} of {converged.numel()} pairs are above the tolerance")
    for note in notes:
        log.info("%s", note)

    def one(t: Tensor) -> Tensor:
        return t.cpu() if A.batch else t[0].cpu()

    return EigenPairs(
        values=one(proof.values),
        vectors=(proof.vectors if A.batch else proof.vectors[0]).reshape(*A.batch, k, *shape),
        residuals=one(proof.residuals),
        errors=one(errors),
        converged=one(converged),
        tolerance=one(tolerance),
        completeness=Completeness(one(unseen), found.completeness.confidence, found.completeness.products),
        orthogonality=one(proof.orthogonality),
        asymmetry=skew,
        part="symmetric",
        which=which,
        above=above,
        tol=tol,
        method=method,
        spent=found.spent,
        seconds=time.perf_counter() - began,
        operator=repr(A),
        notes=notes,
    )


def _operator(
    subject: Any, y: Tensor | None, batched: bool, model_kwargs: dict[str, Any]
) -> tuple[LinearOperator, tuple[int, ...]]:
    """The operator asked for, and the shape of its input."""
    if y is None:
        if model_kwargs:
            raise OptionError(f"{', '.join(model_kwargs)}: keywords for a model, but there is no input y")
        if callable(subject) and not hasattr(subject, "shape"):
            raise OptionError("a model needs an input to take its Jacobian at: top_eigs(model, y, k)")
        A = as_operator(subject)
        if A.shape[0] != A.shape[1]:
            raise ShapeError(f"{A!r} is not square: its eigenvalues are undefined")
        return A, (A.shape[1],)
    if not isinstance(y, Tensor):
        raise OptionError(f"y must be a tensor, got {type(y).__name__}: top_eigs(operator, k=...) has no y")
    if not callable(subject) or isinstance(subject, LinearOperator):
        raise OptionError(
            f"y goes with a model; a {type(subject).__name__} is solved as top_eigs(operator, k=...)"
        )
    J = jacobian(subject, y, batched=batched, **model_kwargs)
    J.symmetric_part()  # raises here where the output has another shape
    return J, J.input_shape


def _check_options(
    k: int,
    n: int,
    which: str,
    above: float | None,
    tol: float,
    method: str,
    block: int,
    max_products: int,
    batch: tuple[int, ...],
) -> None:
    if above is None and not 1 <= k <= n:
        raise OptionError(f"k must be from 1 to d = {n}, the number of pixels; got {k}")
    if which not in ("largest", "smallest", "magnitude"):
        raise OptionError(f'which is "largest", "smallest" or "magnitude", got {which!r}')
    if method not in ("auto", "lanczos", "dense"):
        raise OptionError(f'method is "auto", "lanczos" or "dense", got {method!r}')
    if not tol > 0:
        raise OptionError(f"tol must be positive, got {tol}")
    if block < 1:
        raise OptionError(f"block must be at least 1, got {block}")
    if above is not None and batch:
        raise OptionError("above= finds a different number of pairs in each image: call it once an image")
    if above is None and max_products < k + block:
        raise OptionError(f"{k} pairs take at least {k + block} products, got max_products={max_products}")


def _start_rows(start: Tensor, A: LinearOperator) -> Tensor:
    n = A.shape[1]
    rows = start.reshape(*(A.batch or (1,)), -1, n) if start.numel() % n == 0 else start
    if rows.ndim != 3 or rows.shape[1] == 0:
        raise ShapeError(f"start holds vectors of {n} entries, (m, *input shape); got {tuple(start.shape)}")
    if not torch.isfinite(rows).all():
        raise NotFiniteError("start holds NaN or infinity")
    return rows
