"""The density of a whole spectrum: exact, by Lanczos quadrature, or by the kernel polynomial method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from spectral.ambient import front_door
from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.estimators.probes import Sampler, sampler
from spectral.estimators.quadrature import (
    Deflated,
    LeadingPairs,
    Rule,
    Rules,
    chebyshev_rule,
    golub_kahan_rule,
    lanczos_rule,
    leading_pairs,
)
from spectral.estimators.results import Density, Estimate, plain, student_t
from spectral.estimators.sampling import finite
from spectral.jacobians.subject import operator_of
from spectral.operators import LinearOperator
from spectral.operators.base import Derived, UnitScale, unit_scale
from spectral.options import choice, number, whole
from spectral.progress import counting
from spectral.solvers import Control, GolubKahan, Target
from spectral.solvers.certificate import certify_triplets
from spectral.solvers.checks import check_matrix
from spectral.solvers.dense import DENSE_AT_MOST

Part = Literal["symmetric", "singular"]
Method = Literal["auto", "exact", "slq", "kpm"]

_HELD = 1 << 26  # entries of a Lanczos basis held at a time


@front_door
def spectral_density(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    part: Part = "symmetric",
    method: Method = "auto",
    probes: int = 10,
    steps: int = 60,
    deflate: Any = None,
    seed: int = 0,
    batched: bool = False,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Density:
    """How the eigenvalues of (A + A')/2, or the singular values of A, are distributed.

    The measure of a random unit vector, sum_i <v, e_i>^2 delta(lambda_i), has the density of the spectrum as
    its mean.  Each of `probes` such measures is replaced by a quadrature rule from `steps` products: "slq",
    the Gauss rule of a reorthogonalised Lanczos run (Ubaru, Chen, Saad 2017; Golub-Kahan for singular
    values), sharp, with memory of `steps` vectors per probe; or "kpm", Jackson-damped Chebyshev moments
    (Weisse et al. 2006), smooth, with memory of three.  Errors come from the spread between probes (a count
    of c values has variance near 2c/probes) and from what the second half of the steps changed.

    "exact" forms the matrix, from n + 1 products, and finds all values, without probes, steps or `deflate`:
    the errors left are the rounding of products.  "auto" is "exact" where "slq" would spend as many products
    and n <= 8192, else "slq".

    One more Lanczos run goes ahead of the probes: top pairs that it resolves, and those given as `deflate`,
    are taken out of them and put back exactly, which makes outliers sharp and counts among them exact.

    Args:
        model_or_operator: an operator or matrix, or a model together with y.
        y: the noisy image.
        part: "symmetric", the eigenvalues of (A + A')/2; "singular", the singular values of A.
        method: see above.
        probes: random vectors, at least 2.
        steps: products with (A + A')/2 (or A and A') a probe, at most n.
        deflate: known EigenPairs of the same operator and part, or (values (k,), vectors (k, ...)),
            orthonormal, to be taken out as well.
            For "singular", the right singular vectors.
        seed: of the probes.
        batched: whether the first axis of y counts independent inputs.
        progress: show a bar.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Raises:
        OptionError: probes, steps or a name out of range.
        ShapeError: A is not square where its symmetric part is asked for, or `deflate` does not fit.
        NotLinearError, NotSymmetricError: products contradict each other, or the symmetry that A is told to
            have.

    Example:
        >>> A = torch.diag(torch.cat([torch.full((600,), 0.1), torch.full((400,), 0.9)]))
        >>> density = spectral.spectral_density(A, steps=20)
        >>> low, high = density.count_above(0.5).interval(0.95)
        >>> bool(low < 400 < high)
        True
    """
    A = unit_scale(operator_of(model_or_operator, y, batched, model_kwargs))
    choice("part", part, ("symmetric", "singular"))
    choice("method", method, ("auto", "exact", "slq", "kpm"))
    probes, steps = whole("probes", probes), whole("steps", steps)
    if probes < 2 or steps < 1:
        raise OptionError(f"an error bar takes probes >= 2 and steps >= 1; got {probes} and {steps}")
    values, vectors = _deflated(deflate, A)
    if values.shape[-1] >= A.shape[1]:
        raise OptionError(f"all {A.shape[1]} values are known already")
    with counting(progress, "density") as report:
        return _density(_Counted(A, report), part, method, probes, steps, values, vectors, seed)


def _density(
    A: _Counted,
    part: Part,
    method: Method,
    probes: int,
    steps: int,
    values: Tensor,
    vectors: Tensor,
    seed: int,
) -> Density:
    """The density from what is known of it, values (*batch, k) and vectors (*batch, k, n)."""
    n = A.shape[1]
    left = n - values.shape[-1]
    first = min(steps, left)
    A.total = _a_probe(A, part, "kpm", first) + probes * _a_probe(A, part, method, first)
    cheap = n < A.total and math.prod(A.batch) * n**2 <= DENSE_AT_MOST**2
    if method == "exact" or (method == "auto" and cheap):
        return _exact(A, part)
    method = "slq" if method == "auto" else method
    draw = sampler(A, "gaussian", seed)

    def starts(m: int, of: Deflated) -> Tensor:
        V = of.without(of.without(draw(m).to(vectors.dtype)))
        return V / of.domain.norms(V).unsqueeze(-1)

    rest = Deflated(_symmetric(A, part), vectors)
    found = leading_pairs(rest, starts(1, rest), first, left - 1)
    scale = A.A.scale.to(values)[..., None]
    vectors = torch.cat([vectors, found.vectors], -2)
    top = found.values.clamp(min=0).sqrt() if part == "singular" else found.values
    values = torch.cat([values, scale * top], -1)
    steps = min(steps, n - values.shape[-1])
    A.total = A.count + probes * _a_probe(A, part, method, steps)
    if method == "kpm":
        rest = Deflated(_symmetric(A, part), vectors)
        full, half = _kpm(rest, part, starts(probes, rest), steps, found)
    else:
        rest = Deflated(A if part == "singular" else A.symmetric_part(), vectors)
        full, half = _slq(rest, part, lambda m: starts(m, rest), probes, steps)
    # On the host, where questions are asked of it.
    full, half = (
        Rule(scale.cpu()[..., None] * rule.nodes.cpu(), rule.weights.cpu()) for rule in (full, half)
    )
    return Density(*full, *half, values.cpu(), n, part, method, steps, A.count)


def _a_probe(A: LinearOperator, part: Part, method: Method, steps: int) -> int:
    """Products with A and A' that a probe takes; the run that looks for leading pairs as many as by "kpm"."""
    if part == "singular":
        return 2 * steps - (method != "kpm")  # one of the last two is not formed
    return steps if A.symmetric else 2 * steps


def _exact(A: _Counted, part: Part) -> Density:
    """All n values, each with the weight 1/n: of A (r, n), r < n, n - r singular values are zero."""
    n = A.shape[1]
    A.total = n + 1
    if part == "symmetric":
        A.symmetric_part()  # raises where there is none
    x = sampler(A, "gaussian", 0)(1)
    Ax = finite(A.codomain.whole(A.apply(x)))  # tells the scale: first columns may be of another size
    M = finite(A.to(torch.promote_types(A.dtype, torch.float32)).dense().double())
    check_matrix(A, M, A.domain.whole(x).double(), Ax.double())
    if part == "singular":
        values = pad(torch.linalg.svdvals(M), (0, max(0, n - A.shape[0])))
    else:
        values = torch.linalg.eigvalsh((M + M.mT) / 2)
    largest = values.abs() if A.symmetric or part == "singular" else torch.linalg.svdvals(M)
    scale = A.A.scale
    nodes, norm = scale[..., None, None] * values.cpu().sort(-1).values.unsqueeze(-2), largest.amax(-1).cpu()
    rule, none = Rule(nodes, torch.full_like(nodes, 1 / n)), nodes.new_zeros(*A.batch, 0)
    return Density(*rule, *rule, none, n, part, "exact", n, A.count, eps=A.eps, norm=scale * norm)


class _Counted(Derived):
    """A, which reports of how many products as many as so far were formed.

    Attributes:
        total: of how many; more where they are tried anew.
    """

    A: UnitScale

    def __init__(self, A: UnitScale, report: Callable[[int, int, str], None] | None) -> None:
        super().__init__(A, symmetric=A.symmetric)
        self.report, self.total = report, 0

    def _apply(self, V: Tensor) -> Tensor:
        return self._reported(self.A.apply(V))

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._reported(self.A.apply_transpose(V))

    def __repr__(self) -> str:
        return repr(self.A)

    def _reported(self, W: Tensor) -> Tensor:
        if self.report is not None:
            self.report(self.count, max(self.count, self.total), "products")
        return W


@front_door
def schatten_norm(
    model_or_operator: Any,
    y: Tensor | None = None,
    p: float = 1.0,
    *,
    probes: int = 10,
    steps: int = 60,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """(sum_i sigma_i^p)^(1/p) over the singular values: p = 1 the nuclear norm, p = 2 Frobenius' norm.

    Of `spectral_density` by "auto", whose arguments these are: of all values where that takes fewer products
    than stochastic Lanczos quadrature, two a step.  p = inf, the spectral norm max sigma_i, is no mean over
    the spectrum: it is solved for by `GolubKahan`, in as many products at most, and its interval reaches what
    may have been missed.

    Raises:
        OptionError: p is no number, or not positive.
    """
    if p != math.inf:
        p = number("p", p)
    if not p > 0:
        raise OptionError(f"p must be positive, got {p}")
    if p == math.inf:
        A = operator_of(model_or_operator, y, batched, model_kwargs)
        return _spectral_norm(A, probes * steps, seed)
    density = spectral_density(
        model_or_operator,
        y,
        part="singular",
        probes=probes,
        steps=steps,
        seed=seed,
        batched=batched,
        model_kwargs=model_kwargs,
    )
    # Over the largest of them no power overflows, nor do all vanish.
    largest = torch.cat([density.nodes.flatten(-2), density.deflated], -1).amax(-1)
    largest = torch.where(largest > 0, largest, 1.0)
    nodes, half = (x / largest[..., None, None] for x in (density.nodes, density.half_nodes))
    known, norm = density.deflated / largest[..., None], density.norm / largest
    over = replace(density, nodes=nodes, half_nodes=half, deflated=known, norm=norm)
    total = over.total(lambda sigma: sigma**p)
    value, error = (torch.as_tensor(x, dtype=torch.float64) for x in (total.value, total.stderr))
    norm = value ** (1 / p)
    slope = torch.where(value > 0, norm / (p * torch.where(value > 0, value, 1.0)), 0.0)
    return replace(total, value=plain(norm), stderr=plain(slope * error)).times(largest)


def _spectral_norm(A: LinearOperator, products: int, seed: int) -> Estimate:
    """max sigma_i of A with an interval that reaches the bound on what was not seen, at its confidence."""
    working, started = unit_scale(A.to(torch.promote_types(A.dtype, torch.float32))), A.count
    level = 0.99
    control = Control(tol=1e-8, seed=seed, max_products=products, confidence=level)
    found = GolubKahan().solve(working, Target(1), control)
    proof = certify_triplets(working, found)
    value = proof.values[:, 0]
    residual = torch.maximum(proof.left_residuals, proof.right_residuals)[:, 0]
    reach = torch.maximum(found.completeness.bound.to(value) - value, residual.clamp(min=A.eps * found.norm))
    stderr = reach / student_t(level, math.inf)
    value, stderr = (x.cpu() if A.batch else x[0].cpu() for x in (value, stderr))
    estimate = Estimate(plain(value), plain(stderr), 1, A.count - started, "golub-kahan", math.inf)
    return estimate.times(working.scale)


def _symmetric(A: LinearOperator, part: Part) -> LinearOperator:
    """The operator whose eigenvalues are asked for, or the squares of whose singular values."""
    return A.gram() if part == "singular" else A.symmetric_part()


def _slq(A: LinearOperator, part: Part, starts: Sampler, probes: int, steps: int) -> Rules:
    rule = golub_kahan_rule if part == "singular" else lanczos_rule
    rows = max(1, _HELD // (A.shape[1] * steps * math.prod(A.batch)))
    found = [rule(A, starts(min(rows, probes - first)), steps) for first in range(0, probes, rows)]
    full, half = (
        Rule(*(torch.cat(parts, -2) for parts in zip(*rules, strict=True)))
        for rules in zip(*found, strict=True)
    )
    return full, half


def _kpm(S: LinearOperator, part: Part, V: Tensor, steps: int, found: LeadingPairs) -> Rules:
    low, high = found.low.clamp(min=0) if part == "singular" else found.low, found.high
    for _ in range(8):
        try:
            rules = chebyshev_rule(S, V, steps, (low, high))
        except NotFiniteError:
            low, high = low - (high - low) / 4, high + (high - low) / 4
            continue
        if part == "singular":
            full, half = (Rule(rule.nodes.clamp(min=0).sqrt(), rule.weights) for rule in rules)
            return full, half
        return rules
    raise NotFiniteError("the ends of the spectrum could not be found: is the operator symmetric and finite?")


def _deflated(known: Any, A: LinearOperator) -> tuple[Tensor, Tensor]:
    """Values (*batch, k) float64 and vectors (*batch, k, n) of known pairs, none where known is None."""
    n, work = A.domain.n, torch.promote_types(A.dtype, torch.float32)
    if known is None:
        empty = torch.zeros(*A.batch, 0, dtype=torch.float64, device=A.device)
        return empty, torch.zeros(*A.batch, 0, n, dtype=work, device=A.device)
    values, vectors = (known.values, known.vectors) if hasattr(known, "vectors") else known
    values = values.to(A.device, torch.float64)
    if values.shape[:-1] != A.batch or vectors.numel() != values.numel() * n:
        raise ShapeError(
            f"known pairs of {A!r} are values {(*A.batch, 'k')} and vectors {(*A.batch, 'k', n)}; got "
            f"{tuple(values.shape)} and {tuple(vectors.shape)}"
        )
    return values, vectors.to(A.device, work).reshape(*values.shape, n)
