import math

import pytest
import torch

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.risk import RiskCurve, kl_bound, risk_curve

d = 30
PRIOR = torch.arange(1, d + 1, dtype=torch.float64) ** -1.5


def wiener(prior):
    def model(y, sigma):
        return prior / (prior + sigma**2) * y

    return model


def images(count, seed=100):
    generator = torch.Generator().manual_seed(seed)
    return PRIOR.sqrt() * torch.randn(count, d, generator=generator, dtype=torch.float64)


def test_optimal_denoiser_lies_on_its_calibration_curve():
    sigmas = [0.1, 0.3, 1.0]
    curve = risk_curve(wiener(PRIOR), images(400), sigmas, products=d, sigma_keyword="sigma")
    assert curve.mse.shape == curve.sure.shape == curve.bayes.shape == (3, 400)
    expected = torch.stack([(PRIOR * s**2 / (PRIOR + s**2)).mean() for s in sigmas])
    assert torch.allclose(curve.bayes.mean(-1), expected, rtol=1e-10)  # linear, and the trace is exact
    for name in ("mse", "sure"):
        estimate = curve.mean(name)
        assert ((estimate.value - expected).abs() < 4 * estimate.stderr).all()
    assert (curve.gap("sure").value.abs() < 4 * curve.gap("sure").stderr).all()
    covered = curve.covered()  # at d = 30 the variance itself is uncertain
    assert ((covered > 0.84) & (covered < 0.99)).all()


def test_calibration_shows_a_denoiser_that_is_not_optimal():
    curve = risk_curve(wiener(4 * PRIOR), images(400), [0.3], products=d, sigma_keyword="sigma")
    bayes, sure = curve.gap("bayes"), curve.gap("sure")
    assert bayes.value[0] > 4 * bayes.stderr[0]
    assert abs(sure.value[0]) < 4 * sure.stderr[0]


def test_kl_of_gaussians_in_closed_form():
    """KL(N(0, a) || N(0, b)) = sum (a/b - 1 - ln a/b) / 2: for Gaussians the bound is an equality."""
    other = PRIOR * torch.linspace(0.5, 2.0, d, dtype=torch.float64)
    ratio = PRIOR / other
    exact = ((ratio - 1 - ratio.log()) / 2).sum().item()
    sigmas = torch.logspace(-4, 2.5, 60, dtype=torch.float64).tolist()
    bound = kl_bound(wiener(other), wiener(PRIOR), images(3000), sigmas, sigma_keyword="sigma")
    assert abs(bound.value - exact) < 4 * bound.stderr + bound.quadrature
    assert bound.stderr < 0.15 * exact and bound.quadrature < 0.05 * exact
    assert bound.gaps.shape == (60,)
    assert "nats" in repr(bound)
    same = kl_bound(wiener(PRIOR), wiener(PRIOR), images(10), sigmas, sigma_keyword="sigma")
    assert same.value == 0 and same.stderr == 0


def test_save_load(tmp_path):
    curve = risk_curve(lambda y: y / 2, images(5), [0.2, 0.4], products=d)
    again = RiskCurve.load(curve.save(tmp_path / "curve.safetensors"))
    assert torch.equal(again.sure, curve.sure) and repr(again) == repr(curve)
    assert math.isclose(again.bayes[0, 0].item(), 0.02)


def test_refusals():
    with pytest.raises(ShapeError, match="images has shape"):
        risk_curve(lambda y: y, torch.zeros(5), [0.1])
    with pytest.raises(OptionError, match="noise levels"):
        risk_curve(lambda y: y, torch.zeros(2, 5), [])
    with pytest.raises(OptionError, match="sigmas is a finite number"):
        risk_curve(lambda y: y, torch.zeros(2, 5), ["0.1"])
    with pytest.raises(OptionError, match="noise levels"):
        risk_curve(lambda y: y, torch.zeros(2, 5), 0.1)
    with pytest.raises(OptionError, match="images must be"):
        risk_curve(lambda y: y, torch.zeros(2, 5).numpy(), [0.1])
    with pytest.raises(OptionError, match="dense"):
        risk_curve(lambda y: y, torch.zeros(2, 5).to_sparse(), [0.1])
    with pytest.raises(OptionError, match="seed is a whole number"):
        risk_curve(lambda y: y, torch.zeros(2, 5), [0.1], seed=None)
    with pytest.raises(OptionError, match="increasing"):
        kl_bound(lambda y: y, lambda y: y, torch.zeros(2, 5), [0.3, 0.2, 0.1])


@pytest.mark.parametrize("first", [True, False])
def test_what_does_not_keep_the_shape_is_not_spread_over_it(first):
    """A grey output taken from a colour image would be: its error has a number, and no meaning."""
    grey, right = (lambda y: y.mean(1, keepdim=True)), (lambda y: y / 2)
    pair = (grey, right) if first else (right, grey)
    with pytest.raises(ShapeError, match=r"\(3, 3, 4, 4\) to \(3, 1, 4, 4\)"):
        kl_bound(*pair, torch.zeros(3, 3, 4, 4), [0.1, 0.2, 0.4])
    with pytest.raises(NotFiniteError):
        kl_bound(lambda y: y / 0, right, torch.zeros(3, 3, 4, 4), [0.1, 0.2, 0.4])


def test_a_model_in_another_precision_and_keywords_that_it_lacks():
    x = images(3).double()
    net = torch.nn.Linear(d, d)  # float32
    notes = kl_bound(net, net, x, [0.1, 0.2, 0.4]).notes
    assert any("taken to torch.float32" in note for note in notes)
    with pytest.raises(OptionError, match="model_kwargs"):
        kl_bound(lambda y: y, lambda y: y, x, [0.1, 0.2, 0.4], sigma_keyword="level")
    with pytest.raises(OptionError, match="name of a keyword"):
        kl_bound(lambda y: y, lambda y: y, x, [0.1, 0.2, 0.4], sigma_keyword=["level"])
    with pytest.raises(OptionError, match="a str cannot be"):
        kl_bound(lambda y: y, "photos", x, [0.1, 0.2, 0.4])
