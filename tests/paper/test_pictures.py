"""The figures of pictures that somebody has: from a file to rows, with nothing of the pictures in docs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.paper import __main__ as runner
from benchmarks.paper import page, subject
from benchmarks.paper.__main__ import app
from benchmarks.paper.figure import Row
from benchmarks.paper.generalization import left_alone
from benchmarks.paper.need import contents
from benchmarks.paper.subject import LOOKED, Pictures
from denoisers.evaluation import psnr_curve
from denoisers.images import disjoint, pictures_at
from denoisers.images.calpha import CAlpha
from denoisers.training.data import clean_batches
from denoisers.training.run import Run
from spectral.errors import OptionError

ENOUGH = 150  # for two sets of 10, and 128 that no network sees


def pixels(count=ENOUGH, side=16):
    """Smooth grey pictures, all different."""
    images = CAlpha(side, 2.0)(count, seed=1)[:, 0]
    return np.rint(255 * images).astype(np.uint8)


@pytest.fixture
def file(tmp_path):
    """Pictures in a file."""
    np.savez(tmp_path / "mine.npz", images=pixels())
    return tmp_path / "mine.npz"


@pytest.fixture
def tiny(monkeypatch):
    """Six steps of small networks on 8x8 pixels, and few samples; spectra, which have tests, left out."""
    net = {"blocks": 1, "width": 4}
    small = {**subject.LONGER["small"], "network_config": net, "size": 8, "batch": 4, "steps": 6}
    monkeypatch.setitem(subject.LONGER, "small", small)
    monkeypatch.setitem(Pictures.drawn, "small", 3)
    monkeypatch.setattr("denoisers.training.run.CALIBRATION_BATCHES", 2)
    for module in ("generalization", "similarity", "shuffled"):
        monkeypatch.setattr(f"benchmarks.paper.{module}.audit", looked)


def looked(model, images, size, **how):
    """In the place of `audit`: that images of both sides come."""
    assert images(16, size).shape == (16, 1, size, size)
    assert images(1, 4 * size).shape == (1, 1, 4 * size, 4 * size)
    return [Row("a", 1.0)], {}


def call(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_figures_of_a_file_from_the_command_to_the_page(file, tiny, tmp_path, monkeypatch):
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    words = ("--images", file, "--runs", runs)
    advance = Run.advance

    def until(self, batches):
        if self.step == 4 and self.config.shuffled:
            raise KeyboardInterrupt
        loss = advance(self, batches)
        self.checkpoint()
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", until)
        assert "the same command goes on" in call(*words, code=130)
    out = call("shuffled", *words)
    assert "going on with mine-shuffled-8px-n10-first-unet" in out and "training mine" not in out
    made = {path.name for path in runs.glob("*.*")}
    names = [f"{name}-mine" for name in ("generalization", "similarity", "shuffled")]
    ends = {f"{name}.{end}" for name in names for end in ("json", "png")}
    assert made == ends | {"similarity-mine-pictures.png", "shuffled-mine-pictures.png"}

    docs.mkdir()
    (docs / "README.md").write_text("<!-- figures -->\n<!-- /figures -->")
    monkeypatch.setattr(runner, "DOCS", docs)
    monkeypatch.setattr(page, "DOCS", docs)
    assert "training mine" not in call(*words, "--write")
    assert {path.name for path in docs.iterdir()} == ends | {"README.md"}
    text = (docs / "README.md").read_text()
    for name in names:
        assert text.count(f"]({name}.png)") == 1
        assert str(tmp_path) not in (docs / f"{name}.json").read_text()
    assert "150 pictures of `mine.npz`, in grey, which are not passed on, 8x8; 3 samples" in text
    assert "`python -m benchmarks.paper shuffled --scale small --images PATH --write`" in text
    told = json.loads((docs / "similarity-mine.json").read_text())
    assert [each["images_seen"] for each in told["networks"]] == [24, 24]
    assert told["networks"][0]["configuration"]["data"] == "mine.npz"
    assert len(told["data"]["n_10"]["cosine"]["between"]) == 3


def test_a_folder_is_read_once_and_is_the_file(file, tiny, tmp_path, monkeypatch):
    folder, runs = tmp_path / "pictures", tmp_path / "runs"
    folder.mkdir()
    for i, each in enumerate(pixels()):
        Image.fromarray(each).save(folder / f"{i:03}.png")
    ours, theirs = Pictures(folder, runs), Pictures(file, runs)
    needs = [each.finite("small", 10, "second") for each in (ours, theirs)]
    for need in needs:
        need.train(runs, Console(quiet=True))
    weights = [need.load(runs).state_dict() for need in needs]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    np.testing.assert_array_equal(ours.held_out(needs[0])(5, 8), theirs.held_out(needs[1])(5, 8))
    monkeypatch.setattr("denoisers.images.pictures.read_grey", None)
    np.testing.assert_array_equal(ours.training(needs[0]), theirs.training(needs[1]))


def test_no_network_sees_what_it_is_measured_on(file, tmp_path):
    pictures = Pictures(file, tmp_path)
    need = pictures.finite("small", 10, "second")
    size = need.config.size
    unseen = pictures.held_out(need)(LOOKED, size).numpy()
    everything = pictures_at(file, size)(ENOUGH)
    first, second = disjoint(pictures_at(file, size), 10, need.config.data_seed + 1)
    np.testing.assert_array_equal(pictures.training(need), second)
    sets = [{image.tobytes() for image in images} for images in (everything, unseen, first, second)]
    assert [len(each) for each in sets] == [ENOUGH, LOOKED, 10, 10]
    assert len(sets[1] | sets[2] | sets[3]) == LOOKED + 20 and sets[1] < sets[0]
    shuffled = pictures.orders("small")[1]
    moved = pictures.held_out(shuffled)(LOOKED, size).numpy()
    trained = clean_batches(replace(shuffled.config, batch=10))(0)
    ours = {image.tobytes() for image in pictures.training(shuffled)}
    assert {image.tobytes() for image in trained} == ours and len(ours) == 10
    assert not ours & {image.tobytes() for image in moved}
    assert not np.array_equal(moved, unseen)
    np.testing.assert_array_equal(np.sort(moved.reshape(LOOKED, -1)), np.sort(unseen.reshape(LOOKED, -1)))


@pytest.mark.parametrize(
    ("available", "counts"),
    [
        (148, (10,)),
        (170, (10, 20)),
        (400, (10, 100)),
        (12_785, (10, 100, 1000, 6000)),
        (10**6, (10, 100, 1000, 10_000)),
    ],
)
def test_sets_are_as_large_as_there_are_pictures_for(file, tmp_path, available, counts):
    pictures = Pictures(file, tmp_path)
    pictures.__dict__["available"] = available
    assert pictures.counts("small") == counts


def test_a_network_is_of_the_pictures_and_not_of_where_they_lie(file, tmp_path):
    other, changed = tmp_path / "other", tmp_path / "changed"
    for folder in (other, changed):
        folder.mkdir()
    (other / "mine.npz").write_bytes(file.read_bytes())
    np.savez(changed / "mine.npz", images=255 - pixels())
    names = [Pictures(path, tmp_path).finite("small", 10).name for path in (file, other / file.name)]
    assert names[0] == names[1] and names[0].startswith("mine-16px-n10-first-unet-")
    assert Pictures(changed / "mine.npz", tmp_path).finite("small", 10).name != names[0]
    assert contents(str(file)) == contents(str(other / "mine.npz"))


def test_pictures_that_cannot_be_used(file, tmp_path):
    np.savez(tmp_path / "few.npz", images=pixels(147))
    np.savez(tmp_path / "other.npz", pictures=pixels(2))
    for name, message in [
        ("few.npz", "has 147 pictures: two disjoint sets of 10, and 128 that no network is trained on, take"),
        ("other.npz", "holds pictures, not uint8 pictures"),
        ("absent.npz", "no file of pictures"),
        ("absent", "no pictures (.bmp"),
    ]:
        out = " ".join(
            call("--images", tmp_path / name, "--runs", tmp_path / "runs", "--list", code=2).split()
        )
        assert out.startswith("error: ") and message in out and "Traceback" not in out
    assert "no figure of pictures slopes" in call("slopes", "--images", file, "--list", code=2)
    with pytest.raises(OptionError, match="take 148"):
        Pictures(tmp_path / "few.npz", tmp_path)


def test_a_broken_picture_is_told_in_a_line(tiny, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, each in enumerate(pixels()):
        Image.fromarray(each).save(folder / f"{i:03}.png")
    (folder / "100.png").write_bytes(b"none")
    out = call("generalization", "--images", folder, "--runs", tmp_path / "runs", code=2)
    assert "100.png is not a picture" in " ".join(out.split()) and "Traceback" not in out


def test_where_images_are_better_left_alone():
    images = np.full((3, 1, 8, 8), 0.1, np.float32)  # 20 dB above 0
    curve = psnr_curve(lambda y: 0 * y, images, [1.0, 0.5, 0.01])
    assert left_alone(curve, "they") == " From 40 dB in on they come out worse than they went in."
    assert left_alone(psnr_curve(lambda y: 0 * y, images, [1.0, 0.5]), "they") == ""


def test_colour_is_taken_by_its_luminance(tmp_path):
    grey = pixels()
    np.savez(tmp_path / "grey.npz", images=grey)
    np.savez(tmp_path / "colour.npz", images=np.repeat(grey[..., None], 3, -1))
    one, other = (Pictures(tmp_path / f"{name}.npz", tmp_path) for name in ("grey", "colour"))
    a, b = (each.training(each.finite("small", 10)) for each in (one, other))
    np.testing.assert_array_equal(a, b)
