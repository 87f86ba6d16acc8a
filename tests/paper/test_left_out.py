"""What the paper leaves out of its figures, beside networks whose Jacobian is known."""

import pytest
import torch

from benchmarks.paper import perturbed, sizes
from benchmarks.paper.contours import INPUTS, Kind, covered
from benchmarks.paper.networks import finite
from benchmarks.paper.perturbed import left_out, wave
from benchmarks.paper.subject import CONTOURS
from denoisers.networks import Denoiser


class Shear(Denoiser, abstract=True):
    """y/2 + <w, y> u, with w the wave of one period and u that of two: J w = w/2 + u, J' != J."""

    channels = 1

    def forward(self, y):
        size = y.shape[-1]
        inner = (y * wave(size, 1, 1)).sum((1, 2, 3), keepdim=True)
        return 0.5 * y + inner * wave(size, 2, 2)


class Told(Shear, abstract=True):
    """The same, of a level that it is told."""

    def forward(self, y, sigma):
        return super().forward(y)


def test_waves_are_of_norm_one_and_keep_that_of_the_noise():
    z = torch.randn((3, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    assert float(wave(16, 2, 2).norm()) == pytest.approx(1, abs=1e-6)
    moved = perturbed.perturbed(z, wave(16, 1, 1))
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
    assert float((moved - z).norm()) > 0.1 * float(z.norm())


def test_of_a_linear_function_the_first_order_is_all():
    z = torch.randn((6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    found = {row.quantity.split(",")[0]: row.here for row in left_out(Told(), z, torch.tensor(1.0))}
    assert found["|f(y') - f(y) - J (y' - y)| / |f(y') - f(y)|"] == pytest.approx(0, abs=1e-5)
    assert found["|J w| of the wave"] == pytest.approx((1 / 4 + 1) ** 0.5, rel=1e-5)
    # On the plane of w and u, J = [[1/2, 0], [1, 1/2]].
    s = torch.linalg.svdvals(torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64))
    assert found["sigma_1"] == pytest.approx(float(s[0]), rel=1e-3)
    assert found["solves whose certificate says complete"] == 1
    assert found["|J - J'| / |J|"] == pytest.approx((2 / (64 / 4 + 1)) ** 0.5, rel=0.25)


def test_a_figure_of_several_networks_looks_at_the_jacobian_of_each(monkeypatch):
    monkeypatch.setitem(sizes.SIDES, "small", (8, 16))
    monkeypatch.setitem(sizes.COUNTS, "small", (10,))
    made = sizes.measure("small", lambda need: Shear())
    assert list(made.audits) == ["8x8, N = 10", "16x16, N = 10"]
    for rows in made.audits.values():
        found = {row.quantity: row.here for row in rows}
        assert found["lambda_1 on images of 4 times the side"] == pytest.approx(1, rel=1e-3)
        assert found["sigma_1 / lambda_1"] == pytest.approx(1.2071, rel=1e-2)


def test_held_out_images_are_not_those_of_training():
    need = finite("small", 100)
    seen, held = torch.from_numpy(CONTOURS.training(need)), CONTOURS.held_out(need)(20, need.config.size)
    assert float(torch.cdist(held.flatten(1), seen.flatten(1)).min()) > 0.1


def test_the_gaussian_reference_rises_with_regularity():
    rough, smooth = (Kind(alpha).reference(4, 8) for alpha in (1.0, 3.0))
    assert smooth.denoised.shape == (len(INPUTS), 4)
    assert (smooth.denoised.mean(1) > rough.denoised.mean(1)).all()
    assert float(smooth.slope()) > 0.6
    assert Kind(2, 8).reference(4, 8) is None


def test_what_a_vector_covers():
    pixel, half = torch.zeros(2, 1, 4, 4)
    pixel[0, 1, 2], half[0, :2] = 1, 8**-0.5
    assert float(covered(pixel[None])) == pytest.approx(1 / 16)
    assert float(covered(torch.stack([half, half]))) == pytest.approx(1 / 2)
