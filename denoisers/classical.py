"""Denoisers of theory: shrinkage in orthonormal bases, best bandlet bases, optima of simple priors.

Each is a module on images (..., H, W), made for one noise level sigma and used wherever a network is:
forward- and reverse-mode derivatives, and vmap, go through the transforms. Those run where the image lies: in
NumPy on the CPU, in CuPy, where it is installed, on a GPU (not run on one so far), in torch's memory.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.functional import pad

from spectral.bases import BandletBasis, BandletFrame, Basis, Hartley
from spectral.errors import OptionError, ShapeError
from spectral.kernels.arrays import as_array, namespace
from spectral.operators import LinearOperator, from_functions

Map = Callable[[Tensor], Tensor]
JAMES_STEIN = 4.50524  # root of t - log t = 3 (Cai 1999)


def analysis(basis: Basis, images: Tensor) -> Tensor:
    """Coefficients <x, psi_k> of images (..., H, W), differentiable."""
    return _Linear.apply(images, _on_arrays(basis.analysis), _on_arrays(basis.synthesis))


def synthesis(basis: Basis, coefficients: Tensor) -> Tensor:
    """Images sum_k c_k psi_k from coefficients (..., H, W), differentiable."""
    return _Linear.apply(coefficients, _on_arrays(basis.synthesis), _on_arrays(basis.analysis))


class _Linear(torch.autograd.Function):
    """A x: linear, so its own tangent map, with A' as its transpose; vmap runs over a leading axis of x."""

    @staticmethod
    def forward(x: Tensor, A: Map, transpose: Map) -> Tensor:
        return A(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.A, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Linear.apply(gradient, ctx.transpose, ctx.A), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        return _Linear.apply(tangent, ctx.A, ctx.transpose)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, A: Map, transpose: Map) -> Any:
        return _Linear.apply(x.movedim(in_dims[0], 0), A, transpose), 0


class Diagonal(nn.Module):
    """f(y) = sum_k lambda_k <y, psi_k> psi_k with lambda_k = a_k / (a_k + sigma^2).

    Optimal for uncorrelated coefficients of power a_k, and for one image among all multiplications by
    constants where a_k is that image's own c_k^2. `power` broadcasts against coefficients (..., H, W). The
    Jacobian is Q' diag(lambda) Q, the same at every y.

    Raises OptionError for sigma <= 0 or a negative power.
    """

    def __init__(self, basis: Basis, power: Tensor, sigma: float) -> None:
        super().__init__()
        if not _positive(sigma) or bool((power < 0).any()):
            raise OptionError("sigma must be positive and the power not negative")
        self.basis = basis
        self.register_buffer("gains", power / (power + sigma**2))

    def forward(self, y: Tensor) -> Tensor:
        """Images (..., H, W), denoised."""
        gains = torch.as_tensor(self.gains, dtype=y.dtype)
        return synthesis(self.basis, gains * analysis(self.basis, y))


def oracle(basis: Basis, clean: Tensor, sigma: float) -> Diagonal:
    """The oracle of one clean image, or of one per row of the batch: lambda_k = c_k^2 / (c_k^2 + sigma^2)."""
    return Diagonal(basis, analysis(basis, clean).square(), sigma)


def wiener(images: Tensor, sigma: float) -> Diagonal:
    """The Wiener filter whose power spectrum a_k = mean |X_k|^2 is learned from images (N, ..., H, W).

    X is the orthonormal discrete Fourier transform; the mean runs over all leading axes.
    """
    height, width = images.shape[-2:]
    spectrum = torch.fft.fft2(images, norm="ortho").abs().square().reshape(-1, height, width)
    return Diagonal(Hartley((height, width)), spectrum.mean(0), sigma)


class Thresholding(nn.Module):
    """f(y) = sum_k s(<y, psi_k>) psi_k with T = factor sigma.

    "hard": s(c) = c 1{|c| > T}. "soft": s(c) = sign(c) max(|c| - T, 0). The factor is sqrt(2 ln d) unless
    given (Donoho and Johnstone 1994). The Jacobian is Q' diag(1{|c| > T}) Q for either.

    Raises OptionError for sigma <= 0 or another rule.
    """

    def __init__(
        self, basis: Basis, sigma: float, rule: Literal["hard", "soft"] = "soft", factor: float | None = None
    ) -> None:
        super().__init__()
        if not _positive(sigma) or rule not in ("hard", "soft"):
            raise OptionError(f"sigma must be positive and rule hard or soft, got {sigma} and {rule!r}")
        factor = math.sqrt(2 * math.log(basis.shape[0] * basis.shape[1])) if factor is None else factor
        self.basis, self.rule, self.threshold = basis, rule, factor * sigma

    def forward(self, y: Tensor) -> Tensor:
        """Images (..., H, W), denoised."""
        c = analysis(self.basis, y)
        kept = c if self.rule == "hard" else c - self.threshold * c.sign()
        return synthesis(self.basis, torch.where(c.abs() > self.threshold, kept, 0.0))


