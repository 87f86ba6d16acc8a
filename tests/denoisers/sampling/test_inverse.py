"""Constrained ascent: every kind of measurement is met, and the shipped network beats what needs no prior."""

import pytest
import torch

import denoisers
from denoisers.evaluation import psnr
from denoisers.images import photograph
from denoisers.sampling import BlockAverage, Frequencies, Inpainting, RandomProjections
from denoisers.sampling.constraint import Constraint
from spectral import as_operator
from spectral.errors import NotFiniteError, NotSymmetricError, OptionError, ShapeError

SHAPE = (2, 8, 8)
x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
GREY = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) < 0.3
COLOUR = torch.rand(*SHAPE, generator=torch.Generator().manual_seed(1)) < 0.3
READY = {
    "mask": Inpainting(GREY),
    "mask of channels": Inpainting(COLOUR),
    "hole": Inpainting.hole(8, 3),
    "pixels": Inpainting.random(8, 0.2, 1),
    "blocks": BlockAverage(4),
    "projections": RandomProjections(20, SHAPE, 1),
    "low frequencies": Frequencies.low_pass(8, 2),
    "frequencies": Frequencies.random(8, 0.3, 1),
}


def smooth(y):
    """A blind linear denoiser: half of the way to the mean of the image."""
    return y + 0.9 * (y.mean((1, 2, 3), keepdim=True) - y)


def matrix(measurement):
    """A as a matrix (r, n), from its images of the unit vectors."""
    eye = torch.eye(128).view(128, *SHAPE)
    return measurement.measure(eye).flatten(1).T


@pytest.mark.parametrize("name", READY)
def test_ready_measurements_are_orthogonal_and_have_their_transpose(name):
    m = READY[name]
    A = matrix(m)
    values = m.measure(x)
    torch.testing.assert_close(m.adjoint(values).flatten(1), values.flatten(1) @ A, rtol=1e-4, atol=1e-5)
    gram, c = A @ A.T, 1 / 16 if name == "blocks" else 1.0
    torch.testing.assert_close(gram, c * torch.eye(len(A)), rtol=0, atol=1e-5)


