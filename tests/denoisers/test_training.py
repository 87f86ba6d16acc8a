"""Training: bits that survive interruption, noise laws, schedules, calibration, and that it learns."""

import io
import os
import signal
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from denoisers import training
from denoisers.evaluation import psnr_table
from denoisers.images.calpha import synthesize
from denoisers.networks import BiasFreeNorm, UNet
from denoisers.training import (
    TrainConfig,
    calibrate,
    clean_batches,
    learning_rate,
    noisy_batch,
    train,
)
from spectral.errors import CheckpointError, OptionError

TINY = TrainConfig(
    data="calpha", network_config={"blocks": 1, "width": 4}, size=8, batch=4, steps=12, halvings=2
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(training, "CALIBRATION_BATCHES", 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_bits(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def interrupted_at(step, monkeypatch, number=signal.SIGINT):
    """Send a signal while the batch of a step is made."""
    original = training.clean_batches

    def patched(config):
        batches = original(config)

        def wrapped(s):
            if s == step:
                os.kill(os.getpid(), number)
            return batches(s)

        return wrapped

    monkeypatch.setattr(training, "clean_batches", patched)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("network", ["UNet", "BFCNN"])
def test_interrupted_and_resumed_is_bit_identical(tmp_path, monkeypatch, number, network):
    arguments = {"UNet": {"blocks": 1, "width": 4}, "BFCNN": {"layers": 3, "width": 4}}
    config = replace(TINY, network=network, network_config=arguments[network])
    whole = train(config, tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch:
        interrupted_at(6, patch, number)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 7; resume from"):
            train(config, tmp_path / "parts.safetensors")
    assert not (tmp_path / "parts.safetensors").exists()
    parts = train(config, tmp_path / "parts.safetensors", resume=True)
    assert same_bits(whole, parts)
    assert not (tmp_path / "parts.checkpoint").exists()


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(TINY, tmp_path / "a.safetensors")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_crash_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole.safetensors")
    original = training.clean_batches

    def failing(config):
        batches = original(config)
        return lambda step: batches(step) if step != 7 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(training, "clean_batches", failing)
        with pytest.raises(ZeroDivisionError):
            train(TINY, tmp_path / "a.safetensors", checkpoint_every=5)
    assert torch.load(tmp_path / "a.checkpoint", weights_only=True)["step"] == 5
    assert same_bits(whole, train(TINY, tmp_path / "a.safetensors", resume=True))


def test_another_seed_gives_another_network(tmp_path):
    a = train(TINY, tmp_path / "a.safetensors")
    assert same_bits(a, train(TINY, tmp_path / "b.safetensors"))
    assert not same_bits(a, train(replace(TINY, seed=2), tmp_path / "c.safetensors"))


def test_training_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(TINY, tmp_path / "a.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_resuming_asks_for_the_same_configuration(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "a.safetensors")
    with pytest.raises(FileExistsError, match="unfinished run"):
        train(TINY, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="another configuration"):
        train(replace(TINY, batch=5), tmp_path / "a.safetensors", resume=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(TINY, tmp_path / "b.safetensors", resume=True)


def test_it_learns(tmp_path):
    config = replace(
        TINY, network_config={"blocks": 1, "width": 16}, size=16, batch=16, steps=150, sigma_max=0.5
    )
    model = train(config, tmp_path / "a.safetensors")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    (row,) = psnr_table(model, synthesize(32, size=16, alpha=2), [0.2])
    assert row.denoised > row.noisy + 3


@pytest.mark.parametrize(("noise", "mean"), [("uniform", 1 / 2), ("squared", 1 / 3)])
def test_noise_levels_follow_their_law(noise, mean):
    config = replace(TINY, noise=noise, sigma_max=0.6, batch=4000)
    clean = np.zeros((4000, 1, 8, 8), dtype=np.float32)
    x, y = noisy_batch(config, clean, step=0)
    assert not x.any()
    levels = y.square().mean((1, 2, 3)).sqrt() / 0.6
    assert float(levels.mean()) == pytest.approx(mean, abs=0.02)
    assert 0.9 < float(levels.max()) < 1.4
    assert not torch.equal(y, noisy_batch(config, clean, step=1)[1])


def test_batches_differ_by_step_and_not_by_call():
    batches = clean_batches(TINY)
    np.testing.assert_array_equal(batches(3), batches(3))
    assert not np.array_equal(batches(3), batches(4))
    assert batches(0).shape == (4, 1, 8, 8)


def test_a_folder_of_pictures_trains(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    batch = clean_batches(replace(TINY, data=str(tmp_path)))(0)
    assert np.isin(np.rint(255 * batch), pixels).all()
    train(replace(TINY, data=str(tmp_path), steps=2), tmp_path / "a.safetensors")


def test_learning_rate_is_halved_at_equal_distances():
    config = replace(TINY, steps=12, halvings=2, learning_rate=1.0)
    assert [learning_rate(config, s) for s in range(12)] == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_the_schedule_reaches_the_optimiser(tmp_path):
    constant, halved = (
        train(replace(TINY, halvings=h), tmp_path / f"{h}.safetensors").state_dict() for h in (0, 2)
    )
    assert not all(torch.equal(constant[k], halved[k]) for k in constant)


def test_patches_and_noise_share_no_stream():
    draws = {
        (step, purpose): float(training._generator(1, step, purpose).random())
        for step in range(50)
        for purpose in ("patches", "noise")
    }
    assert len(set(draws.values())) == 100


def test_calibration_is_the_mean_of_the_batches_deviations():
    torch.manual_seed(0)
    model = UNet(1, 4).train()
    batches = list(torch.rand(5, 3, 1, 8, 8))
    first = next(m for m in model.modules() if isinstance(m, BiasFreeNorm))
    inputs = []
    handle = first.register_forward_pre_hook(lambda _, x: inputs.append(x[0].clone()))
    calibrate(model, batches)
    handle.remove()
    sds = [(x.var((0, 2, 3), correction=0) + 1e-5).sqrt() for x in inputs]
    torch.testing.assert_close(first.running_sd, torch.stack(sds).mean(0))
    assert first.momentum == 0.1


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"batch": 0}, {"halvings": -1}, {"noise": "gaussian"}, {"sigma_max": 0.0}, {"seed": -1}],
)
def test_configurations_that_make_no_sense_are_refused(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        replace(TINY, **bad)


def test_unknown_networks_are_refused(tmp_path):
    with pytest.raises(OptionError, match="no network class 'ResNet'; there are: BFCNN, UNet"):
        train(replace(TINY, network="ResNet"), tmp_path / "a.safetensors")
    with pytest.raises(OptionError, match="UNet does not take"):
        train(replace(TINY, network_config={"depth": 3}), tmp_path / "a.safetensors")


def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    """Bits flipped in its numbers, or its end lost: torch would take the first and trip over the second."""
    path = tmp_path / "a.safetensors"
    with monkeypatch.context() as patch:
        interrupted_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, path)
    whole = path.with_suffix(".checkpoint").read_bytes()
    with zipfile.ZipFile(path.with_suffix(".checkpoint")) as parts:
        data = [part for part in parts.infolist() if "/data/" in part.filename]
        flips = [part.header_offset + 64 + len(part.filename) + part.file_size // 2 for part in data]
    stored = {at for at in flips if at < len(whole)}
    for damaged in (
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in sorted(stored)[::9]),
        *(whole[:size] for size in (0, 100, len(whole) // 2, len(whole) - 1)),
    ):
        path.with_suffix(".checkpoint").write_bytes(damaged)
        try:
            state = torch.load(path.with_suffix(".checkpoint"), weights_only=True)
        except Exception:
            state = None
        if state is not None and len(damaged) == len(whole) and _same(state, io.BytesIO(whole)):
            continue  # the bit was padding
        with pytest.raises(CheckpointError, match="is damaged"):
            train(TINY, path, resume=True)
    path.with_suffix(".checkpoint").write_bytes(whole)
    train(TINY, path, resume=True)


def _same(state, file):
    return str(state) == str(torch.load(file, weights_only=True))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    said = io.StringIO()
    train(TINY, tmp_path / "a.safetensors", checkpoint_every=5, console=Console(file=said, width=200))
    assert said.getvalue().count("could not be written, and training goes on: PytorchStreamWriter") == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


def test_weights_are_not_overwritten_unasked(tmp_path):
    path = tmp_path / "a.safetensors"
    train(TINY, path)
    with pytest.raises(FileExistsError, match="overwrite it"):
        train(TINY, path)
    train(replace(TINY, seed=2), path, overwrite=True)
