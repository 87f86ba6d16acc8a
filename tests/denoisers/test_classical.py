"""Classical denoisers against closed forms and dense linear algebra, and their Jacobians against autodiff."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spectral
from denoisers.classical import (
    JAMES_STEIN,
    BandletThresholding,
    BlockJamesStein,
    Diagonal,
    FiniteSet,
    GaussianPosterior,
    Thresholding,
    analysis,
    oracle,
    synthesis,
    wiener,
)
from spectral.bases import DCT, Basis, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.kernels.calpha import synthesize
from spectral.kernels.shrinkage import risks

SIDE, SIGMA = 16, 0.1
D = SIDE**2


def images(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(synthesize(n, size=SIDE, alpha=2, kind="exact", seed=seed)).double()[:, None]


CLEAN = images(3)
NOISY = CLEAN + SIGMA * torch.randn(
    CLEAN.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)


def matrix(basis: Basis) -> Tensor:
    """Q with c = Q x."""
    return torch.from_numpy(basis.analysis(np.eye(D).reshape(D, SIDE, SIDE)).reshape(D, D)).T


WAVELET = Wavelet((SIDE, SIDE), "db2", 2)
Q = matrix(WAVELET)

COVARIANCE = torch.cov(images(600, seed=5).flatten(1).T)

DENOISERS: dict[str, nn.Module] = {
    "oracle": oracle(WAVELET, CLEAN[:1], SIGMA),
    "wiener": wiener(images(50, seed=1), SIGMA),
    "hard": Thresholding(WAVELET, SIGMA, "hard", 3.0),
    "soft": Thresholding(DCT((SIDE, SIDE)), SIGMA, "soft", 1.5),
    "james-stein": BlockJamesStein(WAVELET, SIGMA),
    "bandlets": BandletThresholding(wavelet_bandlets((SIDE, SIDE), "db2", 1), SIGMA),
    "pixel alpert": BandletThresholding(
        pixel_bandlets((SIDE, SIDE)), SIGMA, factor=3.3, geometry_penalty=0, split_penalty=0
    ),
    "gaussian": GaussianPosterior(COVARIANCE, SIGMA, COVARIANCE[0]),
    "finite set": FiniteSet(images(40, seed=2), 20 * SIGMA),
}


def kept(basis: Basis, threshold: float) -> Tensor:
    """Q' diag(1{|c| > T}) Q at the first noisy image."""
    dense = matrix(basis)
    return dense.T @ ((dense @ NOISY[0].flatten()).abs() > threshold).double().diag() @ dense


def bandlet_projection(name: str, factor: float) -> Tensor:
    model = DENOISERS[name]
    assert isinstance(model, BandletThresholding)
    return kept(model.bases(NOISY[:1])[0], factor * SIGMA)


def james_stein_derivative() -> Tensor:
    """Q' D Q; where a block of L is kept, D is (1 - e) Id + 2 e c c' / |c|^2, e = t L sigma^2 / |c|^2."""
    c, side = (Q @ NOISY[0].flatten()).reshape(SIDE, SIDE), BlockJamesStein(WAVELET, SIGMA).side
    derivative, number = torch.eye(D, dtype=torch.float64), torch.arange(D).reshape(SIDE, SIDE)
    for rows, columns in WAVELET.details:
        for i in range(rows.start, rows.stop, side):
            for j in range(columns.start, columns.stop, side):
                block = np.s_[i : min(i + side, rows.stop), j : min(j + side, columns.stop)]
                inside, b = number[block].flatten(), c[block].flatten()
                excess = JAMES_STEIN * len(b) * SIGMA**2 / b.square().sum()
                within = (1 - excess) * torch.eye(len(b), dtype=b.dtype) + 2 * excess * b.outer(
                    b
                ) / b.square().sum()
                derivative[inside[:, None], inside] = within * (excess < 1)
    return Q.T @ derivative @ Q


