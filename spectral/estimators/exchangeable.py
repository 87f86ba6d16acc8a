"""Leave-one-out trace estimators (Epperly, Tropp, Webber 2024), with an error bar that is right.

Each probe omega_i tests what the sketch by all the other probes leaves over, so that

    t_i = tr of A on the sketch without i  +  (scaled) quadratic form of the remainder at omega_i

is unbiased for tr A, and the estimate is the mean of t_1 ... t_k.  The t_i share their sketches: with
variance v and covariance c of two of them, the mean has variance (v + (k - 1) c)/k, while the sample variance
over k estimates only (v - c)/k.  Taken as the squared error, as the paper does, it covers 75 to 95 % where
95 % is claimed (docs/estimators).

The covariance can be had from the same products.  Let L_il be the estimate tested at i and sketched without i
and l.  In t_i as a function of (omega_i, omega_j), the part that depends on one of the two alone does not
enter c (E t_i is the same for every sketch), and with a third probe l

    c = E (L_il - L_ij)(L_jl - L_ji),       v - c = E (L_il - L_jl)^2 / 2,

both for k - 1 probes in place of k.  Their ratio inflates the sample variance:

    stderr^2 = s^2 / k * max(1, 1 + k c / (v - c)),      s^2 = sum (t_i - mean)^2 / (k - 1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.estimators.results import Estimate, plain
from spectral.estimators.sampling import finite, skewness
from spectral.estimators.sketch import Sketch
from spectral.operators import LinearOperator
from spectral.operators.space import lower_inverse


class Reduced(NamedTuple):
    """A sketch in the coordinates of its basis Q, (*batch, k, k) float64; A omega_i = Q r_i.

    Attributes:
        R: columns r_i.
        H: Q' A Q.
        W: Q' Omega, columns w_i.
        T: (A Q)' Omega, columns t_i.
        S: columns s_i, normalised, of R^-T: Q s_i spans what the sketch loses without omega_i.
        n: the length of a vector.
    """

    R: Tensor
    H: Tensor
    W: Tensor
    T: Tensor
    S: Tensor
    n: int

    @classmethod
    def of(cls, sketch: Sketch) -> Reduced:
        """The k x k matrices of a sketch."""
        R = sketch.triangle
        pivots = _diagonal(R)
        largest = pivots.abs().amax(-1, keepdim=True)
        least = torch.finfo(sketch.basis.dtype).eps * torch.where(largest > 0, largest, 1.0)
        # Probes beyond A's rank have dependent images: their pivots are rounding, and any direction will do.
        lift = torch.where(pivots.abs() < least, least - pivots, 0.0)
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        S = torch.linalg.solve_triangular((R + torch.diag_embed(lift)).mT, eye.expand_as(R), upper=False)
        S = S / torch.linalg.vector_norm(S, dim=-2, keepdim=True)
        inner, n = sketch.A.domain.inner64, sketch.A.shape[1]
        W, T = inner(sketch.basis, sketch.probes), inner(sketch.image, sketch.probes)
        return cls(R, inner(sketch.basis, sketch.image), W, T, S, n)


def xtrace(sketch: Sketch) -> Estimate:
    """tr A by XTrace from k >= 3 probes of |omega|^2 = n and 2k products.

    t_i = tr Q_i' A Q_i + (n - k + 1) x' A x / |x|^2, with Q_i an orthonormal basis of the other probes'
    images and x = (I - Q_i Q_i') omega_i, whose direction is uniform in the complement.
    """
    reduced = Reduced.of(sketch)
    samples = xtrace_samples(reduced)
    estimate = _estimate(samples, xtrace_pairs(reduced), "xtrace", 2 * sketch.size, sketch.A.eps)
    return replace(estimate, skewness=plain(skewness(samples)))


def xtrace_samples(reduced: Reduced) -> Tensor:
    """t_i, (*batch, k).

    Without omega_i the sketch loses Q s_i, so with x_i = w_i - s_i s_i' w_i
    x' A x = (s_i' w_i)(s_i' r_i) - t_i' x_i + x_i' H x_i  and  |x|^2 = n - |w_i|^2 + (s_i' w_i)^2.
    """
    R, H, W, T, S, n = reduced
    k = R.shape[-1]
    sw = _columns(S, W)
    X = W - S * sw.unsqueeze(-2)
    form = sw * _columns(S, R) - _columns(T, X) + _columns(X, H @ X)
    size = n - _columns(W, W) + sw.square()
    return _trace(H).unsqueeze(-1) - _columns(S, H @ S) + (n - k + 1) * form / size


def xtrace_pairs(reduced: Reduced) -> Tensor:
    """L_il, (*batch, k, k): tested at omega_i, sketched without omega_i and omega_l; no meaning at i = l.

    As `xtrace_samples`, but the sketch loses the span of s_i and e = (s_l - g s_i)/sqrt(1 - g^2), where
    g = s_i' s_l.
    """
    R, H, W, T, S, n = reduced
    k = R.shape[-1]
    g = S.mT @ S
    c2 = (1 - g.square()).clamp(min=1e-14)
    c = c2.sqrt()

    def along(U: Tensor) -> tuple[Tensor, Tensor]:
        """<u_i, s_i> and <u_i, e> for the columns of U."""
        products = U.mT @ S
        first = _diagonal(products).unsqueeze(-1)
        return first, (products - g * first) / c

    (w1, w2), (t1, t2), (h1, h2) = along(W), along(T), along((H + H.mT) @ W)
    r1 = _columns(S, R).unsqueeze(-1)
    r2 = -g * r1 / c
    SHS = S.mT @ H @ S
    H11, both = _diagonal(SHS).unsqueeze(-1), SHS + SHS.mT
    H12 = (both - 2 * g * H11) / c
    H22 = (H11.mT - g * both + g.square() * H11) / c2
    constant = (_columns(W, H @ W) - _columns(T, W)).unsqueeze(-1)
    form = constant + w1 * (r1 + t1 - h1 + w1 * H11) + w2 * (r2 + t2 - h2 + w2 * H22 + w1 * H12)
    size = n - _columns(W, W).unsqueeze(-1) + w1.square() + w2.square()
    return _trace(H)[..., None, None] - H11 - H22 + (n - k + 2) * form / size


def xnystrace(A: LinearOperator, probes: Tensor, images: Tensor) -> Estimate:
    """tr A of a symmetric non-negative A by XNysTrace from k >= 3 probes and k products.

    t_i = tr N_i + omega_i' (A - N_i) omega_i (n - k + 1)/|x_i|^2, N_i = (A Omega_i)(Omega_i' A Omega_i)^-1
    (A Omega_i)' the Nystroem approximation by the other probes and x_i = omega_i without its part in their
    span, which A - N_i annihilates.  The interval is Student's: its samples are skewed as XTrace's, but with
    the inflated error it covers without a farther end, and with one too often.

    Args:
        A: the operator, for its size and precision.
        probes: rows omega_i, |omega_i|^2 = n, (*batch, k, n).
        images: rows A omega_i.

    Raises:
        OptionError: Omega' A Omega is not positive, so A has negative eigenvalues.
    """
    samples, pairs = xnystrace_samples(A, probes, images)
    return _estimate(samples, pairs, "xnystrace", probes.shape[-2], A.eps)


def xnystrace_samples(A: LinearOperator, probes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """t_i (*batch, k) and L_il (*batch, k, k) of XNysTrace.

    With G = (Omega' A Omega)^-1, P = G (A Omega)' A Omega G and M = (Omega' Omega)^-1, leaving a set I out
    takes tr (G_II)^-1 P_II from tr N, the quadratic form at i is ((G_II)^-1)_ii, and |x_i|^2 =
    ((M_II)^-1)_ii.  A is shifted by rounding's size so that its Cholesky factor exists; the trace is shifted
    back.
    """
    n, k = A.shape[1], probes.shape[-2]
    omega, Y = probes.double(), finite(images).double()
    space = A.domain
    size = space.norms(Y).square().sum(-1).sqrt()[..., None, None]
    shift = A.eps * torch.where(size > 0, size, 1.0) / n**0.5
    Y = Y + shift * omega
    gram = space.inner(omega, Y)
    factor, failed = torch.linalg.cholesky_ex((gram + gram.mT) / 2)
    if failed.any():
        raise OptionError('xnystrace needs an operator without negative eigenvalues: use method="xtrace"')
    inverse = lower_inverse(factor, like=factor)
    F = inverse @ Y
    F = F + inverse @ (Y - factor @ F)  # of images that nearly depend on each other the inverse is large
    G = inverse.mT @ inverse
    inner = space.inner(F, F)
    P = inverse.mT @ inner @ inverse
    M = torch.linalg.inv(space.inner(omega, omega))

    whole = _trace(inner) - n * shift[..., 0, 0]
    g, p, m = _diagonal(G), _diagonal(P), _diagonal(M)
    samples = whole.unsqueeze(-1) - p / g + (n - k + 1) * m / g

    g1, g2, m1, m2 = g.unsqueeze(-1), g.unsqueeze(-2), m.unsqueeze(-1), m.unsqueeze(-2)
    p1, p2 = p.unsqueeze(-1), p.unsqueeze(-2)
    eye = torch.eye(k, dtype=Y.dtype, device=Y.device)
    determinant = g1 * g2 - G.square() + eye * g1 * g2
    lost = (p1 * g2 + p2 * g1 - 2 * G * P) / determinant
    ratio = (g2 / determinant) * ((m1 * m2 - M.square() + eye * m1 * m2) / m2)
    return samples, whole[..., None, None] - lost + (n - k + 2) * ratio


def inflation(pairs: Tensor, pooled: bool = False) -> Tensor:
    """max(1, 1 + k c/(v - c)) from L_il, (*batch, k, k) -> (*batch,); see the module's docstring.

    c is the mean of (L_il - L_ij)(L_jl - L_ji) over distinct i, j, l, its sums in closed form.  Where
    `pooled`, the axis before i counts entries over which c and v - c are averaged first.
    """
    k = pairs.shape[-1]
    off = 1 - torch.eye(k, dtype=pairs.dtype, device=pairs.device)
    L = torch.where(off > 0, pairs, 0.0)
    L = (L - L.sum((-2, -1), keepdim=True) / (k * (k - 1))) * off
    down, across = L.sum(-2), L.sum(-1)
    squares, mirrored = L.square().sum((-2, -1)), (L * L.mT).sum((-2, -1))
    common = down.square().sum(-1) - squares
    mixed = (across * down).sum(-1) - mirrored
    c = (common - 2 * mixed + (k - 2) * mirrored) / (k * (k - 1) * (k - 2))
    difference = (squares - down.square().sum(-1) / (k - 1)) / (k * (k - 2))
    if pooled:
        c, difference = c.mean(-1), difference.mean(-1)
    return (1 + k * c / torch.where(difference > 0, difference, 1.0)).clamp(min=1)


def remaining_rank(sketch: Sketch) -> float:
    """(tr B'B)^2 / tr (B'B)^2, about, for the remainder B that a sketch leaves; of the median problem.

    For B = (I - Q_i Q_i') A (I - Q_i Q_i'), B omega_i = (s_i' r_i) Q s_i, so (s_i' r_i)^2 has mean |B|_F^2,
    and |B Q s_i|^2 is near tr (B'B)^2 / tr B'B, s_i being one step of power iteration away from random.
    """
    R, H, _, _, S, _ = Reduced.of(sketch)
    HS = H @ S
    image = (sketch.A.domain.inner64(sketch.image, sketch.image) @ S * S).sum(-2)
    through = image - _columns(HS, HS) + _columns(S, HS).square()
    energy = _columns(S, R).square().mean(-1)
    return float((energy / through.mean(-1).clamp(min=torch.finfo(torch.float64).tiny)).median())


def _estimate(samples: Tensor, pairs: Tensor, method: str, products: int, eps: float) -> Estimate:
    k = samples.shape[-1]
    value = samples.mean(-1)
    variance = samples.var(-1) / k * inflation(pairs)
    # What cancels in t_i is of the size of tr A, so its rounding stays even where the sketch is exact.
    rounding = eps * value.abs()
    return Estimate(plain(value), plain((variance + rounding**2).sqrt()), k, products, method, k - 1)


def _columns(U: Tensor, V: Tensor) -> Tensor:
    return (U * V).sum(-2)


def _diagonal(M: Tensor) -> Tensor:
    return torch.diagonal(M, dim1=-2, dim2=-1)


def _trace(M: Tensor) -> Tensor:
    return _diagonal(M).sum(-1)
