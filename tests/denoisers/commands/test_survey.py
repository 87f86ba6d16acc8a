"""`spectral survey` as its users call it: folders in, a table and a figure out, bad input in one line."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from denoisers import weights
from denoisers.commands.spectra import app
from denoisers.networks import BFCNN, ConditionalUNet
from spectral.results import EigenPairs
from spectral.survey import Survey
from spectral.survey.solver import Solver
from tests.helpers.interrupted import interrupted

run = CliRunner().invoke


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small untrained networks, grey and in colour, and folders of pictures."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    weights.save(BFCNN(layers=3, width=4).eval(), folder / "grey.safetensors", {})
    weights.save(BFCNN(layers=3, width=4, channels=3).eval(), folder / "colour.safetensors", {})
    weights.save(BFCNN(layers=3, width=4, channels=2).eval(), folder / "two.safetensors", {})
    weights.save(ConditionalUNet(width=8, scales=2).eval(), folder / "told.safetensors", {})
    rng = np.random.default_rng(0)
    for name, shape in (("b", (14, 16)), ("a", (16, 14)), ("c", (14, 16)), ("d", (14, 16, 3))):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / "pictures" / f"{name}.png")
    (folder / "broken").mkdir()
    Image.fromarray(rng.integers(0, 256, (14, 14), dtype=np.uint8)).save(folder / "broken" / "good.png")
    (folder / "broken" / "bad.png").write_text("no picture")
    return folder


def survey(files, out, *more, pictures="pictures", denoiser="grey.safetensors", sigmas="0.1,0.2"):
    given = [str(files / pictures), "--denoiser", str(files / denoiser), "--sigmas", sigmas, "-k", "3"]
    return run(app, ["survey", *given, "--out", str(out), *more])


def test_table_and_figure(files, tmp_path):
    """Pictures of two sizes, one in colour, which a grey network sees in grey."""
    result = survey(files, tmp_path / "out")
    assert result.exit_code == 0, result.output
    for text in ("lower quartile", "lambda_1", "lambda_3", "effective rank", "complete      8 of 8", "wrote"):
        assert text in result.output
    assert max(map(len, result.output.splitlines()[:8])) <= 80
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["sigma"]) for row in rows][:3] == [
        ("a.png", "0.1"),
        ("a.png", "0.2"),
        ("b.png", "0.1"),
    ]
    pairs = EigenPairs.load(tmp_path / "out" / rows[0]["file"])
    assert pairs.vectors.shape == (3, 1, 16, 14)
    assert min(Image.open(tmp_path / "out" / "survey.png").size) > 300


def test_json_and_resuming(files, tmp_path, monkeypatch):
    told = json.loads(survey(files, tmp_path, "--json").stdout)
    assert told["images"] == 4 and told["results"] == 8 and told["failures"] == []
    assert [level["sigma"] for level in told["levels"]] == [0.1, 0.2]
    found = Survey.load(tmp_path)
    assert told["levels"][0]["values"]["median"] == found.levels()[0].values[1].tolist()
    assert told["products"] == sum(row.products for row in found.rows)
    monkeypatch.setattr(Solver, "__call__", None)  # nothing is solved
    assert json.loads(survey(files, tmp_path, "--json").stdout) == told


def test_svd_in_colour(files, tmp_path):
    result = survey(files, tmp_path, "--part", "svd", denoiser="colour.safetensors", sigmas="0.1")
    assert result.exit_code == 0, result.output
    assert "sv_1" in result.output
    assert Survey.load(tmp_path).spectrum("a.png", 0.1).right.shape == (3, 3, 16, 14)


def test_a_network_that_is_told_the_noise_level(files, tmp_path):
    result = survey(files, tmp_path, denoiser="told.safetensors", sigmas="0.1")
    assert result.exit_code == 0, result.output
    assert Survey.load(tmp_path).request["sigma_keyword"] == "sigma"


def test_a_broken_picture_is_listed(files, tmp_path):
    result = survey(files, tmp_path, pictures="broken", sigmas="0.1")
    assert result.exit_code == 3
    assert "failed        bad.png: FileContentError" in result.output
    assert Survey.load(tmp_path).images == ["good.png"]


def test_above_tolerance(files, tmp_path):
    result = survey(files, tmp_path, "--max-products", "8", sigmas="0.1")
    assert result.exit_code == 3 and "above tol" in result.output


def test_process_0_alone_prints_and_has_the_exit_code(files, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    other = survey(files, tmp_path, pictures="broken", sigmas="0.1")
    assert (other.exit_code, other.output) == (0, "") and not (tmp_path / "table.csv").exists()
    monkeypatch.setenv("RANK", "0")
    assert survey(files, tmp_path, pictures="broken", sigmas="0.1").exit_code == 3
    assert (tmp_path / "survey.png").exists()


def test_interrupted(files, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "__call__", interrupted(Solver.__call__, 2))
        result = survey(files, tmp_path)
    assert result.exit_code == 130 and "interrupted" in result.output
    assert 0 < len(Survey.load(tmp_path).rows) < 8
    assert survey(files, tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"sigmas": "0.1;0.2"}, "--sigmas are numbers"),
        ({"sigmas": "0.1,-1"}, "positive"),
        ({"pictures": "."}, "no pictures"),
        ({"pictures": "nowhere"}, "no pictures"),
        ({"denoiser": "two.safetensors"}, "2 channels"),
        ({"denoiser": "none.safetensors"}, "no denoiser named"),
        ({"method": "power"}, "--method is one of auto, lanczos, lobpcg, chebyshev, dense; got 'power'"),
    ],
)
def test_bad_input(files, tmp_path, more, text):
    method = ["--method", more.pop("method")] if "method" in more else []
    result = survey(files, tmp_path / "out", *method, **more)
    assert result.exit_code == 2 and result.stdout == ""
    assert text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_request(files, tmp_path):
    assert survey(files, tmp_path, sigmas="0.1").exit_code == 0
    result = survey(files, tmp_path, "--seed", "1", sigmas="0.1")
    assert result.exit_code == 2 and "seed = 0" in result.stderr