def wiener_convolution() -> Tensor:
    """The circulant matrix of the filter power / (power + sigma^2)."""
    power = torch.fft.fft2(images(50, seed=1), norm="ortho").abs().square().mean((0, 1))
    deltas = torch.eye(D, dtype=torch.float64).reshape(D, SIDE, SIDE)
    return torch.fft.ifft2(torch.fft.fft2(deltas) * power / (power + SIGMA**2)).real.reshape(D, D).T


def softmax_covariance() -> Tensor:
    """sum_i w_i (x_i - f)(x_i - f)' / sigma^2."""
    points, s = images(40, seed=2).flatten(1), 20 * SIGMA
    w = (-(NOISY[0].flatten() - points).square().sum(1) / (2 * s**2)).softmax(0)
    return torch.cov(points.T, correction=0, aweights=w) / s**2


CLOSED_FORMS: dict[str, Callable[[], Tensor]] = {
    "oracle": lambda: Q.T @ ((c2 := (Q @ CLEAN[0].flatten()) ** 2) / (c2 + SIGMA**2)).diag() @ Q,
    "wiener": wiener_convolution,
    "hard": lambda: kept(WAVELET, 3.0 * SIGMA),
    "soft": lambda: kept(DCT((SIDE, SIDE)), 1.5 * SIGMA),
    "james-stein": james_stein_derivative,
    "bandlets": lambda: bandlet_projection("bandlets", 3.5),
    "pixel alpert": lambda: bandlet_projection("pixel alpert", 3.3),
    "gaussian": lambda: torch.linalg.solve(
        COVARIANCE + SIGMA**2 * torch.eye(D, dtype=torch.float64), COVARIANCE
    ),
    "finite set": softmax_covariance,
}


@pytest.mark.parametrize("name", DENOISERS)
def test_jacobians_are_closed_forms(name: str) -> None:
    J = spectral.jacobian(DENOISERS[name], NOISY[:1]).dense()
    torch.testing.assert_close(J, CLOSED_FORMS[name](), atol=1e-10, rtol=0)


# Those with values that crowd at the top take two hundred products, of a way that forms them one by one.
CROWDED = ("oracle", "wiener", "james-stein")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in CROWDED else []) for n in DENOISERS]
)
def test_spectra_are_found(name: str) -> None:
    """`top_eigs` takes each as it takes a network; its pairs belong to the matrix written down by hand."""
    expected = CLOSED_FORMS[name]()
    pairs = spectral.top_eigs(DENOISERS[name], NOISY[:1], 5, tol=1e-6)
    values = torch.linalg.eigvalsh(expected).flip(0)[:5]
    torch.testing.assert_close(pairs.values, values, atol=1e-6 * float(values[0]), rtol=0)
    V = pairs.vectors.reshape(5, D)
    residuals = (V @ expected - pairs.values[:, None] * V).norm(dim=1)
    assert residuals.max() <= 2e-6 * float(values[0])


@pytest.mark.parametrize("name", DENOISERS)
def test_jacobians_agree_with_finite_differences(name: str) -> None:
    """Reverse mode, forward mode, vmap and the library's operator give one symmetric, non-negative matrix."""
    model, y = DENOISERS[name], NOISY[:1]
    J = torch.func.jacrev(model)(y).reshape(D, D)
    forward = torch.func.jacfwd(model)(y).reshape(D, D)
    torch.testing.assert_close(forward, J, atol=1e-12, rtol=0)
    torch.testing.assert_close(spectral.jacobian(model, y).dense(), J, atol=1e-12, rtol=0)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = (model(y + 1e-6 * v) - model(y - 1e-6 * v)).flatten() / 2e-6
    torch.testing.assert_close(J @ v.flatten(), slope, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(J, J.T, atol=1e-12, rtol=0)
    assert torch.linalg.eigvalsh(J).min() > -1e-10
    assert J.norm() > 0.5


@pytest.mark.parametrize("name", [n for n in DENOISERS if n != "oracle"])
def test_a_batch_is_its_images(name: str) -> None:
    model = DENOISERS[name]
    one_by_one = torch.cat([model(y[None]) for y in NOISY])
    torch.testing.assert_close(model(NOISY), one_by_one, atol=1e-12, rtol=0)
    mapped = torch.func.vmap(lambda y: model(y[None])[0])(NOISY)
    torch.testing.assert_close(mapped, one_by_one, atol=1e-12, rtol=0)
    assert model(NOISY.float()).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in DENOISERS if n not in ("finite set", "gaussian")])
