import json
import re

import pytest
import torch
from typer.testing import CliRunner

import denoisers
from denoisers.commands.spectra import app
from spectral.estimators import Density, Estimate, spectral_density
from spectral.plots import estimates as figures
from spectral.risk import risk_curve

CROP = ["--crop", "200", "200", "16"]


def run(*arguments):
    if "photos" not in denoisers.available():
        pytest.skip("the shipped network is not in denoisers/weights")
    return CliRunner().invoke(app, [*arguments])


def test_trace_prints_and_writes(tmp_path):
    result = run("trace", *CROP, "--products", "40", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "tr J" in result.output and "+-" in result.output
    assert (tmp_path / "diagonal.png").stat().st_size > 5000
    assert Estimate.load(tmp_path / "diagonal.safetensors").value.shape == (1, 1, 16, 16)


def test_json_agrees_with_the_exact_trace():
    exact = json.loads(run("trace", *CROP, "--method", "exact", "--json").stdout)["trace"]
    found = json.loads(run("trace", *CROP, "--products", "100", "--json").stdout)["trace"]
    assert 0 < exact["stderr"] < 1e-6 * abs(exact["value"]) and exact["products"] == 16 * 16
    assert abs(found["value"] - exact["value"]) < 5 * found["stderr"]


def test_what_is_exact_is_told_as_no_samples():
    exact = ("--method", "exact")
    assert "errors        95 % intervals; exact to rounding" in run("trace", *CROP, *exact).output
    assert "errors        95 % intervals; tr J exact to rounding" in run("sure", *CROP, *exact).output
    assert "errors        95 % intervals; exact to rounding" in run("density", *CROP, *exact).output
    assert (
        "intervals; hutchinson, 10 samples"
        in run("trace", *CROP, "--method", "hutchinson", "--products", "10").output
    )


def test_notes_of_the_estimate_are_told(tmp_path):
    words = ("trace", *CROP, "--rtol", "1e-9", "--products", "20", "--method", "hutchinson")
    told = run(*words)
    assert "note          --products 20 did not reach the target" in told.output and told.exit_code == 3
    assert "did not reach the target" in json.loads(run(*words, "--json").stdout)["notes"][0]
    endless = run("trace", *CROP, "--rtol", "1e-9", "--json")
    assert json.loads(endless.stdout)["notes"][0].startswith("all products did not reach the target")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("trace", ("--products", "3")),
        ("trace", ("--rtol", "0.1")),
        ("sure", ("--products", "3")),
        ("sure", ("--rtol", "0.1")),
        ("density", ("--probes", "3")),
        ("density", ("--steps", "60")),
        ("density", ("--deflate", "2")),
    ],
)
def test_no_option_is_set_aside_for_the_exact_answer(command, option):
    result = run(command, *CROP, "--method", "exact", *option)
    assert result.exit_code == 2
    assert (
        result.stderr == f"error: --method exact takes all products that there are: leave out {option[0]}\n"
    )


def test_sure_states_truth_beside_the_estimate():
    for level in ("given", "median"):
        summary = json.loads(run("sure", *CROP, "--level", level, "--json").stdout)
        assert abs(summary["mse"]["value"] - summary["true_mse"]) < 5 * summary["mse"]["stderr"]
        assert summary["sigma_rule"] == level
    assert "the interval" in run("sure", *CROP).output


def test_a_negative_error_has_no_psnr():
    result = run("sure", "--crop", "60", "180", "8", "--level", "median")
    assert re.search(r"none / \d\d\.\d\d dB", result.output) and "nan" not in result.output


def test_sure_draws_its_check_over_noise_levels(tmp_path):
    files = json.loads(run("sure", *CROP, "--products", "8", "--json", "--out", str(tmp_path)).stdout)[
        "files"
    ]
    assert files == [str(tmp_path / "risk.png")] and (tmp_path / "risk.png").stat().st_size > 5000


def test_density_prints_and_writes(tmp_path):
    options = ("--probes", "4", "--steps", "12", "--deflate", "3", "--out", str(tmp_path))
    result = run("density", *CROP, *options)
    assert result.exit_code == 0, result.output
    assert "values above 0.5" in result.output
    # Beside the three what a run ahead of the probes resolves.
    assert Density.load(tmp_path / "density.safetensors").deflated.numel() >= 3
    assert (tmp_path / "density.png").stat().st_size > 5000


def test_bad_input_is_one_line_and_code_2():
    for arguments in (
        ("sure", "--sigma", "-1"),
        ("trace", "--denoiser", "nonesuch"),
        ("density", *CROP, "--probes", "1"),
        ("density", *CROP, "--part", "singular", "--deflate", "2"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_figures(tmp_path):
    density = spectral_density(torch.diag(torch.linspace(-1, 1, 50)), probes=3, steps=10)
    figures.density(density, 0.5, "title").savefig(tmp_path / "density.png")
    curve = risk_curve(lambda y: y / 2, torch.zeros(3, 1, 4, 4), [0.1, 0.2])
    figures.risk(curve).savefig(tmp_path / "risk.png")
    images = torch.rand(5, 1, 8, 8)
    figures.strip([("component", images)]).savefig(tmp_path / "strip.png")
    figures.images([("a", images[0]), ("b", images[1])]).savefig(tmp_path / "images.png")
    assert all(
        (tmp_path / f"{name}.png").stat().st_size > 2000 for name in ("density", "risk", "strip", "images")
    )
