"""The runner of the paper's figures, on a figure that takes seconds."""

import json
import math
import re
import threading
from dataclasses import replace
from typing import get_args

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.paper import __main__ as runner
from benchmarks.paper import known, need, page
from benchmarks.paper.__main__ import app
from benchmarks.paper.figure import Made, PaperFigure, Row
from benchmarks.paper.known import Known
from benchmarks.paper.need import Need, chain, train_all
from benchmarks.paper.networks import Scale, short_of_paper
from benchmarks.paper.ray import source, tangents
from benchmarks.paper.registry import FIGURES, needs
from denoisers.evaluation import psnr_curve
from denoisers.networks import Denoiser
from denoisers.training import TrainConfig
from denoisers.training.run import Run
from spectral.errors import CheckpointError

CONFIG = TrainConfig(
    data="ray", alpha=3.0, network_config={"blocks": 1, "width": 4}, size=8, batch=2, steps=6
)


def measure(scale, networks):
    """A curve of the network, and no spectra."""
    curve = psnr_curve(networks(Need(CONFIG)), source(8)(4), [0.1, 0.2])
    row = Row.of("slope, sigma = 0.1", curve.slope(), 1.0, "1 (optimum)")
    return Made(
        [row], "4 rays", curve.plot(), [row], {"a": [row], "b": [row]}, {"output": curve.denoised.tolist()}
    )


