import math

import pytest
import torch

from spectral.errors import (
    NotDeterministicError,
    NotFiniteError,
    OptionError,
    ShapeError,
    TransposeMissingError,
)
from spectral.estimators.probes import sampler
from spectral.operators import as_operator
from spectral.risk import sigma_by_median, sigma_by_residual, sure
from spectral.risk.blackbox import FiniteDifference

d, sigma = 300, 0.3
LAMBDA = torch.arange(1, d + 1, dtype=torch.float64) ** -1


def problem(seed=0, skew=0.0):
    """A linear denoiser near the Wiener filter, and the clean signal it was made for."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    x = Q @ (LAMBDA.sqrt() * torch.randn(d, generator=generator, dtype=torch.float64))
    K = (Q * (LAMBDA / (LAMBDA + sigma**2))) @ Q.T
    K = K + skew * torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return (lambda y: (K @ y.reshape(-1, d, 1)).reshape(y.shape)), x, K


def noisy(x, seed):
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.mark.parametrize("method", ["auto", "exact", "finite-difference"])
@pytest.mark.parametrize("skew", [0.0, 0.2])
def test_interval_covers_the_true_error(method, skew):
    model, x, _ = problem(skew=skew)
    repeats = 60 if method == "exact" else 300
    y = torch.stack([noisy(x, seed) for seed in range(repeats)])
    risk = sure(model, y, sigma, method=method, batched=True)
    truth = (model(y) - x).square().mean(-1)
    low, high = risk.interval(0.95)
    assert 0.88 <= ((low <= truth) & (truth <= high)).double().mean() <= 0.995
    deviations = (risk.value - truth) / risk.stderr
    assert abs(deviations.mean()) * math.sqrt(repeats) < 4  # unbiased


def test_a_negative_estimate_says_what_it_means():
    """Of a picture without noise, beyond the error; where the true error is small, by chance."""
    model, x, _ = problem()
    clean = sure(model, x, sigma)
    assert float(clean.interval()[1]) < 0 and math.isnan(clean.psnr)
    told = "the estimate is negative, beyond its 99.9 % error: the noise in y is not of this sigma"
    assert clean.notes == [told] and repr(clean).endswith(f"products; {told})")
    assert not sure(model, noisy(x, 0), sigma).notes
    zeros = torch.stack([noisy(torch.zeros(d, dtype=torch.float64), seed) for seed in range(20)])
    chance = sure(lambda y: 0 * y, zeros, sigma, batched=True)  # whose error is 0
    below = int((chance.value < 0).sum())
    assert below and chance.notes == [
        f"{below} of 20 estimates are negative, within the error of a small one"
    ]


def test_soft_threshold_in_closed_form():
    """SURE of soft thresholding (Donoho, Johnstone 1995): sum min(y^2, t^2) + 2 s^2 #(|y| > t) - s^2 d."""
    t = 0.5
    y = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (y.square().clamp(max=t**2).sum() + 2 * sigma**2 * (y.abs() > t).sum()) / 2000 - sigma**2
    risk = sure(lambda v: v.sign() * (v.abs() - t).relu(), y, sigma, products=2000)
    assert risk.value == pytest.approx(expected.item(), rel=1e-7)
    assert risk.divergence.stderr <= 1e-15 * risk.divergence.value


def test_divergence_is_an_independent_reference_on_the_same_probes():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 3, 3, padding=1)
    ).double()
    y = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    risk = sure(net, y, 0.1, method="hutchinson", products=20, seed=6, batched=True)
    Z = sampler(as_operator(torch.zeros(2, 300, 300, dtype=torch.float64)), "rademacher", 7)(20)
    y = y.requires_grad_()
    forms = []
    for z in Z.unbind(1):
        (pulled,) = torch.autograd.grad(net(y), y, z.reshape(y.shape))
        forms.append((pulled.flatten(1) * z).sum(1))
    divergence = torch.stack(forms).mean(0)
    assert torch.allclose(risk.divergence.value, divergence, rtol=1e-10)
    residual = (y - net(y)).flatten(1).square().sum(1)
    assert torch.allclose(risk.value, ((residual + 0.02 * divergence) / 300 - 0.01).detach(), rtol=1e-10)


def test_noise_error_is_its_closed_form():
    """E (SURE - SE)^2 = s^2 |2(Kx - x)|^2 + s^4 (|2K - I|_F^2 + tr (2K - I)^2) for a linear denoiser K."""
    model, x, K = problem(skew=0.2)
    M = 2 * K - torch.eye(d, dtype=torch.float64)
    bias = 2 * (K @ x - x)
    exact = sigma**2 * bias @ bias + sigma**4 * (M.square().sum() + torch.trace(M @ M))
    y = torch.stack([noisy(x, s) for s in range(200)])
    squares = sure(model, y, sigma, products=6, batched=True).noise_error.square()
    assert squares.mean().item() * d**2 == pytest.approx(exact.item(), rel=0.05)


def test_probing_stops_well_below_the_noise():
    model, x, _ = problem()
    risk = sure(model, noisy(x, 0), sigma)
    probing = 2 * sigma**2 * risk.divergence.stderr / d
    assert probing < 0.5 * risk.noise_error and risk.products < 60
    assert risk.stderr == pytest.approx(math.hypot(probing, risk.noise_error))
    assert risk.psnr == pytest.approx(-10 * math.log10(risk.value))


