"""Networks that are told the noise level: coefficients, limits, and their Jacobians by the front doors."""

import pytest
import torch

import denoisers
import spectral
from denoisers import weights
from denoisers.networks import EDM, ConditionalUNet, Consistency, UNet
from spectral.errors import OptionError, ShapeError

LEVELS = torch.tensor([0.01, 0.3, 7.0], dtype=torch.float64)


def images(n=3, side=8, channels=1):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)).double()


def network(kind, **options):
    torch.manual_seed(0)
    return kind(8, 2, **options).double().eval().requires_grad_(False)


@pytest.mark.parametrize("kind", [ConditionalUNet, EDM, Consistency])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_one_number_or_one_an_image(kind, channels):
    f, y = network(kind, channels=channels), images(channels=channels)
    each = torch.cat([f(y[i : i + 1], float(LEVELS[i])) for i in range(3)])
    torch.testing.assert_close(f(y, LEVELS), each)
    torch.testing.assert_close(f(y, 0.3), f(y, torch.full((3,), 0.3)))
    with pytest.raises(OptionError, match=r"one number,? or one for each of 3"):
        f(y, LEVELS[:2])
    with pytest.raises(ShapeError, match="multiples of 2"):
        f(y[..., :7], 0.3)


def test_the_formulas():
    """Entry by entry, with an F that can be seen through: F(x, c) = (1 + c) x."""
    body = lambda x, c: (1 + c)[:, None, None, None] * x  # noqa: E731
    y, s, m = images(), 0.25, 0.5
    for i, sigma in enumerate(LEVELS.tolist()):
        x, whole = y[i : i + 1] - m, sigma**2 + s**2
        c = torch.log(torch.tensor(sigma, dtype=torch.float64))
        edm = m + s**2 / whole * x + sigma * s / whole**0.5 * (1 + c / 4) * x / whole**0.5
        torch.testing.assert_close(EDM(body=body)(y[i : i + 1], sigma), edm)
        skip, out = s**2 / ((sigma - 0.001) ** 2 + s**2), (sigma - 0.001) * s / whole**0.5
        consistency = m + skip * x + out * (1 + 250 * c) * x / whole**0.5
        torch.testing.assert_close(Consistency(body=body)(y[i : i + 1], sigma), consistency)
    zero = lambda x, c: torch.zeros_like(x)  # noqa: E731
    report = Consistency(sigma_data=0.5, mean=0.0, sigma_min=0.002, body=zero)
    torch.testing.assert_close(report(y, 1.0), 0.25 / (0.998**2 + 0.25) * y)


def test_limits():
    y = images()
    f = network(Consistency)
    assert (f(y, f.sigma_min) - y).abs().max() < 1e-15
    single = f.float()
    assert (single(y.float(), f.sigma_min) - y.float()).abs().max() < 1e-7
    assert (network(EDM)(y, 1e-9) - y).abs().max() < 1e-7
    assert (network(ConditionalUNet)(y, 1e-9) - y).abs().max() < 1e-7


def test_one_body_serves_denoiser_and_consistency_function():
    """The label is ln sigma in units of its own in both."""
    edm, f = network(EDM), network(Consistency)
    f.body.load_state_dict(edm.body.state_dict())
    x = images()
    labels = [n.coefficients(LEVELS).noise for n in (edm, f)]
    torch.testing.assert_close(edm.body(x, labels[0]), f.body(x, labels[1]))


@pytest.mark.parametrize("kind", [ConditionalUNet, EDM, Consistency])
def test_files_hold_all_that_they_need(kind, tmp_path):
    options = {} if kind is ConditionalUNet else {"sigma_data": 0.3, "mean": 0.4}
    torch.manual_seed(0)
    f = kind(8, 2, **options).eval()
    weights.save(f, tmp_path / "f.safetensors", {})
    y = images().float()
    torch.testing.assert_close(denoisers.load(tmp_path / "f.safetensors")(y, 0.2), f(y, 0.2))


def test_what_cannot_be_built():
    for bad in ({"width": 12}, {"width": 8, "scales": 0}):
        with pytest.raises(OptionError, match="multiple of 8"):
            ConditionalUNet(**bad)
    with pytest.raises(OptionError, match="sigma_data"):
        EDM(8, sigma_data=0)
    with pytest.raises(OptionError, match="sigma_min"):
        Consistency(8, sigma_min=0)


def test_the_svd_of_a_consistency_function_is_that_of_its_dense_jacobian():
    f, y = network(Consistency), images(1, 16)
    dense = torch.func.jacrev(lambda y: f(y, 0.3))(y).view(256, 256)
    exact = torch.linalg.svdvals(dense)
    found = spectral.top_svd(f, y, k=6, tol=1e-8, model_kwargs={"sigma": 0.3})
    torch.testing.assert_close(torch.as_tensor(found.values), exact[:6], rtol=1e-8, atol=0)
    left, right = (v.reshape(6, 256).T for v in (found.left, found.right))
    torch.testing.assert_close(dense @ right, left * found.values, rtol=0, atol=1e-6)


def test_biased_twins_are_not_homogeneous():
    torch.manual_seed(0)
    y = images()
    for biased in (False, True):
        f = UNet(1, 8, biased=biased).double().eval()
        with torch.no_grad():
            for name, p in f.named_parameters():
                if name.endswith("bias"):
                    p.fill_(0.1)
            off = (f(3 * y) - 3 * f(y)).abs().max()
        assert bool(off > 1e-3) is biased
