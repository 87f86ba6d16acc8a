"""The networks that ship: small, described, and as good as promised."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import denoisers
import spectral
from benchmarks.quality import LAB_DNCNN, beside_reference, calpha_rows
from denoisers import weights
from denoisers.card import command, write_card
from denoisers.evaluation import psnr_table
from denoisers.images import Patches, Shuffled, photograph
from denoisers.sampling import consistency
from denoisers.training import TrainConfig
from denoisers.training.validation import held_out


def test_six_networks_ship():
    names = ["calpha", "calpha-2", "calpha-3", "consistency", "photos", "photos-colour"]
    assert denoisers.available() == names
    assert sum((weights.FOLDER / f"{name}.safetensors").stat().st_size for name in names) < 16e6


@pytest.mark.parametrize("name", denoisers.available())
def test_they_are_small_and_have_a_card(name):
    path = weights.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 4e6
    card = path.with_suffix(".md").read_text()
    for needed in ("Data:", "Noise:", "Training:", f"`{command(name, trained_by(path))}`", "| 0.05 |"):
        assert needed in card


def trained_by(path: Path):
    return TrainConfig(**json.loads(weights.read(path)[1]["training"]))


@pytest.mark.parametrize("name", denoisers.available())
def test_they_load_ready_to_use(name):
    model = denoisers.load(name)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    y = torch.rand(1, model.channels, 3 * model.side_multiple, 7 * model.side_multiple)
    if model.told:
        assert torch.isfinite(model(y, 0.3)).all()
    else:
        assert torch.isfinite(model(y)).all()
        torch.testing.assert_close(model(3 * y), 3 * model(y), rtol=1e-4, atol=1e-4)


def test_the_consistency_function():
    """It leaves images alone at the least level, draws in one step, and its spectrum is the dense one's."""
    f = denoisers.load("consistency")
    y = torch.from_numpy(photograph()[..., 60:76, 180:196])
    torch.testing.assert_close(f(y, f.sigma_min), y, rtol=0, atol=1e-6)
    y = y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    found = spectral.top_svd(f, y, 6, model_kwargs={"sigma": 0.3})
    J = torch.autograd.functional.jacobian(lambda y: f.double()(y, 0.3), y.double()).reshape(256, 256)
    torch.testing.assert_close(found.values.double(), torch.linalg.svdvals(J)[:6], rtol=1e-4, atol=0)
    drawn = consistency(denoisers.load("consistency"), (1, 32, 32), 4).images
    assert 0.3 < drawn.mean() < 0.7 and drawn.std() > 0.05


@pytest.mark.slow
def test_calpha_beats_the_best_db4_threshold_by_5_db():
    for row, db4, _, _ in calpha_rows(48):
        assert row.denoised >= db4 + 5, f"sigma {row.sigma}: {row.denoised:.2f} dB against {db4:.2f} dB"


@pytest.mark.slow
@pytest.mark.skipif(not LAB_DNCNN.exists(), reason="the lab's networks are not at ../shared/data/lab")
def test_photos_comes_within_0_3_db_of_the_bias_free_dncnn():
    (ours,) = psnr_table(denoisers.load("photos"), photograph(), [25 / 255])
    (lab,) = psnr_table(denoisers.load(LAB_DNCNN), photograph(), [25 / 255])
    assert ours.denoised >= lab.denoised - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [2.0, 3.0])
def test_calpha_comes_within_0_7_db_of_the_gaussian_reference(alpha):
    reference, found = beside_reference(alpha)
    assert found[f"calpha-{alpha:g}"].denoised >= reference - 0.7


@pytest.mark.parametrize(("name", "colour"), [("photos", False), ("photos-colour", True)])
def test_photos_gain_on_the_photograph_at_every_level(name, colour):
    for row in psnr_table(denoisers.load(name), photograph(colour), [0.05, 0.1, 0.3]):
        assert row.denoised > row.noisy + 5.5


@pytest.mark.parametrize(
    ("data", "channels", "begins", "ends"),
    [
        ("photos+runs/wallpapers", 1, "Random patches, turned and reflected, of 50", "Engelhardt (CC0)."),
        ("photos+runs/wallpapers/", 3, "Random patches, turned and reflected, of 44", "Engelhardt (CC0)."),
        ("photos+a+b", 1, "Random patches, turned and reflected, of 50", "them. And pictures of a+b."),
        ("pictures", 1, "pictures of pictures.", "pictures of pictures."),
    ],
)
def test_a_card_credits_all_pictures(tmp_path, data, channels, begins, ends):
    given = {"blocks": 1, "width": 1, "channels": channels}
    config = TrainConfig(data, network_config=given)
    told = {"training": config.to_json(), "training_seconds": "0"}
    weights.save(weights.build("UNet", given), tmp_path / "weights.safetensors", told)
    (line,) = (line for line in write_card(tmp_path).read_text().splitlines() if "- Data" in line)
    assert line.startswith(f"- Data: {begins}") and line.endswith(ends)


@pytest.mark.parametrize(
    ("seconds", "words"), [("17", "17 seconds"), ("89", "89 seconds"), ("600", "10 minutes")]
)
def test_a_card_tells_a_short_training_in_seconds_and_no_option_that_did_nothing(tmp_path, seconds, words):
    given = {"blocks": 1, "width": 1}
    config = TrainConfig("disks", network_config=given, alpha=3.0, log_sd=0.5)
    told = {"training": config.to_json(), "training_seconds": seconds}
    weights.save(weights.build("UNet", given), tmp_path / "weights.safetensors", told)
    card = write_card(tmp_path).read_text()
    assert f"; {words} of wall clock." in card
    assert "--data disks" in card and "--alpha" not in card and "--log-sd" not in card


def test_what_learned_from_shuffled_pictures_is_measured_on_shuffled_ones():
    config = TrainConfig("photos", size=16, shuffled=True)
    images, described = held_out(config, 1)
    assert described == "64 patches of 16x16 of the shipped photograph, shuffled"
    patches = Shuffled(Patches([photograph()[0]], 16)).restore(images.numpy())
    values = set(np.unique(photograph()).tolist())
    assert images.shape == (64, 1, 16, 16) and set(np.unique(patches).tolist()) <= values
    steps = [np.abs(np.diff(of, axis=3)).mean() for of in (images.numpy(), patches)]
    assert steps[1] < steps[0] / 2


@pytest.mark.parametrize(
    "name",
    [  # one of them goes through its network four times
        pytest.param(name, marks=pytest.mark.slow) if name == "calpha-3" else name
        for name in denoisers.available()
    ],
)
def test_a_card_says_what_its_weights_record(name, tmp_path):
    """As `write_card` would write it today; another CPU may round the last digit of a decibel otherwise."""
    shutil.copy(weights.FOLDER / f"{name}.safetensors", tmp_path)
    card = write_card(tmp_path / f"{name}.safetensors").read_text().splitlines()
    told = (weights.FOLDER / f"{name}.md").read_text().splitlines()
    assert [line for line in card if not line.startswith("| 0")] == [
        line for line in told if not line.startswith("| 0")
    ]
    for mine, kept in zip(card, told, strict=True):
        if mine.startswith("| 0"):
            decibels = [[float(cell) for cell in line.strip("| ").split("|")] for line in (mine, kept)]
            assert decibels[0] == pytest.approx(decibels[1], abs=0.011)
