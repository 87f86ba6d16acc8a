"""PSNR against its definition, and the table against a denoiser whose PSNR is known in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers import evaluation
from denoisers.evaluation import add_noise, denoise, psnr, psnr_table


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32))
def test_psnr_is_its_definition_image_by_image(n, channels, side, seed):
    rng = np.random.default_rng(seed)
    x, xhat = rng.random((2, n, channels, side, side))
    expected = [10 * np.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(x, xhat, strict=True)]
    np.testing.assert_allclose(psnr(torch.from_numpy(x), torch.from_numpy(xhat)), expected, rtol=1e-12)


def test_psnr_clips_nothing_and_is_infinite_at_equality():
    x = torch.ones(1, 1, 2, 2)
    assert float(psnr(x, x + 2)) == pytest.approx(-20 * np.log10(2))
    assert torch.isinf(psnr(x, x)).all()


def test_psnr_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="same shape"):
        psnr(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_noise_has_the_level_asked_and_is_the_same_at_every_level():
    clean = torch.rand(1, 1, 200, 200)
    small, large = (add_noise(clean, s, seed=3) - clean for s in (0.1, 0.5))
    torch.testing.assert_close(5 * small, large, atol=1e-5, rtol=0)
    assert float(small.std()) == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(small, add_noise(clean, 0.1, seed=4) - clean)
    with pytest.raises(ValueError, match="sigma must be positive"):
        add_noise(clean, 0, seed=0)


def test_table_of_shrinkage_has_its_closed_form():
    # x = 0: y / 2 leaves a quarter of the noise's energy, 6.02 dB.
    rows = psnr_table(lambda y: y / 2, np.zeros((3, 1, 64, 64), dtype=np.float32), [0.1, 0.2])
    for row in rows:
        assert row.denoised - row.noisy == pytest.approx(20 * np.log10(2), abs=1e-4)
        assert row.noisy == pytest.approx(-20 * np.log10(row.sigma), abs=0.1)


def test_table_averages_decibels_over_images():
    images = torch.zeros(2, 1, 8, 8)
    gains = torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)
    (row,) = psnr_table(lambda y: y * gains, images, [0.1])
    noisy = psnr(images, add_noise(images, 0.1, 0))
    assert row.denoised == pytest.approx(float((noisy + torch.tensor([0.0, 20.0])).mean()), abs=1e-4)


def test_chunks_do_not_change_what_is_denoised(monkeypatch):
    y = torch.rand(7, 1, 8, 8)
    monkeypatch.setattr(evaluation, "CHUNK_PIXELS", 128)
    calls = []

    def model(chunk):
        calls.append(len(chunk))
        return 2 * chunk

    torch.testing.assert_close(denoise(model, y), 2 * y)
    assert calls == [2, 2, 2, 1]
