"""The commands evaluate and compare: numbers told, figures written, bad input in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import denoisers
import denoisers.images.calpha
import denoisers.networks
import denoisers.weights
from denoisers.commands.networks import app
from denoisers.evaluation import Comparison, PSNRCurve, nearest, psnr_curve
from denoisers.evaluation.spread import told as told_in_words
from denoisers.images import Folder

SQUARES = ("--alpha", 2, "--size", 16, "--count", 6)
QUICK = ("--beta", 1, "--h0", 0.3, "--sigma-end", 0.3, "--count", 2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    denoisers.weights.save(denoisers.networks.UNet(1, 2), path, {})
    return path


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("even", 3), ("odd", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            picture = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    return "--data", tmp_path / "even", "--data", tmp_path / "odd"


def test_a_curve_its_slope_and_a_figure(run, net, tmp_path):
    window = ("--window", 12, 26)
    result = run("evaluate", net, *SQUARES, "--curve", *window, "--json", "--out", "figures")
    told = json.loads(result.stdout)
    images = denoisers.images.calpha.synthesize(6, size=16, alpha=2.0, seed=0)
    expected = psnr_curve(denoisers.load(net), images, told["curve"]["sigmas"])
    slope = expected.slope(12, 26)
    assert told["curve"]["slope"]["value"] == pytest.approx(float(slope))
    assert told["curve"]["slope"]["low95"] == pytest.approx(slope.interval()[0])
    assert told["curve"]["denoised"]["value"] == pytest.approx(expected.mean().value.tolist())
    assert len(told["psnr"]) == 9 and told["count"] == 6
    assert min(Image.open("figures/curve.png").size) > 600
    assert torch.equal(PSNRCurve.load("figures/curve.safetensors").denoised, expected.denoised)
    assert told["files"] == ["figures/curve.png", "figures/curve.safetensors"]
    text = run("evaluate", net, *SQUARES, "--curve", *window).stdout
    assert f"{told_in_words(slope)} from 12 to 26 dB" in text


def test_two_images_tell_no_error(run, net):
    text = run("evaluate", net, *SQUARES[:-1], 2, "--sigma", 0.1).stdout
    assert "+-" not in text and "errors over images take 3 of them at least, got 2" in text
    assert "+-" in run("evaluate", net, *SQUARES, "--sigma", 0.1).stdout


def test_homogeneity_and_sure(run, net):
    more = (*SQUARES, "--sigma", 0.1, "--sigma", 0.3, "--homogeneity", "--sure")
    told = json.loads(run("evaluate", net, *more, "--json", "--out", "figures").stdout)
    assert 0 < told["homogeneity"]["worst"] == max(told["homogeneity"]["errors"]) < 1e-5
    assert told["sure"]["sigmas"] == [0.1, 0.3] and len(told["sure"]["covered"]) == 2
    for true, sure, off in zip(
        *(told["sure"][k]["value"] for k in ("true", "sure", "difference")), strict=True
    ):
        assert sure - true == pytest.approx(off)
    assert Image.open("figures/sure.png").size > (400, 400)
    text = run("evaluate", net, *more).stdout
    assert "homogeneity" in text and "SURE - true" in text


def test_folders_and_patches_are_the_images(run, net, folders):
    told = json.loads(run("evaluate", net, *folders[:2], "--size", 8, "--homogeneity", "--json").stdout)
    assert told["count"] == 3
    rows = json.loads(run("evaluate", net, *folders[:2], "--size", 8, "--json").stdout)
    expected = psnr_curve(denoisers.load(net), Folder("even", 8)(3), [0.05, 0.1, 0.3])
    assert [row["denoised"] for row in rows] == pytest.approx(expected.denoised.mean(1).tolist())
    picture = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    Image.fromarray(picture).save("picture.png")
    patches = ("evaluate", net, "--image", "picture.png", "--patch-size", 6, "--sigma", 0.2)
    told = json.loads(run(*patches, "--homogeneity", "--json").stdout)
    assert told["count"] == 6 and told["images"] == "6 patches of 6x6 of picture.png"
    cut = [picture[r : r + 6, c : c + 6] for r in (0, 6) for c in (0, 6, 12)]
    images = torch.from_numpy(np.stack(cut)[:, None].astype(np.float32) / 255)
    expected = psnr_curve(denoisers.load(net), images, [0.2])
    assert told["psnr"][0]["denoised"] == pytest.approx(float(expected.denoised.mean()))


def test_pictures_of_a_file_are_those_of_a_folder(run, net, folders):
    files = []
    for i in (1, 3):
        pictures = [np.asarray(Image.open(path)) for path in sorted(folders[i].glob("*.png"))]
        np.savez(folders[i].with_suffix(".npz"), images=pictures)
        files += ["--data", folders[i].with_suffix(".npz")]
    for words in (("evaluate", net, *folders[:2]), ("compare", net, net, *folders, *QUICK)):
        of_file = [files[folders.index(word)] if word in folders[1::2] else word for word in words]
        results = [run(*told, "--size", 8, "--json").stdout for told in (words, of_file)]
        found = [json.loads(result) for result in results]
        if words[0] == "compare":
            near = [[row.pop("nearest"), row.pop("data"), row.pop("seconds")] for row in found]
            assert near[1][0] == [
                [f"{name}.npz[{file.removesuffix('.png')}]" for file in row]
                for name, row in zip(("even", "odd"), near[0][0], strict=True)
            ]
        assert found[0] == found[1]


def test_compare_tells_what_it_draws(run, net, folders):
    result = run("compare", net, net, *folders, "--size", 8, *QUICK, "--json", "--out", "figures")
    told = json.loads(result.stdout)
    converged = [all(of) for of in told["converged"]]
    assert result.exit_code == (0 if all(converged) else 3)
    assert told["uncentred"]["between"]["value"] == pytest.approx(1)
    assert told["training_images"] == [3, 4]
    found = Comparison.load("figures/compare.safetensors")
    near = nearest(found.second.images, Folder("odd", 8)(4))
    assert told["uncentred"]["second"]["each"] == near.similarity.tolist()
    assert told["nearest"][1] == [f"{j}.png" for j in near.index.tolist()]
    assert min(Image.open("figures/compare.png").size) > 300
    text = run("compare", net, net, *folders, "--size", 8, *QUICK).stdout
    assert "A to its nearest" in text and "1.000 (1.000)" in text
    assert "+-" not in text and "errors over samples take 3 of them at least, got 2" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "net.safetensors", "--out", "x"], "figures of --curve and --sure"),
        (["evaluate", "net.safetensors", "--window", 1, 2], "--window is for --curve"),
        (["evaluate", "net.safetensors", "--curve", "--window", 1, 2, *SQUARES], "at least two noise levels"),
        (["evaluate", "net.safetensors", "--data", "even", "--alpha", 2], "give one of --image"),
        (
            ["evaluate", "net.safetensors", "--data", "even", "--patch-size", 2],
            "--patch-size is for one picture",
        ),
        (["evaluate", "net.safetensors", "--patch-size", 0], "--patch-size must be >= 1, got 0"),
        (["evaluate", "net.safetensors", "--patch-size", 9998], "--patch-size is at most a side"),
        (["evaluate", "net.safetensors", "--alpha", 2, "--size", 7], "--size must be a multiple of 2"),
        (["evaluate", "net.safetensors", "--data", "absent"], "no pictures"),
        (
            ["evaluate", "net.safetensors", "--data", "even"],
            "0.png is 8 pixels wide or high, and is not enlar",
        ),
        (["evaluate", "net.safetensors", "--data", "few.npz", "--size", 8], "few.npz[0] is 6 pixels"),
        (["compare", "net.safetensors", "net.safetensors", "--data", "even", "--data", "odd"], "--size 8 at"),
        (["compare", "net.safetensors", "net.safetensors", "--data", "even"], "--data is given twice"),
        (["compare", "net.safetensors", "absent", "--data", "even", "--data", "odd"], "no denoiser named"),
        (["compare", "net.safetensors", "rgb.safetensors", "--data", "even", "--data", "odd"], "channels"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, net, folders, tmp_path, arguments, message):
    denoisers.weights.save(denoisers.networks.UNet(1, 2, channels=3), tmp_path / "rgb.safetensors", {})
    np.savez(tmp_path / "few.npz", images=np.zeros((2, 6, 9), np.uint8))
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and message in line