TINY = PaperFigure("tiny", "figure 0", "A figure that takes seconds", lambda scale: [Need(CONFIG)], measure)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Call the runner on the tiny figure."""
    monkeypatch.setitem(FIGURES, "tiny", TINY)

    def call(*words, code=0):
        done = CliRunner().invoke(app, ["tiny", *words, "--out", str(tmp_path / "out")])
        assert done.exit_code == code, done.output
        return done.output

    return call


def stopped_at(monkeypatch, step):
    """Let training be interrupted before a step."""
    advance = Run.advance

    def until(self, batches):
        if self.step == step:
            raise KeyboardInterrupt
        loss = advance(self, batches)
        self.checkpoint()
        return loss

    monkeypatch.setattr(Run, "advance", until)


def test_a_figure_that_was_stopped_is_the_one_that_was_not(cli, tmp_path, monkeypatch):
    whole, parts = (str(tmp_path / name) for name in ("whole", "parts"))
    cli("--runs", whole)
    told = [json.loads((tmp_path / "out/tiny.json").read_text())]
    assert (tmp_path / "out/tiny.png").stat().st_size < 200_000
    with monkeypatch.context() as patch:
        stopped_at(patch, 4)
        assert "the same command goes on" in cli("--runs", parts, code=130)
    assert "to train" in cli("--runs", parts, "--list")
    assert "going on with" in cli("--runs", parts)
    told.append(json.loads((tmp_path / "out/tiny.json").read_text()))
    for one in told:
        one["networks"][0].pop("minutes")
    assert told[0] == told[1]
    trained = Need(CONFIG).folder(tmp_path / "whole") / "weights.safetensors"
    before = trained.stat().st_mtime_ns
    assert "training" not in cli("--runs", whole, "--train-only")
    assert trained.stat().st_mtime_ns == before
    assert "networks: small 1/1, gpu 1/1, paper 1/1" in cli("--runs", whole, "--list")


def test_minutes_are_a_limit(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "advance", lambda self, batches: 0.0)
    cli("--runs", str(tmp_path / "runs"), "--minutes", "0.01", "--train-only", code=130)


def test_a_key_is_of_what_the_weights_depend_on():
    need = Need(CONFIG)
    assert need.key == Need(replace(CONFIG)).key and len(need.key) == 12
    assert need.key == Need(replace(CONFIG, alpha=3)).key
    others = [replace(CONFIG, seed=2), replace(CONFIG, steps=7), replace(CONFIG, data="disks")]
    tuned = Need(CONFIG, start=Need(others[0]))
    assert len({need.key, tuned.key, *(Need(c).key for c in others)}) == 5
    assert chain([tuned, need, Need(others[0])]) == [Need(others[0]), tuned, need]


def test_a_network_of_another_configuration_is_not_gone_on_with(tmp_path, monkeypatch):
    from rich.console import Console

    need, quiet = Need(CONFIG), Console(quiet=True)
    stopped_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        need.train(tmp_path, quiet)
    other = Need(replace(CONFIG, seed=5))
    need.folder(tmp_path).rename(other.folder(tmp_path))
    with pytest.raises(CheckpointError):
        other.train(tmp_path, quiet)


def test_rows():
    assert Row("a", 0.5, 0.02, 0.75).cells() == ["a", "0.75", "0.500 +- 0.02", "-0.250"]
    assert Row("a", 0.5, says="falls").cells() == ["a", "falls", "0.500", ""]
    assert Row("a", 2.0, math.nan, 2.0, "2 (optimum)", 1).cells() == ["a", "2 (optimum)", "2.0", "+0.0"]


def test_the_page_is_made_of_what_there_is(cli, tmp_path):
    cli("--runs", str(tmp_path / "runs"))
    folder = tmp_path / "out"
    (folder / "README.md").write_text("before\n<!-- figures -->\n<!-- /figures -->\nafter")
    page.publish(folder)
    text = (folder / "README.md").read_text()
    assert text.startswith("before") and text.endswith("after")
    assert "## Figure 0: A figure that takes seconds" in text and "![" in text
    assert "| slope, sigma = 0.1 | 1 (optimum) |" in text
    assert "not run yet" in text
    assert "Networks: 1 of UNet (blocks 1, width 4), 12 images of 8x8, in 0 min." in text
    page.publish(folder)
    assert (folder / "README.md").read_text() == text


def test_every_figure_names_its_networks():
    for figure in FIGURES.values():
        for scale in get_args(Scale):
            named = chain(figure.needs(scale))
            assert len({need.name for need in named}) == len(named)
    assert FIGURES["disks"].needs("paper")[0].config.batch == 512


@pytest.mark.parametrize("scale", get_args(Scale))
def test_all_networks_of_a_scale_are_listed_once_and_can_be_trained_in_order(scale):
    listed = needs(scale)
    keys = [need.key for need in listed]
    assert len(set(keys)) == len(keys)
    assert {need.key for f in FIGURES.values() for need in chain(f.needs(scale))} == set(keys)
    for i, each in enumerate(listed):
        assert each.start is None or each.start.key in keys[:i]


def test_at_gpu_a_network_is_one_run_on_images_of_the_side_that_figures_share():
    slopes, shuffled = FIGURES["slopes"].needs("gpu"), FIGURES["shuffled"].needs("gpu")
    assert [need.config.emphasis for need in slopes] == [0.75, 0.75, 1.25, 1.5]
    assert [need.config.precision for need in slopes] == ["bfloat16"] * 2 + ["float32"] * 2
    assert shuffled[0] == slopes[2]
    blind = [need for need in needs("gpu") if need.config.network == "UNet"]
    assert all(need.start is None for need in blind)
    assert {need.config.size for need in blind if not need.config.images} == {40}
    gaps, sizes = FIGURES["generalization"].needs("gpu"), FIGURES["sizes"].needs("gpu")
    assert {need.config.images for need in sizes if need in gaps} == {100, 1000, 10_000}


def test_one_step_of_every_network_of_a_gpu(tmp_path, monkeypatch):
    """Each is built, is shown its images and is read again, on the CPU, a hundredth of its size."""
    from rich.console import Console

    monkeypatch.setattr("denoisers.training.run.CALIBRATION_BATCHES", 2)

    def tiny(each):
        c = each.config
        less = {"width": 8} if c.network != "UNet" else {"width": 4}
        config = replace(
            c, network_config={**c.network_config, **less}, images=min(c.images, 4), batch=2, steps=1
        )
        return Need(config, each.start and tiny(each.start))

    for each in {each.key: each for each in map(tiny, needs("gpu"))}.values():
        each.train(tmp_path, Console(quiet=True), device="cpu")
        side = each.config.size
        told = {"sigma": 0.5} if each.config.network != "UNet" else {}
        with torch.no_grad():
            assert each.load(tmp_path)(torch.zeros(1, 1, side, side), **told).isfinite().all()


def test_what_a_network_has_less_of_than_the_papers():
    disks = FIGURES["disks"]
    assert short_of_paper(disks.needs("paper")[0]) == ""
    told = short_of_paper(disks.needs("gpu")[0])
    assert told.startswith(
        "2 blocks from 32 channels on saw 1,024,000 images, in the paper 3 from 64 on 99,8"
    )
    assert "saw 169,600 images" in short_of_paper(disks.needs("small")[0])  # 57,600, then 112,000


def test_processes_share_what_is_to_be_trained(tmp_path, monkeypatch):
    from rich.console import Console

    first, second = Need(CONFIG), Need(replace(CONFIG, seed=5))
    quiet, console = Console(quiet=True), Console(record=True, quiet=False, width=200)
    monkeypatch.setattr(need, "POLL", 0.01)
    with need._alone(first.folder(tmp_path)):
        with pytest.raises(BlockingIOError):
            first.train(tmp_path, quiet)
        other = threading.Thread(target=train_all, args=([first, second], tmp_path, console))
        other.start()
        for _ in range(3000):
            if "waiting" in console.export_text(clear=False):
                break
            other.join(0.01)
        assert second.ready(tmp_path) and not first.ready(tmp_path)
    other.join(60)
    assert first.ready(tmp_path) and not other.is_alive()


def test_docs_keep_the_figure_of_the_higher_scale(cli, tmp_path, monkeypatch):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "README.md").write_text("<!-- figures -->\n<!-- /figures -->")
    monkeypatch.setattr(runner, "DOCS", folder)
    words = ("--runs", str(tmp_path / "runs"), "--write")
    cli(*words)
    assert "Scale `small`" in (folder / "README.md").read_text()
    cli(*words, "--scale", "gpu")
    assert "tiny: docs has it at scale gpu, which is kept" in cli(*words)
    told = json.loads((folder / "tiny.json").read_text())
    assert told["scale"] == "gpu" and "Scale `gpu`" in (folder / "README.md").read_text()
    cli("--runs", str(tmp_path / "runs"))  # elsewhere what is asked is made
    assert json.loads((tmp_path / "out/tiny.json").read_text())["scale"] == "small"


class Projection(Denoiser, abstract=True):
    """The optimum of a ray: the projection on its image."""

    channels = 1

    def forward(self, y):
        e = torch.from_numpy(source(y.shape[-1]).image).flatten()
        e = e / e.norm()
        return ((y.flatten(1) @ e)[:, None] * e).reshape(y.shape)


def test_the_optimum_has_the_known_answers(monkeypatch):
    monkeypatch.setattr(known, "SIGMAS", (0.1,))
    ray = Known(lambda scale: Need(CONFIG), source, tangents, 1, "a ray")
    made = ray.measure("small", lambda need: Projection())
    found = {row.quantity: row.here for row in [*made.rows, *made.audits["`ray`"]]}
    assert found["slope of output against input PSNR, input PSNR 0 to 32 dB"] == pytest.approx(1, abs=1e-5)
    assert found["trace of J, sigma = 0.1"] == pytest.approx(1, abs=0.02)
    assert found["eigenvalues of (J + J')/2 above 0.5, sigma = 0.1"] == 1
    assert found["the same in e_1, ..., e_6, sigma = 0.1"] == pytest.approx(1, abs=1e-5)
    (angle,) = (value for name, value in found.items() if name.startswith("largest angle"))
    (apart,) = (value for name, value in found.items() if name.startswith("angle"))
    assert angle < 0.01 and apart < 90
    assert "At sigma = 0.1 the eigenvalues above 0.5 are 1.0 " in made.note
    assert "own intercept is 5.5 dB above" in made.note
    (times,) = re.findall(r"([0-9.]+) times the optimum's 1 sigma", made.note)
    assert float(times) == pytest.approx(1, abs=4 * (2 / 128) ** 0.5)  # of 128 chi-squares
    (gain,) = (row for row in made.rows if row.quantity.startswith("intercept"))
    assert abs(gain.here - gain.paper) < 3 * gain.half
