"""The command line: what it prints, and one clear line with exit code 2 on bad input."""

import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import denoisers
import denoisers.evaluation
import denoisers.images.calpha
import denoisers.networks
import denoisers.weights
import spectral
from denoisers.card import command
from denoisers.commands import networks, training
from denoisers.commands import spectra as spectra_module
from denoisers.commands.networks import app
from denoisers.commands.spectra import app as spectra
from denoisers.commands.training import HELP
from denoisers.training import RECIPES, TrainConfig, data
from denoisers.training.run import Run

PYTHON = re.compile(r"\b[a-z_]+=|\w\.\w+\(|\b(torch|denoisers|spectral)\.\w|\b[a-z]+_[a-z]+ (is|must)\b")
TRAIN = [
    *("train", "tiny", "--data", "calpha", "--network-config", '{"blocks": 1, "width": 2}'),
    *("--size", "8", "--batch", "2", "--steps", "6", "--noise", "uniform"),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


def test_list_shows_every_shipped_network(run):
    result = run("list")
    assert result.exit_code == 0
    for name in denoisers.available():
        assert name in result.stdout


def test_list_tells_programs_what_a_network_takes(run):
    told = {row.pop("name"): row for row in json.loads(run("list", "--json").stdout)}
    assert [*told] == denoisers.available()
    for name, row in told.items():
        model = denoisers.load(name)
        assert row["told_sigma"] == model.told == (name == "consistency")
        assert (row["config"], row["channels"]) == (model.config, model.channels)


def test_train_writes_weights_and_a_card_that_repeats_the_command(run):
    result = run(*TRAIN)
    assert result.exit_code == 0, result.output
    model = denoisers.load("runs/tiny")
    assert model.config == {"blocks": 1, "width": 2, "channels": 1}
    text = Path("runs/tiny/card.md").read_text()
    assert "denoisers train tiny --data calpha" in text
    assert "--noise uniform" in text


def test_help_of_train_tells_each_default(run):
    """What a recipe leaves alone is the same for all; else the recipe's may be another."""
    told = " ".join(run("train", "--help").stdout.replace("│", " ").split())
    defaults = {
        "data": "the recipe's",
        "network": "UNet, or the recipe's",
        "network_config": "the network's own, or the recipe's",
        "start": "none, or the recipe's",
        "images": "0",
        "steps": "4000, or the recipe's",
        "shuffled": "no",
        "log_sd": "1.2",
    }
    for name, default in defaults.items():
        assert f"{HELP[name]} [default: ({default})]" in told
    assert told.count("[default: (") > len(HELP)


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_command_on_a_card_trains_its_configuration(monkeypatch, shuffled):
    """Also where it differs from the recipe of its name by a flag that has no value."""
    monkeypatch.setitem(RECIPES, "mine", TrainConfig(data="disks", shuffled=not shuffled))
    config = replace(RECIPES["mine"], shuffled=shuffled, network_config={"width": 8}, clip=0.5)
    asked = []
    monkeypatch.setattr(training, "train", lambda config, *_, **__: asked.append(config))
    monkeypatch.setattr(training, "write_card", lambda path: path)
    assert CliRunner().invoke(app, shlex.split(command("mine", config))[1:]).exit_code == 0
    assert asked == [config]


def test_interrupted_training_resumes(run, monkeypatch):
    original = data.clean_batches

    def stopping(*given):
        batches = original(*given)

        def wrapped(step):
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return batches(step)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(data, "clean_batches", stopping)
        result = run(*TRAIN)
    assert result.exit_code == 130
    assert "stopped at step 3" in result.stdout
    result = run("train", "tiny", "--resume", "--steps", 5)
    assert result.exit_code == 2 and "another configuration" in result.stderr
    result = run("train", "tiny", "--resume")  # the run's folder knows the rest
    assert result.exit_code == 0, result.output
    resumed = denoisers.load("runs/tiny").state_dict()
    assert "the run has ended" in run("train", "tiny", "--resume").stderr
    assert run(*TRAIN, "--overwrite").exit_code == 0
    whole = denoisers.load("runs/tiny").state_dict()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_what_is_interrupted_before_its_first_step_or_after_its_last_says_so(run, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    for where, told in ((data, "nothing is left"), (Run, "--resume goes on from the checkpoint")):
        with monkeypatch.context() as patch:
            patch.setattr(where, "clean_batches" if where is data else "finished", stopped)
            result = run(*TRAIN, "--checkpoint-every", 4)
        assert result.exit_code == 130
        assert result.stdout.splitlines()[-1] == f"stopped; {told}"
    assert run(*TRAIN, "--resume").exit_code == 0


def test_evaluate_agrees_with_psnr_table(run):
    run(*TRAIN)
    result = run("evaluate", "runs/tiny", "--alpha", 2, "--size", 16, "--sigma", 0.2, "--json")
    (row,) = json.loads(result.stdout)
    images = torch.from_numpy(denoisers.images.calpha.synthesize(64, size=16, alpha=2.0, seed=0))
    (expected,) = denoisers.evaluation.psnr_table(denoisers.load("runs/tiny"), images, [0.2])
    assert row == vars(expected)
    assert "0.2" in run("evaluate", "runs/tiny", "--sigma", 0.2).stdout


def test_evaluate_takes_the_middle_of_a_picture_whose_sides_do_not_fit(run):
    """And a picture in colour for a network of three channels; without one, the photograph in colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("colour.png")
    Image.fromarray(pixels[1:5, 1:9]).save("middle.png")
    words = ("--sigma", 0.2, "--json")
    whole, middle = (
        run("evaluate", "photos-colour", "--image", file, *words).stdout
        for file in ("colour.png", "middle.png")
    )
    assert json.loads(whole) == json.loads(middle)
    told = run("evaluate", "photos-colour", "--image", "colour.png", "--sigma", 0.2).stdout
    assert "4x8 pixels in the middle of colour.png" in told
    (row,) = json.loads(run("evaluate", "photos-colour", *words).stdout)
    assert row["denoised"] > row["noisy"] + 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "absent"], "no denoiser named 'absent'"),
        (["evaluate", "net.safetensors", "--sigma", 0], "sigma must be positive"),
        (["evaluate", "net.safetensors", "--image", "absent.png"], "no picture at absent.png"),
        (
            ["evaluate", "net.safetensors", "--image", "odd.png", "--patch-size", 7],
            "--patch-size must be a multiple of 2, as sides of images of this UNet are; got 7",
        ),
        (["evaluate", "net.safetensors", "--image", "thin.png"], "thin.png is 1x8"),
        (["evaluate", "net.safetensors", "--alpha", 2, "--count", 0], "--count must be >= 1"),
        (["evaluate", "net.safetensors", "--count", 3], "--count and --size are of the images of"),
        (["evaluate", "net.safetensors", "--image", "odd.png", "--size", 8], "--count and --size are of"),
        (["evaluate", "nan.safetensors"], "nan.safetensors holds NaN or infinity, in encoder.0.0.weight"),
        (["evaluate", "photos-colour", "--alpha", 2], "C^alpha images are grey"),
        (["evaluate", "net.safetensors", "--image", "odd.png", "--alpha", 2], "give one of --image"),
        (["evaluate", "net.safetensors", "--alpha", -1], "--alpha must be >= 0, got -1"),
        (["train", "other"], "no recipe named 'other'"),
        (["train", "other", "--data", "absent-folder"], "in absent-folder: no such folder"),
        (["train", "other", "--data", "odd.png"], "in odd.png, a file"),
        (["train", "other", "--data", "disks", "--log-mean", "nan"], "--log-mean is a finite number"),
        (
            ["train", "other", "--data", "disks", "--sigma-min", 2],
            "--sigma-min must lie in [1e-09, 1), got 2",
        ),
        ([*TRAIN, "--start", "nan.safetensors"], "nan.safetensors holds NaN"),
        (["train", "calpha", "--steps", 0], "--steps must be >= 1, got 0"),
        (["train", "calpha", "--halvings", -1], "--halvings must be >= 0, got -1"),
        (["train", "calpha", "--zoom", 2], "a folder of pictures without --images"),
        (["train", "calpha", "--out", "w.safetensors"], "a run is a folder"),
        (["train", "calpha", "--out", "odd.png"], "a run is a folder"),
        (["train", "calpha", "--out", "run"], "exists: --overwrite trains it anew"),
        (["train", "calpha", "--checkpoint-every", 0], "--checkpoint-every must be >= 1, got 0"),
        (["train", "calpha", "--cache", "c"], "--cache is for a folder of pictures, of which --images"),
        (["train", "calpha", "--device", "tpu"], "device is 'auto'"),
        (["train", "consistency", "--start", "absent"], "no denoiser named 'absent', and no such file"),
        ([*TRAIN, "--learning-rate", 1e30], "lower the learning rate"),
        (["train", "calpha", "--resume"], "no checkpoint at"),
        (["train", "other", "--resume", "--out", "absent"], "no run at absent: name its folder by --out"),
        ([*TRAIN, "--frozen"], "name them by --start"),
        (["train", "calpha", "--alpha", 3], "it is for --data calpha or ray, not calpha-mixed"),
        (["train", "calpha", "--halvings", 2], "it is for --schedule halvings, not cosine"),
        (["train", "calpha", "--half", "second"], "--half would do nothing: it is of the sets that --images"),
        (["evaluate", "consistency", "--size", 8, "--alpha", 2, "--homogeneity"], "take a blind one"),
        (["train", "calpha", "--network-config", "{"], "--network-config is not JSON"),
        (["train", "calpha", "--network-config", "[]"], "must be a JSON object"),
        (
            ["train", "calpha", "--network-config", '{"foo": 1}'],
            "UNet has no 'foo': give some of blocks, width, channels, biased, flips",
        ),
        (["train", "calpha", "--network-config", '{"blocks": true}'], "blocks is a whole number, got True"),
        (["train", "calpha", "--network-config", '{"flips": 1}'], "flips is true or false, got 1"),
        (["train", "edm", "--network-config", '{"mean": "x"}'], "mean is a finite number, got 'x'"),
        (["train", "edm", "--network-config", '{"body": 1}'], "EDM has no 'body'"),
        (["train", "calpha", "--network", "ResNet"], "no network class 'ResNet'"),
        (["train", "calpha", "--network-config", '{"blocks": 12}'], "of which this machine has"),
        (["train", "calpha", "--network-config", '{"blocks": 60}'], "of which this machine has"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    (tmp_path / "run").mkdir()
    for file in ("net.safetensors", "run/weights.safetensors"):
        denoisers.weights.save(denoisers.networks.UNet(1, 2), tmp_path / file, {})
    broken = denoisers.networks.UNet(1, 2)
    torch.nn.init.constant_(broken.encoder[0][0].weight, torch.nan)
    denoisers.weights.save(broken, tmp_path / "nan.safetensors", {})
    Image.fromarray(np.zeros((7, 8), dtype=np.uint8)).save("odd.png")
    Image.fromarray(np.zeros((1, 8), dtype=np.uint8)).save("thin.png")
    Image.fromarray(np.eye(24, dtype=np.uint8).reshape(8, 24, 3)).save("colour.png")
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not PYTHON.search(line)


@pytest.mark.parametrize(
    "options", [["svd", "-k", "2"], ["eigs", "-k", "2"], ["trace"], ["sure"], ["density", "--deflate", "2"]]
)
def test_spectra_of_a_network_that_is_told_the_level(options, tmp_path):
    crop = ["--denoiser", "consistency", "--crop", "60", "180", "8", "--sigma", "0.3"]
    result = CliRunner().invoke(spectra, [options[0], *crop, *options[1:], "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("module", [networks, spectra_module])
def test_a_module_that_holds_a_command_line_runs_as_one(module):
    """As `torchrun -m` starts it."""
    words = [sys.executable, "-m", module.__name__, "--version"]
    assert (
        subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        == spectral.__version__
    )