def test_batch_is_image_by_image():
    model, x, _ = problem()
    levels = torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64)
    y = torch.stack([noisy(x, s) for s in range(3)])
    together = sure(model, y, levels, method="exact", batched=True)
    for one in range(3):
        alone = sure(model, y[one], levels[one].item(), method="exact")
        assert together.value[one].item() == pytest.approx(alone.value, rel=1e-9)
    black = sure(model, y, levels, method="finite-difference", products=200, batched=True)
    assert ((black.value - together.value).abs() < 4 * black.stderr).all()


def test_finite_difference_is_the_jacobian_of_a_linear_map():
    model, x, K = problem(skew=0.2)
    A = FiniteDifference(model, x, 1e-3)
    V = torch.randn(4, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (A.apply(V) - V @ K.T).abs().max() < 1e-9
    assert (A.apply(torch.zeros(1, d, dtype=torch.float64)) == 0).all()
    with pytest.raises(TransposeMissingError):
        A.apply_transpose(V)


def test_a_black_box_is_called_in_evaluation_mode():
    model, y = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Dropout(0.5)), torch.rand(1, 1, 4, 4)
    A = FiniteDifference(model.double(), y.double(), 1e-3)
    assert model.training and model[0].num_batches_tracked == 0
    V = torch.eye(16, dtype=torch.float64)
    assert (A.apply(V) - V / (1 + 1e-5) ** 0.5).abs().max() < 1e-9


def test_a_black_box_in_another_precision():
    """y goes to the model's precision, as it does for a Jacobian; keywords that do not fit are told."""
    y = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Conv2d(1, 1, 3, padding=1)  # float32
    black, open_ = (sure(net, y, 0.1, method=m, products=64) for m in ("finite-difference", "hutchinson"))
    assert black.value == pytest.approx(open_.value, rel=1e-3)
    with pytest.raises(OptionError, match="model_kwargs"):
        sure(lambda v: v, y, 0.1, method="finite-difference", sigma_keyword="level")


def test_a_black_box_keeps_its_own_y():
    y = torch.rand(5, dtype=torch.float64)
    A = FiniteDifference(torch.square, y, 1e-6)
    V, expected = torch.eye(5, dtype=torch.float64), 2 * torch.diag(y)
    y.mul_(3)
    assert (A.apply(V) - expected).abs().max() < 1e-5


def test_median_rule():
    y = 0.15 * torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 128)
    each = sigma_by_median(y + ramp, batched=True)
    assert each.value.shape == (2,)
    assert ((each.value - 0.15).abs() < 4 * each.stderr).all()
    estimates = [
        sigma_by_median(torch.randn(64, 64, generator=torch.Generator().manual_seed(s))) for s in range(200)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    assert spread == pytest.approx(estimates[0].stderr, rel=0.2)


def test_residual_rule_and_its_propagation():
    model, x, _ = problem()
    y = torch.stack([noisy(x, s) for s in range(60)])
    assert sigma_by_residual(model, y, products=d, batched=True).value.mean().item() == pytest.approx(
        sigma, rel=0.05
    )
    image = torch.zeros(32, 32, dtype=torch.float64)
    y = image + 0.2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given, median = sure(lambda v: v / 2, y, 0.2), sure(lambda v: v / 2, y, "median")
    residual = sure(lambda v: v / 2, y, "residual")
    assert given.rule == "given" and given.sigma_error == 0
    assert median.rule == "median" and median.sigma_error > 0
    # With the residual rule the risk is sigma^2 tr J, whatever the residual.
    assert residual.value == pytest.approx(residual.sigma**2 / 2, rel=1e-9)
    shrunk = [sure(lambda v: v / 4, y, "median"), sure(lambda v: v / 4, y, 0.2)]
    assert shrunk[0].stderr > shrunk[1].stderr


def test_refusals():
    y = torch.rand(1, 1, 8, 8)
    with pytest.raises(OptionError, match="positive"):
        sure(lambda v: v / 2, y, 0.0)
    with pytest.raises(OptionError, match="median"):
        sure(lambda v: v / 2, y, "guess")
    with pytest.raises(OptionError, match="one per image"):
        sure(lambda v: v / 2, y, torch.tensor([0.1, 0.2]))
    with pytest.raises(ShapeError, match="maps"):
        sure(lambda v: v[..., :4], y, 0.1)
    with pytest.raises(OptionError, match="residual"):
        sigma_by_residual(lambda v: v, y)
    with pytest.raises(OptionError, match="takes images"):
        sigma_by_median(torch.zeros(5))
    with pytest.raises(OptionError, match="y must be"):
        sigma_by_median(y.numpy())
    with pytest.raises(NotFiniteError, match="y holds"):
        sigma_by_median(y / 0)
    with pytest.raises(NotFiniteError, match="returned NaN"):
        sure(lambda v: v / 0, y, 0.1, method="finite-difference")
    with pytest.raises(OptionError, match="y must be"):
        sure(lambda v: v, y.numpy(), 0.1, method="finite-difference")
    with pytest.raises(NotDeterministicError, match="dropout"):
        FiniteDifference(lambda v: v + torch.rand_like(v), y, 0.01)
    for step in (0.0, math.inf, "small", None, torch.tensor(math.inf)):
        with pytest.raises(OptionError, match="step"):
            FiniteDifference(lambda v: v, y, step)
    with pytest.raises(ShapeError, match="step"):
        FiniteDifference(lambda v: v, y, torch.full((3,), 0.1))
