"""The commands sample and solve: pictures out, numbers told, bad input in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from denoisers import weights
from denoisers.commands.networks import app
from denoisers.images import photograph
from denoisers.networks import Consistency, UNet
from denoisers.sampling import Samples


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


QUICK = ("--beta", 1, "--h0", 0.2, "--sigma-end", 0.05)


@pytest.mark.parametrize("method", ["ascent", "heun", "ddim", "langevin"])
def test_sample_writes_a_grid(tmp_path, method):
    more = QUICK if method == "ascent" else ("--steps", 3)
    arguments = ("--method", method, "--size", 8, "--count", 3, "--every", 2, "--out", tmp_path, *more)
    result = run("sample", *arguments)
    assert result.exit_code == 0, result.output
    side = 8 * 24
    assert Image.open(tmp_path / "sample.png").size == (2 * side + 2, 2 * side + 2)
    assert (tmp_path / "trajectory.png").is_file()
    assert Samples.load(tmp_path / "sample.safetensors").images.shape == (3, 1, 8, 8)


def test_a_consistency_function_takes_few_steps(tmp_path):
    torch.manual_seed(0)
    weights.save(Consistency(8, 1).eval(), tmp_path / "f.safetensors", {})
    words = ("sample", "--method", "consistency", "--size", 8, "--count", 2, "--json")
    for steps in (1, 3):
        told = json.loads(run(*words, "--denoiser", tmp_path / "f.safetensors", "--steps", steps).stdout)
        assert told["evaluations"] == 2 * steps and len(told["levels"]) == steps
    assert "no consistency function" in run(*words).stderr
    for other in ("heun", "ddim", "langevin", "ascent"):
        refused = run("sample", "--method", other, "--size", 8, "--denoiser", tmp_path / "f.safetensors")
        assert refused.exit_code == 2 and "--method consistency" in refused.stderr


def test_sample_tells_json():
    told = [
        json.loads(run("sample", "--size", 8, "--count", 2, *QUICK, "--json", "--seed", s).stdout)
        for s in "001"
    ]
    assert told[0]["sigmas"] == told[1]["sigmas"] != told[2]["sigmas"]
    assert told[0]["evaluations"] == sum(told[0]["steps"]) and all(told[0]["converged"])


@pytest.mark.parametrize("kind", ["superres", "inpaint", "pixels", "random", "lowpass"])
def test_solve(tmp_path, kind):
    crop = ("--crop", 100, 100, 16)
    result = run("solve", "--measurement", kind, *crop, "--count", 2, *QUICK, "--json", "--out", tmp_path)
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if all(told["converged"]) else 3)
    assert told["constraint"] < 1e-3 and len(told["psnr"]) == 2
    assert told["psnr_of_mean"] >= min(told["psnr"])
    assert Image.open(tmp_path / "solve.png").size == (4 * 192 + 6, 192)


@pytest.mark.parametrize(
    ("kind", "more"), [("superres", ("--factor", 2)), ("inpaint", ()), ("random", ("--keep", 0.5))]
)
def test_solve_with_noise(kind, more):
    """It is added to the values, told to the solve, and not fitted; the words say so."""
    words = ("solve", "--measurement", kind, "--crop", 100, 100, 16, *more)
    words += ("--noise", 0.1, "--count", 2, "--beta", 0.5)
    told = json.loads(run(*words, "--json").stdout)
    assert told["noise"] == 0.1 and "noise 0.1" in told["method"] and told["constraint"] > 0.1
    assert all(0.07 < residual < 0.15 for residual in told["residual"]) and len(told["residual"]) == 2
    assert told["psnr_of_mean"] > told["psnr_of_baseline"]
    assert "with noise 0.1, met to 0." in run(*words).output


def test_the_shipped_network_in_colour(tmp_path):
    """Of a file in colour, and of the photograph that ships: the same; gaps filled by more than a mean."""
    pixels = np.rint(255 * photograph(colour=True)[0].transpose(1, 2, 0)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    words = ("solve", "--denoiser", "photos-colour", "--crop", 60, 80, 32, "--count", 1, "--beta", 0.2)
    words += ("--json", "--measurement", "pixels", "--keep", 0.3)
    shipped, file = (
        json.loads(run(*words, "--out", tmp_path / name, *more).stdout)
        for name, more in (("shipped", ()), ("file", ("--image", tmp_path / "x.png")))
    )
    assert shipped["psnr"] == file["psnr"] and shipped["baseline"] == "mean colour"
    assert file["psnr"][0] > file["psnr_of_baseline"] + 3
    drawn = np.asarray(Image.open(tmp_path / "file" / "solve.png"))
    assert drawn.ndim == 3 and np.ptp(drawn[:, :190].astype(int), axis=2).max() > 30


@pytest.mark.parametrize("kind", ["superres", "inpaint", "pixels", "random", "lowpass"])
def test_solve_in_colour(tmp_path, kind):
    """By a network of three channels, of a picture in colour; --constant besides."""
    torch.manual_seed(0)
    weights.save(UNet(1, 4, channels=3).eval(), tmp_path / "f.safetensors", {})
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    words = ("--denoiser", tmp_path / "f.safetensors", "--image", tmp_path / "x.png", "--crop", 2, 3, 16)
    result = run(
        *("solve", "--measurement", kind, *words, "--count", 2, *QUICK, "--max-steps", 20, "--constant"),
        *("--json", "--out", tmp_path),
    )
    told = json.loads(result.stdout)
    assert told["constraint"] < 1e-3 and told["growing"] is False
    assert Samples.load(tmp_path / "solve.safetensors").images.shape == (2, 3, 16, 16)


def test_solve_prints_bicubic_beside():
    result = run("solve", "--crop", 100, 100, 16, "--count", 1, *QUICK)
    assert "bicubic" in result.output and "dB" in result.output


def test_what_cannot_be_written_is_named_after_the_answer(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Samples, "save_png", full)
    result = run(*("sample", "--size", 8, "--count", 1, "--max-steps", 2, "--out", tmp_path))
    assert result.exit_code == 2 and "stopped at --max-steps 2," in result.stdout
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: not all of sample.png, sample.safetensors could be written to")
    assert "No space left" in line


def test_stopped_short_is_exit_code_3():
    result = run("sample", "--size", 8, "--count", 1, "--max-steps", 2)
    assert result.exit_code == 3 and "raise --max-steps, --beta or --sigma-end" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--denoiser", "absent"), "no denoiser named"),
        (("sample", "--size", 9), "--size must be a multiple of 4"),
        (("sample", "--size", 0), "--size must be >= 1, got 0"),
        (("sample", "--count", 0), "--count must be >= 1"),
        (("sample", "--steps", 9), "--steps is for"),
        (("sample", "--beta", 2), "h0 and beta lie in"),
        (("sample", "--method", "heun", "--constant"), "of the ascent alone: --constant; heun takes --steps"),
        (("sample", "--method", "ddim", "--h0", 0.5, "--max-steps", 3), "alone: --h0, --max-steps"),
        (("sample", "--method", "heun", "--beta", 0.1), "alone: --beta; heun"),
        (("sample", "--method", "heun", "--steps", 0), "--steps must be >= 2, got 0"),
        (("sample", "--denoiser", "consistency"), "with --method consistency"),
        (("sample", "--denoiser", "consistency", "--method", "consistency", "--steps", 0), "--steps is >= 1"),
        (
            ("sample", "--denoiser", "consistency", "--method", "consistency", "--sigma-start", -1),
            "both positive",
        ),
        (("solve", "--denoiser", "consistency", "--crop", 0, 0, 16), "consistency is told the noise level"),
        (("solve", "--noise", -1), "--noise must be >= 0"),
        (("solve", "--noise", "nan"), "--noise must be >= 0"),
        (("solve", "--count", 0), "--count must be >= 1"),
        (("solve", "--crop", 0, 0, 600), "leaves the 512x512 picture"),
        (("solve", "--crop", 0, 0, 16, "--factor", 5), "blocks of 5 pixels do not fill"),
        (("solve", "--crop", 0, 0, 16, "--measurement", "pixels", "--keep", 0), "--keep lies in"),
        (("solve", "--keep", 0.1), "--keep is for --measurement pixels or random or lowpass, not superres"),
        (("solve", "--measurement", "pixels", "--hole", 3), "--hole is for --measurement inpaint"),
        (("solve", "--measurement", "inpaint", "--factor", 4), "--factor is for --measurement superres"),
        (("solve", "--crop", 0, 0, 16, "--measurement", "inpaint", "--hole", 16), "hole's side"),
        (("solve", "--image", "absent.png"), "no picture at"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and message in line
