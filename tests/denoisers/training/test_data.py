import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from denoisers.training import TrainConfig, clean_batches, data, noisy_batch
from denoisers.training.config import GENERATED
from denoisers.training.data import generator
from spectral.errors import FileContentError, OptionError, ShapeError

TINY = TrainConfig(data="calpha", network_config={"blocks": 1, "width": 4}, size=8, batch=4, steps=12)


def pictures(folder, count=1, colour=False, side=(20, 30)):
    pixels = np.random.default_rng(0).integers(
        0, 256, (count, *side, *([3] if colour else [])), dtype=np.uint8
    )
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{i}.png")
    return pixels


@pytest.mark.parametrize(
    ("noise", "mean"),
    [
        ("uniform", 1 / 2),
        ("squared", 1 / 3),
        ("fixed", 1.0),
        ("log-uniform", (1 - 0.01 / 0.6) / np.log(60)),
        ("log-normal", np.exp(-3 + 0.3**2 / 2) / 0.6),
    ],
)
def test_noise_levels_follow_their_law(noise, mean):
    config = replace(TINY, noise=noise, sigma_min=0.01, sigma_max=0.6, log_mean=-3.0, log_sd=0.3, batch=4000)
    clean = np.zeros((4000, 1, 8, 8), dtype=np.float32)
    x, sigma, z = noisy_batch(config, clean, step=0)
    assert not x.any() and sigma.shape == (4000,) and sigma.dtype == z.dtype == torch.float32
    assert float(sigma.mean()) / 0.6 == pytest.approx(mean, abs=0.02)
    assert float(sigma.max()) <= np.float32(0.6) and float(z.std()) == pytest.approx(1, abs=0.01)
    assert not torch.equal(z, noisy_batch(config, clean, step=1)[2])


@pytest.mark.parametrize("where", GENERATED)
def test_batches_differ_by_step_and_not_by_call(where):
    batches = clean_batches(replace(TINY, data=where))
    np.testing.assert_array_equal(batches(3), batches(3))
    assert not np.array_equal(batches(3), batches(4))
    assert batches(0).shape == (4, 1, 8, 8)
    with pytest.raises(OptionError, match="grey"):
        clean_batches(replace(TINY, data=where, network_config={"channels": 3}))


def test_patches_of_pictures(tmp_path):
    pixels = pictures(tmp_path)
    batch = clean_batches(replace(TINY, data=str(tmp_path)))(0)
    assert np.isin(np.rint(255 * batch), pixels).all()


def test_patches_of_a_folder_beside_the_photographs(tmp_path, monkeypatch):
    pixels = pictures(tmp_path)
    outside = 2 + np.random.default_rng(1).random((1, 40, 50), np.float32)
    monkeypatch.setattr(data, "training_photographs", lambda colour: [outside, outside, outside])
    both = replace(TINY, data=f"photos+{tmp_path}", batch=400)
    batch = clean_batches(both)(0)
    of_the_folder = (batch < 2).all((1, 2, 3))
    assert np.isin(np.rint(255 * batch[of_the_folder]), pixels).all() and (batch[~of_the_folder] >= 2).all()
    assert 0.15 < of_the_folder.mean() < 0.35  # a quarter: each picture is as likely
    once = clean_batches(replace(both, images=6, batch=6))
    assert len({once(step).tobytes() for step in range(9)}) > 1
    assert len({image.tobytes() for step in range(9) for image in once(step)}) == 6
    with pytest.raises(OptionError, match="cache"):
        clean_batches(replace(both, images=6), cache=tmp_path / "cache.npz")
    with pytest.raises(FileNotFoundError, match="in nowhere: no such folder"):
        clean_batches(replace(both, data="photos+nowhere"))


@pytest.mark.parametrize("name", ["", "photos+"])
def test_no_name_is_not_the_folder_at_hand(tmp_path, monkeypatch, name):
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "training_photographs", lambda colour: [np.zeros((1, 40, 50), np.float32)])
    with pytest.raises(OptionError, match=f"names no pictures, '{re.escape(name)}'"):
        clean_batches(replace(TINY, data=name))


def test_patches_of_colour_pictures(tmp_path):
    pixels = pictures(tmp_path, colour=True)
    batch = clean_batches(replace(TINY, data=str(tmp_path), network_config={"channels": 3}))(0)
    assert batch.shape == (4, 3, 8, 8)
    colours = {tuple(p) for p in pixels.reshape(-1, 3)}
    found = np.rint(255 * batch).astype(int).transpose(0, 2, 3, 1).reshape(-1, 3)
    assert all(tuple(p) in colours for p in found)


def test_pictures_that_cannot_be_used(tmp_path):
    config = replace(TINY, data=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no pictures"):
        clean_batches(config)
    pictures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(FileContentError, match=r"broken\.png is not a picture"):
        clean_batches(config)
    (tmp_path / "broken.png").unlink()
    with pytest.raises(ShapeError, match=r"0\.png is 20x30, and patches have 24"):
        clean_batches(replace(config, size=24))


@pytest.mark.parametrize("where", ["calpha", "folder"])
def test_two_finite_sets(tmp_path, where):
    """Each pass goes through all images, each once; the two have none in common."""
    pictures(tmp_path, 20)
    config = replace(TINY, data=str(tmp_path) if where == "folder" else where, images=8)
    sets = []
    for half in ("first", "second"):
        batches = clean_batches(replace(config, half=half))
        passes = [np.concatenate([batches(2 * p), batches(2 * p + 1)]) for p in range(3)]
        seen = [{image.tobytes() for image in one} for one in passes]
        assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 8
        assert not np.array_equal(passes[0], passes[1])
        sets.append(seen[0])
    assert not sets[0] & sets[1]
    several = clean_batches(replace(config, batch=20))(0)
    assert {image.tobytes() for image in several[:8]} == {image.tobytes() for image in several} == sets[0]
    if where == "folder":
        with pytest.raises(OptionError, match="need 22"):
            clean_batches(replace(config, images=11))


def test_order_and_noise_share_no_stream():
    draws = {
        (step, purpose): float(generator(1, step, purpose).random())
        for step in range(50)
        for purpose in ("order", "noise")
    }
    assert len(set(draws.values())) == 100


def test_a_folder_is_read_from_its_cache(tmp_path, monkeypatch):
    for i in range(4):
        Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    config = TrainConfig(data=str(tmp_path), images=2, batch=2, size=8)
    kept = tmp_path / "pictures.safetensors"
    batch = clean_batches(config, kept)(0)
    monkeypatch.setattr("denoisers.images.pictures.read_grey", None)
    np.testing.assert_array_equal(clean_batches(config, kept)(0), batch)
    for endless in (TrainConfig(data="disks"), TrainConfig(data=str(tmp_path))):
        with pytest.raises(OptionError, match=r"^cache= is for a folder"):
            clean_batches(endless, kept)
