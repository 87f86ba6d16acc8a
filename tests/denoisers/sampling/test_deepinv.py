"""Physics of the package deepinv itself, where it is installed: their maps, their transposes, their noise."""

import pytest
import torch

import denoisers
from denoisers.evaluation import psnr
from denoisers.images import photograph
from denoisers.sampling.constraint import Constraint
from denoisers.sampling.measurement import functions_of, noise_of
from spectral.errors import OptionError

deepinv = pytest.importorskip("deepinv")
physics = deepinv.physics
KINDS = ["Inpainting", "Demosaicing", "Downsampling", "Blur", "BlurFFT", "CompressedSensing"]
TAU = 0.1


def made(kind, side=8, channels=1, noise=None):
    """Physics of images (channels, side, side), with Gaussian noise TAU unless another is given."""
    shape = channels, side, side
    generator = torch.Generator().manual_seed(0)
    noise = noise or physics.GaussianNoise(TAU, rng=torch.Generator().manual_seed(1))
    filter = (
        deepinv.physics.functional.gaussian_blur(sigma=(1.0, 1.0)) if side > 8 else torch.ones(1, 1, 3, 3) / 9
    )
    mask = (torch.rand(1, side, side, generator=generator) > 0.4).float()
    return {
        "Inpainting": lambda: physics.Inpainting(shape, mask=mask, noise_model=noise),
        "Demosaicing": lambda: physics.Demosaicing((3, side, side), noise_model=noise),
        "Downsampling": lambda: physics.Downsampling(
            shape, factor=2, filter="bicubic", padding="circular", noise_model=noise
        ),
        "Blur": lambda: physics.Blur(filter, padding="circular", noise_model=noise),
        "BlurFFT": lambda: physics.BlurFFT(shape, filter=filter, noise_model=noise),
        "CompressedSensing": lambda: physics.CompressedSensing(
            m=20 * channels, img_size=shape, rng=generator, noise_model=noise
        ),
    }[kind]()


def images(kind, channels):
    n = 3 if kind == "Demosaicing" else channels
    return torch.rand(2, n, 8, 8, generator=torch.Generator().manual_seed(2))


def smooth(y):
    """A blind linear denoiser: half of the way to the mean of the image."""
    return y + 0.9 * (y.mean((1, 2, 3), keepdim=True) - y)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_values_are_met_where_there_is_no_noise(kind, channels):
    A, x = made(kind, channels=channels, noise=physics.ZeroNoise()), images(kind, channels)
    values = A(x)
    found = denoisers.solve(smooth, A, values, beta=0.5, h0=0.2, max_steps=20)
    torch.testing.assert_close(A.A(found.images), values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_is_deepinv_s_own(kind, channels):
    """argmin |x - f|^2 / 2 + gamma |A x - v|^2 / 2 with gamma = (sigma / tau)^2, by its `prox_l2`."""
    A, f = made(kind, channels=channels), images(kind, channels)
    values = A(f + 0.3)
    tau, sigma = noise_of(A, None, 2), torch.full((2,), 0.2)
    assert tau.tolist() == pytest.approx([TAU] * 2)
    pulled = Constraint(*functions_of(A, None), values, tau).project(f, sigma, torch.arange(2))
    if kind == "CompressedSensing":
        A.set_ls_solver("CG", max_iter=500, tol=1e-6)
    torch.testing.assert_close(pulled, A.prox_l2(f, values, (0.2 / TAU) ** 2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_its_noise_is_taken_for_the_values(kind):
    """Draws of A(x), which deepinv makes noisy, are those that are told the same noise, and do not fit it."""
    A, x = made(kind), images(kind, 1)
    values = A(x)
    options = {"beta": 0.5, "h0": 0.2, "max_steps": 40}
    found = denoisers.solve(smooth, A, values, **options)
    told = denoisers.solve(smooth, (A.A, A.A_adjoint), values, noise=TAU, **options)
    assert torch.equal(found.images, told.images) and "noise 0.1" in found.method
    exact = denoisers.solve(smooth, A, values, noise=0.1 * TAU, **options)
    off, less = ((A.A(each.images) - values).norm().item() for each in (found, exact))
    assert off > 2 * less


def test_noise_that_is_not_gaussian_is_refused():
    A = made("Blur", noise=physics.PoissonNoise(0.1))
    values = A(images("Blur", 1))
    with pytest.raises(OptionError, match="noise is PoissonNoise"):
        denoisers.solve(smooth, A, values)
    assert denoisers.solve(smooth, A, values, noise=0.2, max_steps=2).steps.tolist() == [2, 2]


def test_noise_of_each_image():
    A = made("Inpainting", noise=physics.GaussianNoise(torch.tensor([0.1, 0.3])))
    assert noise_of(A, None, 2).tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("kind", ["Inpainting", "Downsampling", "BlurFFT"])
def test_photographs_of_4096_pixels(kind):
    """By the shipped network: a residual of about tau sqrt(r), and a better image than A' v or v itself."""
    truth = torch.from_numpy(photograph())[..., 100:164, 100:164]
    A = made(kind, side=64)
    values = A(truth)
    found = denoisers.solve(denoisers.load("photos"), A, values, beta=0.3)
    r = A.mask.sum().item() if kind == "Inpainting" else values.numel()
    assert (A.A(found.images) - values).norm().item() / r**0.5 == pytest.approx(TAU, rel=0.15)
    back = A.A_adjoint(values) * (4 if kind == "Downsampling" else 1)
    assert psnr(truth, found.images).item() > psnr(truth, back).item() + 2
