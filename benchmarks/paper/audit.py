"""What the paper leaves out of a network: asymmetry, certificates, singular vectors, SURE, larger sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

import spectral
from benchmarks.paper.figure import Row
from denoisers.evaluation import add_noise, sure_check
from denoisers.networks import Denoiser

K = 5
SIGMA = 0.1


def audit(
    model: Denoiser,
    images: Callable[[int, int], Tensor],
    size: int,
    *,
    sigma: float = SIGMA,
    k: int = K,
    count: int = 4,
) -> tuple[list[Row], dict[str, Any]]:
    """Rows of what the paper leaves out, with intervals over images, and their numbers.

    |J - J'| / |J|; the angle between the spans of the first k eigenvectors of (J + J')/2 and of the first k
    right singular vectors; sigma_1 / lambda_1; SURE less the true squared error; and the largest eigenvalue
    and its certificate on images of 4 times the side, by the same network.

    Args:
        model: a blind denoiser.
        images: (count, size) -> clean images (count, 1, size, size) that it was not trained on.
        size: their side.
        sigma: noise level.
        k: eigenpairs and singular triplets compared.
        count: images.
    """
    clean = images(count, size)
    noisy = add_noise(clean, sigma, 0)
    asymmetries, angles, ratios, complete = [], [], [], []
    for y in noisy:
        pairs = spectral.top_eigs(model, y[None], k, tol=1e-3)
        triplets = spectral.top_svd(model, y[None], k, tol=1e-3)
        asymmetries.append(float(pairs.asymmetry))
        angles.append(math.degrees(float(spectral.subspace_angles(pairs, triplets)[-1])))
        ratios.append(float(triplets.values[0] / pairs.values[0]))
        complete.append(bool(pairs.complete) and bool(triplets.complete))
    check = sure_check(model, images(16, size), [sigma])
    off = ((check.curve.sure - check.curve.mse) / sigma**2)[0]
    large = add_noise(images(1, 4 * size), sigma, 0)
    far = spectral.top_eigs(model, large, k, tol=1e-3)
    rows = [
        Row.mean(f"|J - J'| / |J| at sigma = {sigma:g}", asymmetries),
        Row.mean(f"angle of e_1, ..., e_{k} to as many right singular vectors, degrees", angles),
        Row.mean("sigma_1 / lambda_1", ratios),
        Row.mean("solves whose certificate says complete, share", [float(c) for c in complete]),
        Row.mean("SURE less the true squared error per pixel, in sigma^2", off),
        Row.mean("true squared error per pixel, in sigma^2", check.curve.mse[0] / sigma**2),
        Row("lambda_1 on images of 4 times the side", float(far.values[0]), note=far.completeness_text()),
    ]
    data = {
        "sigma": sigma,
        "asymmetry": asymmetries,
        "angles_degrees": angles,
        "sigma_1_over_lambda_1": ratios,
        "complete": complete,
        "sure": check.curve.sure.tolist(),
        "mse": check.curve.mse.tolist(),
        "large_values": far.values.tolist(),
        "large_residuals": far.residuals.tolist(),
        "large_bound": float(far.completeness.bound),
    }
    return rows, data
