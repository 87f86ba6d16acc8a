"""Images drawn to what was measured of them: all the way where it is exact, by its noise where it is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisers.chunks import CHUNK_PIXELS
from denoisers.sampling.measurement import Map
from spectral.errors import NotFiniteError, NotSymmetricError, OptionError, ShapeError

TOLERANCE = 1e-4  # relative: by it A A' = c P, and <A x, u> = <x, A' u>, are told
FORMED = 2048  # values, at most, of a measurement whose A A' is formed
SOLVED = 1e-3  # relative residual of conjugate gradients
MOST = 1000  # of their steps
_NULL = 1e-6  # of the largest eigenvalue of A A': below, a direction that was not measured


class Constraint:
    """Of images f with noise sigma, and v = A x + tau n:  f + A' (A A' + (tau / sigma)^2 I)^+ (v - A f).

    This is E[x | v] for x ~ N(f, sigma^2 I). With A = M', orthonormal columns of M, it is

        f + sigma^2 / (sigma^2 + tau^2) M (v - M' f),

    and with tau = 0 the nearest image to f that has the values. Where A A' is c times a projection (c I,
    or a mask) the inverse is a division; for up to 2048 values an image A A' is formed and diagonalised once;
    beyond, with noise, the inverse goes by conjugate gradients.

    Args:
        measure, adjoint: A and A'.
        values: v, (B, ...).
        noise: tau, (B,); None for 0.

    Attributes:
        values: v.
        shape: of an image.

    Raises:
        ShapeError: A does not give values of that shape.
        NotSymmetricError: the second function is not the transpose of the first.
        NotFiniteError: values, or what A gives, are not finite.
        OptionError: A A' is none of these, tau is 0 and there are more values; or no image has them.
    """

    def __init__(self, measure: Map, adjoint: Map, values: Tensor, noise: Tensor | None = None) -> None:
        self.measure, self.adjoint, self.values = measure, adjoint, values
        self.noise = values.new_zeros(len(values)) if noise is None else noise.to(values)
        if not values.isfinite().all():
            raise NotFiniteError("the measured values hold NaN or infinity")
        u, again = self._checked()
        gram = self._gram(again)
        self.scale = again.square().sum() / (u * again).sum()
        self.spectrum: tuple[Tensor, Tensor] | None = None
        self.iterates = False
        if not (gram - self.scale * again).norm() <= TOLERANCE * gram.norm():
            if values[0].numel() <= FORMED:
                self.spectrum = self._eigenpairs()
            elif (self.noise > 0).all():
                self.iterates = True
            else:
                raise OptionError(
                    f"A A' is no multiple of a projection, and of {values[0].numel()} values too large to be "
                    f"formed here (at most {FORMED}): give M' with orthonormal columns of M (of a matrix A "
                    "those of torch.linalg.qr(A.T), with values to match), or tell the values' noise="
                )
        self._check_attained()

    def project(self, images: Tensor, sigma: Tensor, index: Tensor) -> Tensor:
        """Images (b, ...) with noise sigma (b,) drawn to the values numbered `index` (b,)."""
        missing, tau = self.values[index] - self.measure(images), self.noise[index]
        ratio = torch.where(tau > 0, (tau / sigma).square(), 0.0)
        return images + self.adjoint(self._solved(missing, ratio))

    def _solved(self, missing: Tensor, ratio: Tensor) -> Tensor:
        """(A A' + ratio I)^+ of each row, up to what A' sends to zero; ratio: (b,)."""
        flat, ratio = missing.flatten(1), ratio[:, None]
        if self.spectrum is not None:
            weights, basis = self.spectrum
            flat = (flat @ basis / (weights + ratio)) @ basis.T
        elif self.iterates:
            flat = self._iterated(flat, ratio)
        else:
            flat = flat / (self.scale + ratio)
        return flat.view_as(missing)

    def _iterated(self, b: Tensor, ratio: Tensor) -> Tensor:
        """The same by conjugate gradients, each row by itself.

        Raises OptionError where they do not come to a residual of 1e-3 within 1000 steps.
        """
        x, r, p = torch.zeros_like(b), b, b
        size = r.square().sum(1, keepdim=True)
        enough = SOLVED**2 * size
        for _ in range(MOST):
            going = size > enough
            if not going.any():
                return x
            q = self._gram(p.view(-1, *self.values.shape[1:])).flatten(1) + ratio * p
            step = torch.where(going, size / (p * q).sum(1, keepdim=True), 0.0)
            x, r = x + step * p, r - step * q
            before, size = size, r.square().sum(1, keepdim=True)
            p = r + torch.where(going, size / before, 0.0) * p
        raise OptionError(
            f"conjugate gradients did not solve for {b.shape[1]} values in {MOST} steps: the noise is too "
            "small beside sigma_start for a measurement of such condition; tell a larger noise=, or start "
            "from a lower sigma_start"
        )

    def _gram(self, values: Tensor) -> Tensor:
        return self.measure(self.adjoint(values))

    def _checked(self) -> tuple[Tensor, Tensor]:
        """Random values u and A A' u, by which A and A' were found to fit the values and each other."""
        values = self.values
        generator = torch.Generator().manual_seed(0)
        u = torch.randn((2, *values.shape[1:]), generator=generator).to(values)
        try:
            back = self.adjoint(u)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError) as failure:
            raise ShapeError(
                f"the measurement's transpose does not take values of shape {tuple(u.shape[1:])}, one row an "
                f"image: {failure}"
            ) from failure
        self.shape = tuple(back.shape[1:])
        x = torch.randn(back.shape, generator=generator).to(values)
        again, measured = self.measure(back), self.measure(x)
        if again.shape != u.shape:
            raise ShapeError(
                f"the measurement of an image has shape {tuple(again.shape[1:])}, and the values given have "
                f"{tuple(values.shape[1:])}: the first axis of values counts the images"
            )
        size = measured.norm() * u.norm() + x.norm() * back.norm()
        if not abs((measured * u).sum() - (x * back).sum()) <= TOLERANCE * size:
            raise NotSymmetricError(
                "adjoint is not the transpose of measure: <A x, u> and <x, A' u> differ; scale it, or take "
                "torch.func.vjp of measure at an image of zeros"
            )
        return u, again

    def _eigenpairs(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of A A' and its eigenvectors, columns, of what was measured at all."""
        r = self.values[0].numel()
        eye = torch.eye(r, dtype=self.values.dtype, device=self.values.device)
        eye = eye.view(r, *self.values.shape[1:])
        chunk = max(1, CHUNK_PIXELS // math.prod(self.shape))
        gram = torch.cat([self._gram(part).flatten(1) for part in eye.split(chunk)]).double()
        weights, basis = torch.linalg.eigh((gram + gram.T) / 2)
        seen = weights > _NULL * weights[-1]
        return weights[seen].to(self.values), basis[:, seen].to(self.values)

    def _check_attained(self) -> None:
        """That an image has the values that are exact.

        Raises:
            OptionError: none has.
        """
        exact = self.values[self.noise == 0]
        if not len(exact):
            return
        attained = self._gram(self._solved(exact, exact.new_zeros(len(exact))))
        if not (attained - exact).norm() <= 1e-3 * exact.norm():
            raise OptionError(
                "no image has these values: the measurement's rows depend on one another and the values do "
                "not agree; measure an image, leave out rows, or tell the values' noise="
            )
