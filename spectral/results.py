"""What the solvers return: eigenpairs with their proofs, that print, save, load and plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral import storage
from spectral.estimators.results import Estimate, plain
from spectral.solvers.certificate import Completeness

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class EigenPairs:
    """Eigenpairs of the symmetric part S = (J + J') / 2 of a Jacobian, or of a symmetric operator S.

    With `batched` every field that is a tensor has a leading axis, one entry an image.

    Attributes:
        values: lambda, (k,), float64, in the order of `which`.
        vectors: e, (k, *input shape), orthonormal; the entry of largest magnitude of each is positive.
        residuals: |S e - lambda e|, (k,), from products formed after the solve, in the model's precision.
        errors: |lambda - nearest eigenvalue of S| is at most this, (k,): min(r, r^2/gap), the gap at the
            confidence of `completeness`.
        converged: (k,), whether the residual is at most `tolerance`.
        tolerance: tol max |lambda|, or the rounding error of a product where that is larger; (), or (B,).
        completeness: what can be said of eigenvalues that were not returned.
        orthogonality: max |<e_i, e_j> - delta_ij|; (), or (B,).
        asymmetry: |J - J'| / |J| in the Frobenius norm, with its standard error; None for an operator that
            is symmetric by construction.
        part: "symmetric", which matrix the pairs belong to.
        which: "largest", "smallest" or "magnitude".
        above: the value beyond which all eigenvalues were sought; None where k of them were.
        tol: as asked.
        method: "lanczos" or "dense".
        spent: products with S for each purpose: solve, completeness, residuals, asymmetry.
        seconds: of wall time.
        operator: what was solved, in words.
        notes: what the user should know: a fallback, a tolerance out of reach, an interruption.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    errors: Tensor
    converged: Tensor
    tolerance: Tensor
    completeness: Completeness
    orthogonality: Tensor
    asymmetry: Estimate | None
    part: str
    which: str
    above: float | None
    tol: float
    method: str
    spent: dict[str, int]
    seconds: float
    operator: str
    notes: list[str] = field(default_factory=list)

    @property
    def k(self) -> int:
        """The number of pairs, of each image."""
        return self.values.shape[-1]

    @property
    def products(self) -> int:
        """Products with S in all, for each image."""
        return sum(self.spent.values())

    @property
    def complete(self) -> Tensor:
        """Whether nothing that was sought is missing, at completeness.confidence; (), or (B,).

        That is, whether no unseen eigenvalue lies beyond `above`, or beyond the last value and its residual.
        """
        sign = -1 if self.which == "smallest" else 1
        if self.above is not None:
            return sign * self.completeness.bound <= sign * self.above
        last = self.values[..., -1].abs() if self.which == "magnitude" else sign * self.values[..., -1]
        return sign * self.completeness.bound <= last + self.residuals[..., -1] + 1e-12 * last.abs()

    def coefficients(self, x: Tensor) -> Tensor:
        """<x, e_k> of an image in the basis found, (k,) or (B, k).

        Args:
            x: the image, of the shape of the solver's input (or with further axes of length 1).
        """
        E = self.vectors.flatten(self.values.ndim)
        flat = x.reshape(*self.values.shape[:-1], -1).to(E)
        return (E.double() @ flat.double().unsqueeze(-1)).squeeze(-1)

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file; returns its path."""
        tensors = {
            name: getattr(self, name)
            for name in (
                "values",
                "vectors",
                "residuals",
                "errors",
                "converged",
                "tolerance",
                "orthogonality",
            )
        }
        meta: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("part", "which", "above", "tol", "method", "spent", "seconds", "operator", "notes")
        }
        tensors["completeness.bound"] = self.completeness.bound
        meta["completeness"] = [self.completeness.confidence, self.completeness.products]
        if self.asymmetry is not None:
            a = self.asymmetry
            tensors["asymmetry.value"], tensors["asymmetry.stderr"] = map(
                torch.as_tensor, (a.value, a.stderr)
            )
            meta["asymmetry"] = [a.samples, a.products, a.method, a.dof]
        return storage.write(path, "EigenPairs", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> EigenPairs:
        """Read what `save` wrote.

        Raises:
            ResultFileError: the file is missing or holds something else.
        """
        tensors, meta = storage.read(path, "EigenPairs")
        held: dict[str, Any] = {**tensors, **meta}
        held["completeness"] = Completeness(held.pop("completeness.bound"), *meta["completeness"])
        held.setdefault("asymmetry", None)
        if held["asymmetry"] is not None:
            value, stderr = (plain(held.pop(f"asymmetry.{name}")) for name in ("value", "stderr"))
            held["asymmetry"] = Estimate(value, stderr, *meta["asymmetry"])
        return cls(**held)

    def plot(self, clean: Tensor | None = None, noisy: Tensor | None = None) -> Figure:
        """Spectrum, coefficients and vectors as a figure; see `spectral.plotting.eigs`."""
        from spectral.plotting import eigs  # noqa: PLC0415  matplotlib takes a second to import

        return eigs(self, clean, noisy)

    def __repr__(self) -> str:
        count = f"{self.values.shape[0]} x {self.k}" if self.values.ndim == 2 else f"{self.k}"
        lines = [f"EigenPairs({count} {self.which} of the {self.part} part; {self.method})"]
        if self.values.ndim == 1 and self.k:
            shown = [f"{v:.4f}" for v in self.values[:5].tolist()]
            shown += ["...", f"{self.values[-1].item():.4f}"] if self.k > 5 else []
            lines.append(f"  values       {' '.join(shown)}")
        if self.k:
            scale = self.values.abs().amax(-1, keepdim=True).clamp(min=1e-300)
            worst = (self.residuals / scale).max().item()
            done, of = int(self.converged.sum()), self.converged.numel()
            lines.append(
                f"  residuals    at most {worst:.1e} relative; {done} of {of} converged (tol {self.tol:g})"
            )
        lines.append(f"  completeness {self.completeness_text()}")
        if isinstance(self.asymmetry, Estimate):
            lines.append(f"  asymmetry    {self.asymmetry_text()}")
        spent = ", ".join(f"{name} {n}" for name, n in self.spent.items())
        lines.append(f"  products     {self.products} ({spent}) in {self.seconds:.2f} s")
        lines += [f"  note         {note}" for note in self.notes]
        return "\n".join(lines)

    def completeness_text(self) -> str:
        """The completeness statement as a sentence."""
        c = self.completeness
        if c.confidence == 0:
            return "not probed: larger eigenvalues may be missing"
        side = {"largest": "above", "smallest": "below", "magnitude": "in magnitude above"}[self.which]
        bound = c.bound.max() if self.which != "smallest" else c.bound.min()
        where = f"no other eigenvalue {side} {bound.item():.4f}" + (" in any image" if c.bound.ndim else "")
        if not torch.isfinite(bound):
            where = "these are all"
        sure = "certain" if c.confidence == 1 else f"{100 * c.confidence:g} % confidence"
        verdict = "complete" if bool(self.complete.all()) else "complete but for the gap to that bound"
        return f"{where} ({sure}): {verdict}"

    def asymmetry_text(self) -> str:
        """|J - J'| / |J| with its standard error."""
        a = self.asymmetry
        if a is None:
            return "symmetric by construction"
        if isinstance(a.value, Tensor):
            return f"|J - J'| / |J| from {a.value.min():.3f} to {a.value.max():.3f}"
        return f"|J - J'| / |J| = {a.value:.3f} +- {a.stderr:.3f}"