def test_frequencies_are_those_of_fourier():
    """The projection on Hartley coefficients keeps the Fourier coefficients at the same places, no others."""
    m = READY["low frequencies"]
    kept = torch.fft.fft2(m.adjoint(m.measure(x)))
    k = torch.fft.fftfreq(8, 1 / 8)
    low = torch.hypot(k[:, None], k) <= 2
    torch.testing.assert_close(kept, torch.fft.fft2(x) * low, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", READY)
def test_the_constraint_holds(name):
    values = READY[name].measure(x)
    found = denoisers.solve(smooth, READY[name], values, beta=0.5, h0=0.1, sigma_end=0.3, max_steps=200)
    assert (READY[name].measure(found.images) - values).abs().max() < 1e-5
    assert found.images.shape == x.shape


class Physics:
    """As deepinv's linear physics are called."""

    A = staticmethod(BlockAverage(2).measure)
    A_adjoint = staticmethod(BlockAverage(2).adjoint)


def test_every_way_to_give_one_is_the_same():
    blocks = BlockAverage(2)
    options = {"beta": 0.5, "h0": 0.1, "max_steps": 20}
    expected = denoisers.solve(smooth, blocks, blocks.measure(x), **options).images
    dense = as_operator(matrix(blocks).double())
    flat = blocks.measure(x).flatten(1)
    for measurement, values, more in [
        ((blocks.measure, blocks.adjoint), blocks.measure(x), {}),
        (Physics(), blocks.measure(x), {}),
        (dense, flat, {"shape": SHAPE}),
        (as_operator(7 * matrix(blocks)), 7 * flat, {"shape": SHAPE}),
    ]:
        found = denoisers.solve(smooth, measurement, values, **options, **more)
        torch.testing.assert_close(found.images, expected, rtol=1e-3, atol=1e-4)


def test_rows_that_are_not_orthogonal_are_made_so():
    """P x = x + A^+ (v - A x), with a repeated row too; values that contradict it are refused."""
    A = torch.randn(10, 128, generator=torch.Generator().manual_seed(2))
    A[9] = A[0]
    target = x.flatten(1) @ A.T
    constraint = Constraint(lambda v: v.flatten(1) @ A.T, lambda u: (u @ A).unflatten(1, SHAPE), target)
    start = torch.zeros(3, *SHAPE)
    expected = target @ torch.linalg.pinv(A).T
    torch.testing.assert_close(
        constraint.project(start, torch.ones(3), torch.arange(3)).flatten(1), expected, rtol=1e-3, atol=1e-4
    )
    found = denoisers.solve(smooth, as_operator(A), target, shape=SHAPE, max_steps=3)
    torch.testing.assert_close(found.images.flatten(1) @ A.T, target, rtol=1e-3, atol=1e-3)
    target[:, 9] += 1
    with pytest.raises(OptionError, match="no image has these values"):
        denoisers.solve(smooth, as_operator(A), target, shape=SHAPE)


def test_draws_of_a_gaussian_prior_given_pixels():
    """Half of the pixels known, a prior of one image: what is not known comes out as that image."""
    image = x[:1]
    known = Inpainting(GREY)
    values = known.measure(x[1:2])
    found = denoisers.solve(image.expand_as, known, values.expand(2, -1, -1), beta=0.5, h0=0.1)
    expected = torch.where(GREY, x[1:2], image)
    torch.testing.assert_close(found.images, expected.expand(2, *SHAPE), rtol=0, atol=1e-6)
    assert found.converged.all()


def test_an_image_is_the_same_in_any_batch():
    blocks = BlockAverage(2)
    options = {"beta": 0.5, "h0": 0.1, "max_steps": 30, "seed": 5}
    whole = denoisers.solve(smooth, blocks, blocks.measure(x), **options)
    part = denoisers.solve(smooth, blocks, blocks.measure(x[1:2]), first=1, **options)
    torch.testing.assert_close(part.images, whole.images[1:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["superres", "inpaint"])
def test_the_shipped_network_beats_interpolation(name):
    """4x super-resolution against bicubic, and a hole against the mean of what is around it."""
    model = denoisers.load("photos")
    if name == "superres":
        truth = torch.from_numpy(photograph())[..., 100:148, 100:148]
        m = BlockAverage(4)
        plain = torch.nn.functional.interpolate(m.measure(truth), scale_factor=4, mode="bicubic")
    else:
        truth = torch.from_numpy(photograph())[..., 108:140, 100:132]
        m = Inpainting.hole(32, 8)
        around = truth[..., 11:21, 11:21].clone()
        around[..., 1:-1, 1:-1] = torch.nan
        plain = torch.where(m.mask, truth, around.nanmean())
    found = denoisers.solve(model, m, m.measure(truth), sigma_end=0.02, beta=0.5)
    assert psnr(truth, found.images).item() > psnr(truth, plain).item() + 1
    assert (m.measure(found.images) - m.measure(truth)).abs().max() < 1e-5
    assert found.converged.all()


def spread(values):
    """A transpose of sums, not of averages."""
    return values.repeat_interleave(2, 2).repeat_interleave(2, 3)


def many(r):
    """A of r rows that are no multiple of an isometry, as functions."""
    weights = torch.linspace(1, 2, r)
    return lambda v: v.flatten(1)[:, :r] * weights, lambda u: (u * weights).unflatten(1, (1, 64, r // 64))


@pytest.mark.parametrize(
    ("measurement", "values", "options", "error", "message"),
    [
        (3, x, {}, OptionError, "object with measure"),
        (RandomProjections(5, SHAPE), x.flatten(1), {}, ShapeError, "does not take values"),
        (Inpainting(GREY), x.flatten(1), {}, ShapeError, "does not take values"),
        ((lambda v: v[..., 0], lambda u: u[..., None, :]), x[:, 0], {}, ShapeError, "of an image has shape"),
        (BlockAverage(2), x[0, 0, 0], {}, ShapeError, "one row per image"),
        (BlockAverage(2), x[:, :, :4, :4] * torch.nan, {}, NotFiniteError, "hold NaN"),
        (BlockAverage(2), x[:, :, :4, :4], {"shape": (1, 8, 8)}, ShapeError, "not"),
        ((BlockAverage(2).measure, spread), x[:, :, :4, :4], {}, NotSymmetricError, "not the transpose"),
        (as_operator(torch.eye(128)), x.flatten(1), {}, OptionError, "tell the image's shape"),
        (as_operator(torch.eye(128)), x.flatten(1), {"shape": (1, 8, 8)}, ShapeError, "has 64 entries"),
        (BlockAverage(2), x[:, :, :4, :4] * 1j, {}, OptionError, "values are real: of complex ones give"),
        (many(4096), torch.ones(1, 4096), {}, OptionError, "give M' with orthonormal columns"),
    ],
)
def test_bad_measurements(measurement, values, options, error, message):
    with pytest.raises(error, match=message):
        denoisers.solve(smooth, measurement, values, **{"max_steps": 2} | options)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Inpainting(torch.zeros(4, 4, dtype=torch.bool)), OptionError),
        (lambda: Inpainting(torch.ones(4, 4)), OptionError),
        (lambda: Inpainting(torch.ones(4, dtype=torch.bool)), ShapeError),
        (lambda: Inpainting.hole(8, 8), OptionError),
        (lambda: Inpainting.random(8, 1.5), OptionError),
        (lambda: Inpainting.hole(4, 2).measure(x), ShapeError),
        (lambda: BlockAverage(0), OptionError),
        (lambda: BlockAverage(3).measure(x), ShapeError),
        (lambda: RandomProjections(129, SHAPE), OptionError),
        (lambda: RandomProjections(5, (1, 4, 4)).measure(x), ShapeError),
        (lambda: Frequencies(torch.ones(4, 4)), OptionError),
        (lambda: Frequencies.low_pass(4, 1).measure(x), ShapeError),
    ],
)
def test_bad_ready_ones(make, error):
    with pytest.raises(error):
        make()
