"""What the solvers return: spectra with their proofs, that print, save, load and plot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from spectral.base import Result
from spectral.errors import ShapeError
from spectral.estimators.results import Estimate
from spectral.plots import inline
from spectral.solvers.found import Completeness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = 0.01  # of a value, up to which a gap that may hold another is called one


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Spectrum(Result):
    """What eigenpairs and singular triplets have in common.

    With `batched` every field that is a tensor has a leading axis, one entry an image.

    Attributes:
        values: (k,), float64, in the order of `which`.
        residuals: (k,), from products formed after the solve, in the model's precision.
        errors: (k,), bounds on the distance of each value to one of the operator's own: min(r, r^2/gap), the
            gap at the confidence of `completeness`; and the rounding of a product, four eps |J| and twice
            what three products more show of it.
        converged: (k,), whether the residual is at most `tolerance`.
        tolerance: tol max |value|, or ten times the rounding of a product where that is larger; (), or (B,).
        completeness: what can be said of values that were not returned.
        orthogonality: max |<v_i, v_j> - delta_ij|; (), or (B,).
        which: "largest", "smallest" or "magnitude".
        above: the value beyond which all were sought; None where k of them were.
        tol: as asked.
        method: the solver's name.
        spent: products by purpose: solve, completeness, residuals, asymmetry, rounding, ...  One is a
            product with J and one with J'.  With `batched`, the mean over the images.
        seconds: of wall time.
        operator: what was solved, in words.
        restriction: what vectors were restricted to by `mask` and `orthogonal_to`, in words; "" where by
            nothing.  Vectors are told in all entries; all else is the restricted operator's.
        strip: (first, last, all) where vectors hold these rows of an image alone, the others lying in other
            processes (`spectral.sharded`); None for whole vectors.
        notes: what the user should know: a fallback, a tolerance out of reach, an interruption.
    """

    symbol: ClassVar[str]
    shown: ClassVar[str] = "vectors"  # which of them `_picture` shows
    sides: ClassVar[dict[str, str]] = {
        "largest": "above",
        "smallest": "below",
        "magnitude": "in magnitude above",
    }

    values: Tensor
    residuals: Tensor
    errors: Tensor
    converged: Tensor
    tolerance: Tensor
    completeness: Completeness
    orthogonality: Tensor
    which: str
    above: float | None
    tol: float
    method: str
    spent: dict[str, int]
    seconds: float
    operator: str
    restriction: str = ""
    strip: tuple[int, int, int] | None = None
    notes: list[str] = field(default_factory=list)

    def save(self, path: str | Path, about: dict[str, Any] | None = None) -> Path:
        """See `Result.save`; of vectors that hold some rows alone a file of its own, name.rows-0-128.ext."""
        path = Path(path)
        if self.strip is not None:
            path = path.with_name("{}.rows-{}-{}{}".format(path.stem, *self.strip[:2], path.suffix))
        return super().save(path, about)

    @property
    def k(self) -> int:
        """The number of values, of each image."""
        return self.values.shape[-1]

    @property
    def sought(self) -> str:
        """Which values were sought, in words."""
        return self.which

    @property
    def products(self) -> int:
        """Products in all, for each image."""
        return sum(self.spent.values())

    @property
    def complete(self) -> Tensor:
        """Whether nothing that was sought is missing, at completeness.confidence; (), or (B,).

        That is, whether no unseen value lies beyond `above`, or beyond the last value and its residual or
        error, which counts the rounding of products.
        """
        sign = -1 if self.which == "smallest" else 1
        if self.above is not None:
            return sign * self.completeness.bound <= sign * self.above
        if not self.k:  # stopped before the first value
            return torch.zeros_like(self.completeness.bound, dtype=torch.bool)
        last = sign * self.height(self.values[..., -1])
        off = torch.maximum(self.residuals[..., -1], self.errors[..., -1])
        return sign * self.completeness.bound <= last + off + 1e-12 * last.abs()

    def height(self, values: Tensor) -> Tensor:
        """What `which` orders by and `completeness` bounds: the value, or its magnitude."""
        return values.abs() if self.which == "magnitude" else values

    def completeness_text(self) -> str:
        """The completeness statement as a sentence.

        "Complete but for the gap to that bound": one between the last value, or the threshold, and it may be
        missing; "not complete" where they are farther apart than one in a hundred.
        """
        c = self.completeness
        if c.confidence == 0:
            return "not probed: larger ones may be missing"
        side = self.sides[self.which]
        bound = c.bound.max() if self.which != "smallest" else c.bound.min()
        where = f"no other {self.symbol} {side} {bound.item():.4f}" + (
            " in any image" if c.bound.ndim else ""
        )
        if not torch.isfinite(bound):
            where = "these are all"
        return self._sure(where)

    def _sure(self, where: str) -> str:
        c = self.completeness
        sure = "certain" if c.confidence == 1 else f"{100 * c.confidence:g} % confidence"
        if bool(self.complete.all()):
            verdict = "complete"
        elif bool((self.complete | (self._gap() <= NEAR)).all()):
            verdict = "complete but for the gap to that bound"
        else:
            verdict = "not complete, others up to that bound may be missing"
        return f"{where} ({sure}): {verdict}"

    def _gap(self) -> Tensor:
        """How far the bound lies beyond the threshold, or the last value, as a share of it; () or (B,)."""
        bound = self.completeness.bound
        if self.above is None and not self.k:  # stopped before the first value
            return torch.full_like(bound, math.inf)
        end = self.height(self.values[..., -1]) if self.above is None else torch.full_like(bound, self.above)
        return (bound - end.to(bound)).abs() / end.to(bound).abs()

    def _lines(self, what: str) -> list[str]:
        count = f"{self.values.shape[0]} x {self.k}" if self.values.ndim == 2 else f"{self.k}"
        lines = [f"{type(self).__name__}({count} {self.sought} {what}; {self.method})"]
        if self.values.ndim == 1 and self.k:
            shown = [number(v) for v in self.values[:5].tolist()]
            shown += ["...", number(self.values[-1].item())] if self.k > 5 else []
            lines.append(f"  values       {' '.join(shown)}")
        if self.k:
            scale = self.values.abs().amax(-1, keepdim=True).clamp(min=1e-300)
            worst = (self.residuals / scale).max().item()
            done = f"{int(self.converged.sum())} of {self.converged.numel()} converged"
            coarsest = min((self.tolerance.unsqueeze(-1) / scale).max().item(), 1.0)
            rounding = f", {coarsest:.0e} by rounding of products" if coarsest > 1.01 * self.tol else ""
            done = f"{done} (tol {self.tol:g}{rounding})"
            lines.append(f"  residuals    at most {worst:.1e} relative; {done}")
        lines.append(f"  completeness {self.completeness_text()}")
        if self.restriction:
            lines.append(f"  restricted   {self.restriction}")
        return lines

    def _table(self) -> tuple[str, list[tuple[str, str]]]:
        title, *lines = repr(self).splitlines()
        return title, [(line[2:14].strip(), line[15:]) for line in lines]

    def _picture(self) -> str:
        """Values over their index, and the first vectors; of a batch, those of the first image."""
        if not self.values.numel():
            return ""
        of = f" of image 1 of {self.values.shape[0]}" if self.values.ndim == 2 else ""
        values = self.values.reshape(-1, self.k)[0]
        index = [float(i) for i in range(1, self.k + 1)]
        named = [("", values.real.tolist())]
        if values.is_complex() and bool(values.imag.any()):
            named = [("real part", values.real.tolist()), ("imaginary part", values.imag.tolist())]
        drawn = inline.lines(index, named, f"{self.symbol}s{of}")
        vectors: Tensor = getattr(self, self.shown)
        vectors = vectors[0] if self.values.ndim == 2 else vectors
        if not inline.is_image(vectors.shape[1:]):
            return drawn
        panels = [
            (f"{i}: {number(v)}", e.real, True)
            for i, (v, e) in enumerate(zip(values.tolist()[: inline.MOST], vectors, strict=False), 1)
        ]
        return drawn + inline.images(panels)

    def _last_lines(self) -> list[str]:
        spent = ", ".join(f"{name} {n}" for name, n in self.spent.items())
        last = f"  products     {self.products} ({spent}) in {self.seconds:.2f} s"
        return [last, *(f"  note         {note}" for note in self.notes)]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenPairs(Spectrum):
    """Eigenpairs S e = lambda e of the symmetric part S = (J + J') / 2 of a Jacobian, or of a symmetric S.

    Attributes:
        vectors: e, (k, *input shape), orthonormal; the entry of largest magnitude of each is positive.
        asymmetry: |J - J'| / |J| in the Frobenius norm, with its standard error; None for an operator that
            is symmetric by construction.
        part: "symmetric", which matrix the pairs belong to.
        between: the interval in which all were sought, or None; `completeness.bound` is then a depth, no
            other eigenvalue lying in [low + bound, high - bound].

    `residuals` are |S e - lambda e|; see `Spectrum` for the rest.
    """

    symbol = "eigenvalue"

    vectors: Tensor
    asymmetry: Estimate | None
    part: str = "symmetric"
    between: tuple[float, float] | None = None

    @property
    def sought(self) -> str:
        """Which values were sought, in words."""
        return self.which if self.between is None else "in [{:g}, {:g}]".format(*self.between)

    @property
    def complete(self) -> Tensor:
        """As in `Spectrum`; of an interval, whether it was searched to within the tolerance of its ends."""
        return super().complete if self.between is None else self.completeness.bound <= self.tolerance

    def _gap(self) -> Tensor:
        if self.between is None:
            return super()._gap()
        return self.completeness.bound / (self.between[1] - self.between[0])

    def completeness_text(self) -> str:
        """The completeness statement as a sentence."""
        if self.between is None or self.completeness.confidence == 0:
            return super().completeness_text()
        depth = self.completeness.bound.item()
        low, high = self.between[0] + depth, self.between[1] - depth
        where = f"no other eigenvalue in [{low:.4f}, {high:.4f}]" if depth else "these are all"
        return self._sure(where)

    def coefficients(self, x: Tensor) -> Tensor:
        """<x, e_k> of an image in the basis found, (k,) or (B, k).

        Args:
            x: the image, of the shape of the solver's input (or with further axes of length 1).
        """
        return _coefficients(self.vectors, self.values, x)

    def plot(self, clean: Tensor | None = None, noisy: Tensor | None = None) -> Figure:
        """Spectrum, coefficients and vectors as a figure; see `spectral.plots.spectra.eigs`."""
        from spectral.plots.spectra import eigs  # noqa: PLC0415  matplotlib takes a second to import

        return eigs(self, clean, noisy)

    def asymmetry_text(self) -> str:
        """|J - J'| / |J| with its standard error."""
        a = self.asymmetry
        if a is None:
            return "symmetric by construction"
        if isinstance(a.value, Tensor):
            return f"|J - J'| / |J| from {a.value.min():.3f} to {a.value.max():.3f}"
        return f"|J - J'| / |J| = {a.value:.3f} +- {a.stderr:.3f}"

    def __repr__(self) -> str:
        lines = self._lines(f"of the {self.part} part")
        return "\n".join([*lines, f"  asymmetry    {self.asymmetry_text()}", *self._last_lines()])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SingularTriplets(Spectrum):
    """Singular triplets J v = sigma u, J' u = sigma v of a Jacobian or operator.

    Attributes:
        left: u, (k, *output shape), orthonormal.
        right: v, (k, *input shape), orthonormal; the entry of largest magnitude of each is positive.
        left_residuals, right_residuals: |J v - sigma u| and |J' u - sigma v|, (k,).

    `residuals` are the larger of the two; see `Spectrum` for the rest.
    """

    symbol = "singular value"
    shown = "right"

    left: Tensor
    right: Tensor
    left_residuals: Tensor
    right_residuals: Tensor

    def coefficients(self, x: Tensor) -> Tensor:
        """<x, v_k> of an image in the right basis, (k,) or (B, k)."""
        return _coefficients(self.right, self.values, x)

    def plot(self, clean: Tensor | None = None, noisy: Tensor | None = None) -> Figure:
        """Spectrum, coefficients, right and left vectors as a figure; see `spectral.plots.spectra.svd`."""
        from spectral.plots.spectra import svd  # noqa: PLC0415  matplotlib takes a second to import

        return svd(self, clean, noisy)

    def __repr__(self) -> str:
        return "\n".join([*self._lines("singular triplets"), *self._last_lines()])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FullEigenPairs(Spectrum):
    """Eigenpairs J v = lambda v of a Jacobian or operator J itself, which need not be symmetric.

    lambda and v are complex, in conjugate pairs that are never parted: where k would part one there are
    k + 1.  A residual r proves lambda an eigenvalue of J + E for some |E| = r; its distance to one of J is,
    to first order, r times its condition.

    Attributes:
        values: lambda, (k,), complex128, by real part or, for "magnitude", by modulus; Im > 0 first.
        vectors: v, (k, *input shape), complex, of unit norm; the entry of largest modulus is positive.
        errors: condition times residual, (k,): first-order bounds.  Without `left` the condition is what the
            solver's basis showed of it, a lower bound, so that they are estimates.
        left: w with w^H J = lambda w^H, (k, *input shape), of unit norm, w^H v real and positive; None where
            they were not asked for.
        left_residuals: |w^H J - lambda w^H|, (k,), or None.
        condition: 1 / (w^H v), (k,), or None: how many times further than |E| a small E moves lambda; of an
            eigenvalue whose equals were left out beyond k, an upper bound.
        defective: (k,), where lambda cannot be told from a multiple eigenvalue with too few vectors: a
            change of the size of its residual moves it by about the square root of that.
        schur_vectors: Q, (m, *input shape), real orthonormal, m = k or more; they span an invariant subspace,
            which is what to trust where eigenvectors are nearly parallel.
        schur: T, (m, m), float64, quasi-triangular, J Q' = Q' T: its eigenvalues are the values.
        schur_residual: |J Q' - Q' T|, (); Q spans an invariant subspace of J + E, |E| being as much.
        departure: Henrici's departure of T from normality, (|T|_F^2 - sum |lambda|^2)^(1/2), ().

    `completeness` bounds the real parts (moduli) of the eigenvalues of J + E that are not here, and
    `orthogonality` is that of Q; see `Spectrum` for the rest.
    """

    symbol = "eigenvalue"
    sides: ClassVar[dict[str, str]] = {
        "largest": "with a real part above",
        "smallest": "with a real part below",
        "magnitude": "of modulus above",
    }

    vectors: Tensor
    left: Tensor | None
    left_residuals: Tensor | None
    condition: Tensor | None
    defective: Tensor
    schur_vectors: Tensor
    schur: Tensor
    schur_residual: Tensor
    departure: Tensor
    part: str = "full"

    def height(self, values: Tensor) -> Tensor:
        """What `which` orders by and `completeness` bounds: the real part, or the modulus."""
        return values.abs() if self.which == "magnitude" else values.real

    def plot(self) -> Figure:
        """Eigenvalues in the complex plane, residuals and vectors; see `spectral.plots.spectra.full_eigs`."""
        from spectral.plots.spectra import full_eigs  # noqa: PLC0415  matplotlib takes a second to import

        return full_eigs(self)

    def condition_text(self) -> str:
        """The conditions and the departure from normality as a sentence."""
        known = "not measured (left=True)" if self.condition is None else "none"
        if self.condition is not None and self.k:
            known = f"at most {self.condition.max():.3g}"
        return (
            f"{known}; {int(self.defective.sum())} defective; departure from normality {self.departure:.2g}"
        )

    def __repr__(self) -> str:
        lines = self._lines("of the matrix itself")
        return "\n".join([*lines, f"  condition    {self.condition_text()}", *self._last_lines()])


def number(v: complex, decimals: int = 4) -> str:
    """A value with so many decimals, its imaginary part only where there is one."""
    return f"{v.real:.{decimals}f}" + (f"{v.imag:+.{decimals}f}i" if v.imag else "")


def _coefficients(vectors: Tensor, values: Tensor, x: Tensor) -> Tensor:
    E = vectors.flatten(values.ndim).double()
    if x.numel() != E.shape[-1] * (len(E) if E.ndim == 3 else 1):
        raise ShapeError(
            f"the vectors are of shape {tuple(vectors.shape[values.ndim :])}, the image of {tuple(x.shape)}"
        )
    flat = x.reshape(*values.shape[:-1], -1).to(E)
    return (E @ flat.unsqueeze(-1)).squeeze(-1).to(values.device)