class BlockJamesStein(nn.Module):
    """Coefficients shrunk by blocks: c_B max(0, 1 - 4.50524 L sigma^2 / |c_B|^2) (Cai 1999).

    Blocks are b x b squares of a band of the basis, b^2 about ln d, cut short at its far edges, L their size.
    The coarse scale is kept.

    Raises OptionError for sigma <= 0.
    """

    def __init__(self, basis: Basis, sigma: float) -> None:
        super().__init__()
        if not _positive(sigma):
            raise OptionError(f"sigma must be positive, got {sigma}")
        self.basis, self.sigma = basis, sigma
        self.side = max(1, round(math.sqrt(math.log(basis.shape[0] * basis.shape[1]))))

    def forward(self, y: Tensor) -> Tensor:
        """Images (..., H, W), denoised."""
        c = analysis(self.basis, y)
        height, width = self.basis.shape
        change = torch.zeros_like(c)
        for rows, columns in self.basis.details:
            band = c[..., rows, columns]
            edges = (columns.start, width - columns.stop, rows.start, height - rows.stop)
            change = change + pad(band * (self._gain(band) - 1), edges)
        return synthesis(self.basis, c + change)

    def _gain(self, band: Tensor) -> Tensor:
        h, w = band.shape[-2:]
        energy, size = self._block_sums(band.square()), self._block_sums(torch.ones_like(band))
        gain = (
            1 - JAMES_STEIN * size * self.sigma**2 / energy.clamp(min=torch.finfo(band.dtype).tiny)
        ).clamp(min=0)
        b = self.side
        return gain.repeat_interleave(b, dim=-2).repeat_interleave(b, dim=-1)[..., :h, :w]

    def _block_sums(self, x: Tensor) -> Tensor:
        b, (h, w) = self.side, x.shape[-2:]
        x = pad(x, (0, -w % b, 0, -h % b))
        return x.unflatten(-1, (-1, b)).unflatten(-3, (-1, b)).sum((-1, -3))


class BandletThresholding(nn.Module):
    """Hard thresholding, T = factor sigma, in the bandlet basis chosen from each noisy image.

    The basis minimises sum min(c^2, T^2) + T^2 geometry_penalty a transformed square + T^2 split_penalty a
    split; defaults are for bandlets of wavelets, and pixel-domain frames want factor sqrt(2 ln d) without
    penalties. The choice is locally constant, so that the Jacobian is the projection Q' diag(1{|c| > T}) Q at
    that basis.

    Raises OptionError for sigma <= 0.
    """

    def __init__(
        self,
        frame: BandletFrame,
        sigma: float,
        *,
        factor: float = 3.5,
        geometry_penalty: float = 1.0,
        split_penalty: float = 1 / 7,
    ) -> None:
        super().__init__()
        if not _positive(sigma):
            raise OptionError(f"sigma must be positive, got {sigma}")
        self.frame, self.threshold = frame, factor * sigma
        self.penalties = {"geometry_penalty": geometry_penalty, "split_penalty": split_penalty}

    def bases(self, y: Tensor) -> list[BandletBasis]:
        """The basis chosen for each image of y (..., H, W), leading axes flattened."""
        images = _array(y).reshape(-1, *self.frame.base.shape)
        forests = self.frame.search(
            self.frame.base.analysis(images), [self.threshold], cost="hard", **self.penalties
        )
        return [forests.basis(i) for i in range(len(images))]

    def forward(self, y: Tensor) -> Tensor:
        """Images (..., H, W), denoised."""
        return _BandletProjection.apply(y, self, _Projections())


class _Projections:
    """v -> P v, by a basis and a mask of coefficients an image: no list, which functorch would copy."""

    of_images: list[tuple[BandletBasis, Any]]

    def __call__(self, v: Tensor) -> Tensor:
        """P_i v_i; v is (..., n images flattened, H, W), the images its innermost leading axes."""
        vectors = _array(v)
        vectors = vectors.reshape(-1, len(self.of_images), *vectors.shape[-2:])
        columns = [
            basis.synthesis(kept * basis.analysis(vectors[:, i]))
            for i, (basis, kept) in enumerate(self.of_images)
        ]
        return torch.as_tensor(namespace(vectors).stack(columns, axis=1)).reshape(v.shape).to(v)


class _BandletProjection(torch.autograd.Function):
    """y -> P y with P = Q' diag(1{|Q y| > T}) Q; its derivative is P, symmetric.

    `found` is filled with P by the forward pass, the one place that sees y's values.
    """

    @staticmethod
    def forward(y: Tensor, model: BandletThresholding, found: _Projections) -> Tensor:
        images = _array(y).reshape(-1, *model.frame.base.shape)
        pairs = zip(model.bases(y), images, strict=True)
        found.of_images = [(basis, abs(basis.analysis(image)) > model.threshold) for basis, image in pairs]
        return found(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.P = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Linear.apply(gradient, ctx.P, ctx.P), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        return _Linear.apply(tangent, ctx.P, ctx.P)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], y: Tensor, model: BandletThresholding, found: _Projections
    ) -> Any:
        return _BandletProjection.apply(y.movedim(in_dims[0], 0), model, found), 0


