"""Runs: bits that survive interruption, schedules, what is refused, and that it learns."""

import csv
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import denoisers
from denoisers import weights
from denoisers.evaluation import psnr_table
from denoisers.images.calpha import synthesize
from denoisers.networks import BiasFreeNorm, UNet
from denoisers.training import TrainConfig, calibrate, checkpoint, data, learning_rate, run, train
from denoisers.training.log import curve
from denoisers.training.run import Run
from spectral import storage
from spectral.errors import CheckpointError, FileContentError, OptionError, RankError

TINY = TrainConfig(
    data="calpha", network_config={"blocks": 1, "width": 4}, size=8, batch=4, steps=12, halvings=2
)
NETWORKS = {
    "UNet": {"blocks": 1, "width": 4},
    "BFCNN": {"layers": 3, "width": 4, "biased": True},
    "EDM": {"width": 8, "scales": 1},
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(run, "CALIBRATION_BATCHES", 3)
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
    original = data.clean_batches

    def patched(*given):
        batches = original(*given)

        def wrapped(s):
            if s == step:
                os.kill(os.getpid(), number)
            return batches(s)

        return wrapped

    monkeypatch.setattr(data, "clean_batches", patched)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("network", NETWORKS)
def test_interrupted_and_resumed_is_bit_identical(tmp_path, monkeypatch, number, network):
    more = {"ema": 0.9, "clip": 1.0, "schedule": "cosine", "warmup": 3} if network == "EDM" else {}
    config = replace(TINY, network=network, network_config=NETWORKS[network], **more)
    whole = train(config, tmp_path / "whole", validate_every=5)
    with monkeypatch.context() as patch:
        interrupted_at(6, patch, number)
        with pytest.raises(KeyboardInterrupt, match=r"stopped at step [67]; resume from"):
            train(config, tmp_path / "parts", validate_every=5)
    assert not (tmp_path / "parts/weights.safetensors").exists()
    parts = train(config, tmp_path / "parts", resume=True, validate_every=5)
    assert same_bits(whole, parts)
    assert same_bits(whole, denoisers.load(tmp_path / "parts"))
    assert not (tmp_path / "parts/checkpoint.safetensors").exists()
    tables = [list(csv.DictReader((tmp_path / f"{p}/log.csv").open())) for p in ("whole", "parts")]
    assert [row["step"] for row in tables[0]] == ["5.0", "10.0", "12.0"]
    for row, other in zip(*tables, strict=True):
        assert all(row[name] == other[name] for name in row if "second" not in name)


@pytest.mark.slow
def test_killed_at_random_and_resumed_is_bit_identical(tmp_path):
    """kill -9 at ten moments, whatever was being written then."""
    config = ["--data", "calpha", "--network-config", json.dumps(TINY.network_config), "--size", "8"]
    words = [sys.executable, "-m", "denoisers", "train", "tiny", *config, "--batch", "4", "--steps", "3000"]
    words += ["--checkpoint-every", "20", "--validate-every", "500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--out", tmp_path / "whole"], check=True, capture_output=True, env=environment)
    parts, kills = tmp_path / "parts", 0
    generator = torch.Generator().manual_seed(0)
    while not (parts / "weights.safetensors").exists():
        resume = ["--resume"] if (parts / "checkpoint.safetensors").exists() else []
        process = subprocess.Popen(
            [*words, "--out", parts, *resume],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        if kills < 10:
            until = time.time() + 120
            before = _stamp(parts)
            while _stamp(parts) == before and time.time() < until and process.poll() is None:
                time.sleep(0.01)
            time.sleep(float(torch.rand((), generator=generator)) / 2)
            process.kill()
            kills += 1
        process.wait()
    assert kills == 10
    assert same_bits(denoisers.load(tmp_path / "whole"), denoisers.load(parts))


def _stamp(folder):
    file = folder / "checkpoint.safetensors"
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(TINY, tmp_path / "a")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_crash_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole")
    original = data.clean_batches

    def failing(*given):
        batches = original(*given)
        return lambda step: batches(step) if step != 7 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(data, "clean_batches", failing)
        with pytest.raises(ZeroDivisionError):
            train(TINY, tmp_path / "a", checkpoint_every=5)
    assert checkpoint.read(tmp_path / "a/checkpoint.safetensors")["step"] == 5
    assert same_bits(whole, train(TINY, tmp_path / "a", resume=True))


def test_what_is_stopped_after_the_last_step_is_resumed_there(tmp_path, monkeypatch):
    """Norms are set on a hundred batches once training is over, which may take as long as many steps."""
    whole = train(TINY, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finished", lambda self, batches: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(TINY, tmp_path / "a")
    assert checkpoint.read(tmp_path / "a/checkpoint.safetensors")["step"] == TINY.steps
    assert same_bits(whole, train(TINY, tmp_path / "a", resume=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches(tmp_path, monkeypatch, workers):
    """And a run that is interrupted with them goes on without."""
    whole = train(TINY, tmp_path / "whole")
    assert same_bits(whole, train(TINY, tmp_path / "by others", workers=workers))
    with monkeypatch.context() as patch:
        original = Run.advance

        def stopping(self, batch):
            if self.step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, batch)

        patch.setattr(Run, "advance", stopping)
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            train(TINY, tmp_path / "parts", workers=workers)
    assert same_bits(whole, train(TINY, tmp_path / "parts", resume=True))


def to_its_workers(patch, number):
    """Send a signal to all that make batches, in the midst of a run."""
    original = Run.advance

    def signalling(self, batch):
        if self.step == 5:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, number)
        return original(self, batch)

    patch.setattr(Run, "advance", signalling)


def test_who_ends_all_processes_of_a_run_leaves_workers_to_the_one_that_trains(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole")
    to_its_workers(monkeypatch, signal.SIGTERM)
    assert same_bits(whole, train(TINY, tmp_path / "a", workers=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", ["killed", "raises"])
def test_a_worker_that_ends_is_told_in_one_sentence_and_the_run_goes_on_without(tmp_path, monkeypatch, how):
    def out_of_memory(config, clean, step):
        raise MemoryError("no memory for so many")

    with monkeypatch.context() as patch:
        if how == "killed":
            to_its_workers(patch, signal.SIGKILL)
        else:
            patch.setattr(data, "noisy_batch", out_of_memory)
        with pytest.raises(
            RankError, match=r"^a process that makes batches ended \([^\n]*(Kill|exit|no mem)"
        ):
            train(replace(TINY, steps=4000), tmp_path / "a", workers=2, checkpoint_every=1)
    assert not multiprocessing.active_children()
    if how == "killed":
        assert checkpoint.read(tmp_path / "a/checkpoint.safetensors")["step"] >= 5


def test_another_seed_gives_another_network(tmp_path):
    a = train(TINY, tmp_path / "a")
    assert same_bits(a, train(TINY, tmp_path / "b"))
    assert not same_bits(a, train(replace(TINY, seed=2), tmp_path / "c"))


def test_training_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(TINY, tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())


def test_resuming_asks_for_the_same_configuration(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "a")
    with pytest.raises(FileExistsError, match="unfinished run"):
        train(TINY, tmp_path / "a")
    told = "was written by another configuration: batch=4, not 5; noise='squared', not 'uniform'$"
    with pytest.raises(CheckpointError, match=told):
        train(replace(TINY, batch=5, noise="uniform"), tmp_path / "a", resume=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(TINY, tmp_path / "b", resume=True)
    # One of a version that knew fewer options.
    state = checkpoint.read(tmp_path / "a/checkpoint.safetensors")
    del state["config"]["shuffled"]
    checkpoint.write(tmp_path / "a/checkpoint.safetensors", state)
    train(TINY, tmp_path / "a", resume=True)


def test_it_learns(tmp_path):
    config = replace(
        TINY, network_config={"blocks": 1, "width": 16}, size=16, batch=16, steps=150, sigma_max=0.5
    )
    model = train(config, tmp_path / "a", validate_every=50)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    (row,) = psnr_table(model, synthesize(32, size=16, alpha=2), [0.2])
    assert row.denoised > row.noisy + 3
    assert (tmp_path / "a/psnr.png").stat().st_size > 5000
    assert TrainConfig.from_json((tmp_path / "a/config.json").read_text(), "it") == config


def test_the_figure_of_a_short_run_shows_its_one_row():
    """A line through one point is none."""
    loss, psnr = curve([{"step": 20.0, "loss": 3.0, "psnr_0.1": 20.0}]).axes
    for axes in (loss, psnr):
        (line,) = axes.lines
        assert line.get_marker() != "None" and line.get_markersize() > 0


def begun(config):
    """The network of a run at its start."""
    at_its_start = run.Run(config, Path("absent"), run.engine_of(config, "cpu"), False)
    at_its_start.start(resume=False)
    return at_its_start.model


def test_the_mean_of_the_weights_is_what_is_written(tmp_path):
    plain, mean = (train(replace(TINY, ema=e), tmp_path / str(e)) for e in (0.0, 0.99))
    weights = [next(m.parameters()).detach() for m in (begun(TINY), mean, plain)]
    assert torch.dist(weights[0], weights[1]) < torch.dist(weights[0], weights[2]) / 3


def test_batch_norms_steps_are_counted_beside_a_mean_of_the_weights(tmp_path):
    biased = replace(TINY, network="BFCNN", network_config=NETWORKS["BFCNN"], ema=0.9)
    state = train(biased, tmp_path / "a").state_dict()
    assert {int(n) for name, n in state.items() if "tracked" in name} == {TINY.steps}


def test_weights_to_start_from(tmp_path):
    edm = replace(TINY, network="EDM", network_config={"width": 8, "scales": 1}, steps=2)
    first = train(edm, tmp_path / "edm")
    tuned = replace(edm, network="Consistency", objective="consistency", start=str(tmp_path / "edm"))
    assert same_bits(begun(tuned).body, first.body)
    shipped = replace(TINY, network_config={"blocks": 2, "width": 32}, start="photos")
    assert same_bits(begun(shipped), denoisers.load("photos"))
    assert same_bits(begun(replace(edm, start=str(tmp_path / "edm"))), first)
    assert not same_bits(train(tuned, tmp_path / "tuned").body, first.body)
    for other in (TINY, replace(tuned, network_config={"width": 16, "scales": 1})):
        with pytest.raises(OptionError) as refused:
            train(replace(other, start=str(tmp_path / "edm")), tmp_path / "b")
        told = rf"the weights of \S+ are of EDM {{.*}}, and do not fit {other.network} {{[^\n]*"
        assert re.fullmatch(
            told + ": ask for the first by network= and network_config=, or start from others",
            str(refused.value),
        )
    with pytest.raises(FileNotFoundError, match="no denoiser named"):
        train(replace(TINY, start=str(tmp_path / "nothing")), tmp_path / "b")


def test_frozen_norms_divide_by_what_they_did(tmp_path, monkeypatch):
    first = train(TINY, tmp_path / "first")
    tuned = replace(TINY, start=str(tmp_path / "first"), frozen=True, ema=0.9, seed=2)
    state, whole = first.state_dict(), train(tuned, tmp_path / "whole").state_dict()
    spreads = {name for name in state if name.endswith("running_sd")}
    assert spreads and spreads == {name for name in state if torch.equal(state[name], whole[name])}
    thawed = train(replace(tuned, frozen=False), tmp_path / "thawed").state_dict()
    assert not any(torch.equal(state[name], thawed[name]) for name in state)
    with monkeypatch.context() as patch:
        interrupted_at(6, patch)
        with pytest.raises(KeyboardInterrupt):
            train(tuned, tmp_path / "parts")
    parts = train(tuned, tmp_path / "parts", resume=True).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_frozen_batch_norms_are_as_they_were(tmp_path):
    biased = replace(TINY, network="BFCNN", network_config=NETWORKS["BFCNN"])
    first = train(biased, tmp_path / "first").state_dict()
    tuned = train(replace(biased, start=str(tmp_path / "first"), frozen=True, seed=2), tmp_path / "b")
    kept = {name for name, value in tuned.state_dict().items() if torch.equal(value, first[name])}
    assert kept == {name for name in first if "running" in name or "tracked" in name}


@pytest.mark.parametrize(
    ("network", "given"), [("EDM", NETWORKS["EDM"]), ("BFCNN", {"layers": 2, "width": 4})]
)
def test_what_has_no_norms_to_freeze_says_so(tmp_path, network, given):
    config = replace(TINY, network=network, network_config=given)
    train(config, tmp_path / "first")
    with pytest.raises(OptionError, match=f"no norm of {network} .* nothing to freeze: leave frozen out"):
        train(replace(config, start=str(tmp_path / "first"), frozen=True), tmp_path / "tuned")


def test_the_learning_rate():
    config = replace(TINY, steps=12, halvings=2, learning_rate=1.0)
    assert [learning_rate(config, s) for s in range(12)] == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
    cosine = replace(config, schedule="cosine")
    assert [learning_rate(cosine, s) for s in (0, 6, 12)] == pytest.approx([1, 0.5, 0])
    rising = replace(config, schedule="constant", warmup=4)
    assert [learning_rate(rising, s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_schedule_and_the_cut_reach_the_optimiser(tmp_path):
    plain = train(TINY, tmp_path / "plain")
    for i, other in enumerate(({"halvings": 0}, {"schedule": "cosine"}, {"warmup": 6}, {"clip": 1e-9})):
        assert not same_bits(plain, train(replace(TINY, **other), tmp_path / str(i)))


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
    [
        {"steps": 0},
        {"batch": 0},
        {"halvings": -1},
        {"noise": "gaussian"},
        {"sigma_max": 0.0},
        {"seed": -1},
        {"schedule": "linear"},
        {"ema": 1.0},
        {"sigma_min": 2.0},
        {"sigma_min": 1e-50},
        {"sigma_max": 1e39},
        {"precision": "float16"},
        {"half": "third"},
        {"emphasis": 0.5},
        {"zoom": 1.5},
        {"steps": "10"},
        {"batch": 2.0},
        {"seed": None},
        {"steps": True},
        {"ema": False},
        {"clip": None},
        {"sigma_max": "1"},
        {"learning_rate": float("nan")},
        {"noise": 3},
        {"shuffled": "no"},
        {"frozen": True},
        {"start": None},
        {"data": Path("pictures")},
        {"network_config": []},
        {"network_config": {"width": torch.tensor(4)}},
    ],
)
def test_configurations_that_make_no_sense_are_refused(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        replace(TINY, **bad)


def test_every_field_of_a_configuration_is_of_its_type():
    for field in fields(TrainConfig):
        with pytest.raises(OptionError, match=f"^{field.name} is "):
            replace(TINY, **{field.name: object()})
    numpys = replace(TINY, steps=np.int64(3), clip=np.float32(0.5))
    assert TrainConfig.from_json(numpys.to_json(), "it") == numpys
    with pytest.raises(FileContentError, match="it holds no training configuration: batch is a whole number"):
        TrainConfig.from_json('{"data": "calpha", "batch": 2.5}', "it")


@pytest.mark.parametrize(
    "bad", [{"checkpoint_every": 0}, {"validate_every": 2.5}, {"workers": False}, {"workers": -1}]
)
def test_a_run_is_not_begun_with_what_makes_no_sense(tmp_path, bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        train(TINY, tmp_path / "a", **bad)
    assert not (tmp_path / "a").exists()


def test_what_is_refused_leaves_no_folder(tmp_path):
    for bad in ({"start": "absent"}, {"network": "ResNet"}, {"data": "absent"}, {"size": 7}):
        with pytest.raises((OSError, OptionError), match=r"absent|ResNet|multiple of"):
            train(replace(TINY, **bad), tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(TINY, tmp_path / "a", resume=True)
    assert not (tmp_path / "a").exists()


def test_unknown_networks_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"no network class 'ResNet'; there are: BFCNN, .*UNet"):
        train(replace(TINY, network="ResNet"), tmp_path / "a")
    with pytest.raises(OptionError, match="UNet has no 'depth'"):
        train(replace(TINY, network_config={"depth": 3}), tmp_path / "a")


@pytest.mark.parametrize(
    ("network", "given", "told"),
    [
        ("UNet", {"flips": "no"}, "flips is true or false, got 'no'"),
        ("BFCNN", {"first_relu": 0}, "first_relu is true or false, got 0"),
        ("UNet", {"width": 8.0}, "width is a whole number, got 8.0"),
        ("EDM", {"mean": "0"}, "mean is a finite number, got '0'"),
        ("EDM", {"body": "mine"}, "EDM has no 'body': give some of "),
    ],
)
def test_a_network_is_not_built_of_what_its_arguments_are_not(network, given, told):
    with pytest.raises(OptionError, match=re.escape(told)):
        weights.build(network, given)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    said = io.StringIO()
    train(TINY, tmp_path / "a", checkpoint_every=5, console=Console(file=said, width=40))
    told = "could not be written, and training goes on: [Errno 28] No space left on device"
    assert said.getvalue().count(told) == 3  # after steps 5, 10 and the last
    assert (tmp_path / "a/weights.safetensors").exists()
    assert not list((tmp_path / "a").glob("*checkpoint*"))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    good = {"step": 3, "x": torch.arange(4)}
    path = tmp_path / "checkpoint.safetensors"
    assert checkpoint.write(path, good) is None

    def cut_short(tensors, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", cut_short)
    assert "No space left" in checkpoint.write(path, {"step": 4, "x": torch.arange(4)})
    assert checkpoint.read(path)["step"] == 3 and list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from denoisers.training import TrainConfig, run, train

advance = run.Run.advance

def and_the_disk_fills(self, batch):
    if self.step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
    return advance(self, batch)

run.Run.advance, run.CALIBRATION_BATCHES = and_the_disk_fills, 3
config = TrainConfig.from_json(open(sys.argv[1]).read(), "it")
train(config, sys.argv[2], checkpoint_every=2, validate_every=3, resume="go on" in sys.argv)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are Unix's")
def test_what_a_run_has_written_outlives_a_disk_that_fills(tmp_path):
    (tmp_path / "script.py").write_text(FULL)
    (tmp_path / "told.json").write_text(TINY.to_json())
    words = [sys.executable, tmp_path / "script.py", tmp_path / "told.json", tmp_path / "a"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    for more in ([], ["go on"]):  # what is left is read again, and written in vain once more
        told = subprocess.run([*words, *more], check=False, capture_output=True, text=True, env=environment)
        assert "training goes on" in told.stdout and "weights.safetensors could not be written" in told.stderr
        assert TrainConfig.from_json((tmp_path / "a/config.json").read_text(), "it") == TINY
        assert [row["step"] for row in csv.DictReader((tmp_path / "a/log.csv").open())] == ["3.0", "6.0"]
        assert checkpoint.read(tmp_path / "a/checkpoint.safetensors")["step"] == 6
    whole = train(TINY, tmp_path / "whole")
    assert same_bits(whole, train(TINY, tmp_path / "a", resume=True))


def test_a_run_goes_on_without_the_weights_that_it_started_from(tmp_path, monkeypatch):
    train(TINY, tmp_path / "first")
    tuned = replace(TINY, start=str(tmp_path / "first"), ema=0.5, seed=2)
    whole = train(tuned, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted_at(6, patch)
        with pytest.raises(KeyboardInterrupt):
            train(tuned, tmp_path / "parts")
    (tmp_path / "first/weights.safetensors").unlink()
    assert same_bits(whole, train(tuned, tmp_path / "parts", resume=True))


def test_weights_are_not_overwritten_unasked(tmp_path):
    train(TINY, tmp_path / "a")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        train(TINY, tmp_path / "a")
    train(replace(TINY, seed=2), tmp_path / "a", overwrite=True)
    with pytest.raises(OptionError, match="a run is a folder"):
        train(TINY, tmp_path / "a.safetensors")