def test_noise_is_reduced(name: str) -> None:
    error = (DENOISERS[name](NOISY[:1]) - CLEAN[:1]).square().mean()
    assert error < 0.9 * SIGMA**2


def test_the_oracle_is_a_dense_matrix_and_reaches_its_risk() -> None:
    c = Q @ CLEAN[0].flatten()
    gains = c**2 / (c**2 + SIGMA**2)
    model = oracle(WAVELET, CLEAN[:1], SIGMA)
    expected = Q.T @ (gains * (Q @ NOISY[0].flatten()))
    torch.testing.assert_close(model(NOISY[:1]).flatten(), expected)
    noise = torch.randn(4000, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    errors = (model(CLEAN[:1] + SIGMA * noise) - CLEAN[:1]).square().sum((1, 2, 3))
    risk = risks(c.numpy()[None], [SIGMA])[0, 0]
    assert float(errors.mean()) == pytest.approx(risk, abs=4 * float(errors.std()) / 4000**0.5)


def test_an_oracle_a_row_of_the_batch() -> None:
    each = torch.cat([oracle(WAVELET, x[None], SIGMA)(y[None]) for x, y in zip(CLEAN, NOISY, strict=True)])
    torch.testing.assert_close(oracle(WAVELET, CLEAN, SIGMA)(NOISY), each)


def test_the_wiener_filter_is_a_convolution_by_the_learned_spectrum() -> None:
    learned = images(50, seed=1)
    power = torch.fft.fft2(learned, norm="ortho").abs().square().mean((0, 1))
    expected = torch.fft.ifft2(torch.fft.fft2(NOISY) * power / (power + SIGMA**2)).real
    torch.testing.assert_close(wiener(learned, SIGMA)(NOISY), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_thresholding_is_what_it_says(rule: str) -> None:
    c = Q @ NOISY[0].flatten()
    threshold = SIGMA * math.sqrt(2 * math.log(D))
    kept = c.abs() > threshold
    expected = Q.T @ (kept * (c if rule == "hard" else c - threshold * c.sign()))
    torch.testing.assert_close(Thresholding(WAVELET, SIGMA, rule)(NOISY[:1]).flatten(), expected)


def test_james_stein_blocks_one_by_one() -> None:
    model = BlockJamesStein(WAVELET, SIGMA)
    assert model.side == 2
    model.side = 3  # does not divide the bands of 8 and 4: blocks are cut short
    c = WAVELET.analysis(NOISY[0, 0].numpy())
    shrunk = c.copy()
    for rows, columns in WAVELET.details:
        for i in range(rows.start, rows.stop, 3):
            for j in range(columns.start, columns.stop, 3):
                block = np.s_[i : min(i + 3, rows.stop), j : min(j + 3, columns.stop)]
                size, energy = c[block].size, (c[block] ** 2).sum()
                shrunk[block] *= max(0.0, 1 - JAMES_STEIN * size * SIGMA**2 / energy)
    np.testing.assert_allclose(model(NOISY[:1])[0, 0].numpy(), WAVELET.synthesis(shrunk), atol=1e-13)
    assert math.log(JAMES_STEIN) == pytest.approx(JAMES_STEIN - 3, abs=1e-5)


def test_james_stein_of_nothing_is_nothing() -> None:
    assert BlockJamesStein(WAVELET, SIGMA)(torch.zeros(1, 1, SIDE, SIDE)).abs().max() == 0


def test_bandlets_threshold_in_the_basis_they_choose() -> None:
    model = DENOISERS["bandlets"]
    assert isinstance(model, BandletThresholding)
    for basis, y, out in zip(
        model.bases(NOISY), NOISY[:, 0].numpy(), model(NOISY)[:, 0].numpy(), strict=True
    ):
        c = basis.analysis(y)
        np.testing.assert_allclose(out, basis.synthesis(c * (np.abs(c) > 3.5 * SIGMA)), atol=1e-13)


def test_the_finite_set_is_its_posterior() -> None:
    points = images(40, seed=2)
    model = FiniteSet(points, 20 * SIGMA)
    y = NOISY[:1]
    logits = torch.stack([-(y - x).square().sum() / (2 * model.sigma**2) for x in points])
    w = (logits - logits.logsumexp(0)).exp()
    assert w.max() < 0.5
    mean = (w[:, None] * points.flatten(1)).sum(0)
    torch.testing.assert_close(model(y).flatten(), mean)
    spread = points.flatten(1) - mean
    covariance = torch.einsum("n,ni,nj->ij", w, spread, spread) / model.sigma**2
    exact = model.jacobian(y)
    torch.testing.assert_close(exact.dense(), covariance, atol=1e-13, rtol=0)
    torch.testing.assert_close(torch.func.jacrev(model)(y).reshape(D, D), covariance, atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(exact.dense(), hermitian=True) <= 39


def test_the_gaussian_posterior_is_its_dense_formula() -> None:
    model = DENOISERS["gaussian"]
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + SIGMA**2 * torch.eye(D, dtype=torch.float64))
    expected = COVARIANCE[0] + (NOISY.flatten(1) - COVARIANCE[0]) @ gain.T
    torch.testing.assert_close(model(NOISY).flatten(1), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.func.jacrev(model)(NOISY[:1]).reshape(D, D), gain, atol=1e-10, rtol=0)


def test_one_point_is_remembered_whatever_the_noise() -> None:
    point = images(1)
    model = FiniteSet(point, 1.0)
    torch.testing.assert_close(model(point + 100), point)
    assert model.jacobian(point).dense().abs().max() == 0


def test_gradients_pass_the_change_of_basis() -> None:
    x = NOISY.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: analysis(WAVELET, v), (x[:1, :, :, :],), fast_mode=True, check_forward_ad=True
    )
    assert torch.autograd.gradcheck(
        lambda v: synthesis(WAVELET, v), (x[:1, :, :, :],), fast_mode=True, check_forward_ad=True
    )


@pytest.mark.filterwarnings("ignore")
def test_tracers_are_refused_rather_than_fooled() -> None:
    with pytest.raises(NotImplementedError, match="traced"):
        torch.func.linearize(DENOISERS["oracle"], NOISY[:1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Diagonal(WAVELET, torch.ones(SIDE, SIDE), 0.0),
        lambda: Diagonal(WAVELET, -torch.ones(SIDE, SIDE), 1.0),
        lambda: Thresholding(WAVELET, -1.0),
        lambda: Thresholding(WAVELET, 1.0, "firm"),
        lambda: BlockJamesStein(WAVELET, float("nan")),
        lambda: BandletThresholding(pixel_bandlets((SIDE, SIDE)), 0.0),
        lambda: GaussianPosterior(torch.ones(3, 2), 1.0),
        lambda: GaussianPosterior(-torch.eye(3), 1.0),
        lambda: FiniteSet(torch.zeros(0, 1, 4, 4), 1.0),
        lambda: FiniteSet(images(2), 1.0).jacobian(NOISY),
    ],
)
def test_bad_arguments_are_refused(make) -> None:
    with pytest.raises(ValueError):
        make()