class GaussianPosterior(nn.Module):
    """The optimal denoiser of x ~ N(m, C): f(y) = m + C (C + sigma^2 Id)^-1 (y - m).

    Its Jacobian is C (C + sigma^2 Id)^-1, symmetric, its eigenvalues lambda / (lambda + sigma^2) with lambda
    those of C, and its risk sum lambda sigma^2 / (lambda + sigma^2). covariance: (d, d); mean: (d,), zero
    unless given; images (n, ...) of d pixels.

    Raises OptionError for sigma <= 0 or a covariance that is not square, symmetric and non-negative.
    """

    def __init__(self, covariance: Tensor, sigma: float, mean: Tensor | None = None) -> None:
        super().__init__()
        d = len(covariance)
        if not _positive(sigma) or covariance.shape != (d, d) or not torch.allclose(covariance, covariance.T):
            raise OptionError("sigma must be positive and the covariance a symmetric matrix (d, d)")
        values, vectors = torch.linalg.eigh(covariance)
        if values[0] < -1e-4 * values[-1].abs():
            raise OptionError(
                f"a covariance has no negative eigenvalues, and this one has {float(values[0]):.2e}"
            )
        self.sigma = sigma
        self.register_buffer("eigenvalues", values.clamp(min=0))
        self.register_buffer("vectors", vectors)
        self.register_buffer("mean", covariance.new_zeros(d) if mean is None else mean)

    def forward(self, y: Tensor) -> Tensor:
        """The posterior mean of each y (n, ...)."""
        values, vectors, mean = (
            torch.as_tensor(b).to(y) for b in (self.eigenvalues, self.vectors, self.mean)
        )
        c = (y.flatten(1) - mean) @ vectors
        return (mean + (c * values / (values + self.sigma**2)) @ vectors.T).view_as(y)


class FiniteSet(nn.Module):
    """The optimal denoiser where the clean image is one of N points, each as likely: the memorising limit.

    f(y) = sum_i w_i x_i with w = softmax(-|y - x_i|^2 / 2 sigma^2), the posterior mean; its Jacobian is the
    posterior covariance over sigma^2, symmetric, non-negative and of rank at most N - 1. points: (N, ...).

    Raises OptionError for sigma <= 0 or no points.
    """

    def __init__(self, points: Tensor, sigma: float) -> None:
        super().__init__()
        if not _positive(sigma) or not len(points):
            raise OptionError("sigma must be positive and there must be at least one point")
        self.sigma = sigma
        self.register_buffer("points", points)

    def weights(self, y: Tensor) -> Tensor:
        """Posterior probabilities (n, N) of the points for y (n, ...)."""
        x, flat = self._points_like(y), y.flatten(1)
        return ((flat @ x.T - x.square().sum(1) / 2) / self.sigma**2).softmax(-1)

    def forward(self, y: Tensor) -> Tensor:
        """The posterior mean of each y (n, ...)."""
        return (self.weights(y) @ self._points_like(y)).view_as(y)

    def jacobian(self, y: Tensor) -> LinearOperator:
        """The exact Jacobian at one y (1, ...): sum_i w_i (x_i - f)(x_i - f)' / sigma^2."""
        if len(y) != 1:
            raise ShapeError(f"the Jacobian is taken at one y (1, ...), got {len(y)}")
        spread = self._points_like(y) - self(y).flatten(1)
        factor = self.weights(y)[0].sqrt()[:, None] * spread / self.sigma

        def product(V: Tensor) -> Tensor:
            return (V @ factor.T) @ factor

        return from_functions(
            product, n=factor.shape[1], dtype=factor.dtype, device=factor.device, symmetric=True
        )

    def _points_like(self, y: Tensor) -> Tensor:
        """The points (N, d) in y's precision, on y's device."""
        return torch.as_tensor(self.points, dtype=y.dtype, device=y.device).flatten(1)


def _on_arrays(change: Callable[[Any], Any]) -> Map:
    """A transform of arrays, of tensors."""
    return lambda x: torch.as_tensor(change(_array(x))).to(x)


def _array(x: Tensor) -> Any:
    """x as an array, where it lies if CuPy can take it there; tracers, which would take what a transform
    returns for a constant, are refused.
    """
    if get_proxy_mode() is not None:
        raise NotImplementedError("NumPy transforms cannot be traced: differentiate by torch.func.jvp or vjp")
    x = x.detach()
    return as_array(x if x.is_cuda and find_spec("cupy") else x.cpu())


def _positive(sigma: float) -> bool:
    return sigma > 0 and math.isfinite(sigma)
