"""The command line as its users call it: pictures in, tables and files out, bad input in one line."""

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from denoisers import weights
from denoisers.commands import console, spectra
from denoisers.commands.spectra import app
from denoisers.images.folder import read_grey
from denoisers.networks import BFCNN, UNet
from spectral import eigs as symmetric
from spectral import eigs_full, storage, svd
from spectral.linalg.krylov import KrylovBasis
from spectral.results import EigenPairs, FullEigenPairs, SingularTriplets
from tests.helpers.interrupted import interrupted

run = CliRunner().invoke


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small untrained UNet, and pictures: grey of an awkward size, colour, and none at all."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    unet = UNet(blocks=2, width=4).eval()
    for name, t in unet.state_dict().items():
        if "gamma" in name:
            t.fill_(0.5)  # an untrained network is the identity to rounding, and its spectrum one cluster
    weights.save(unet, folder / "unet.safetensors", {})
    weights.save(BFCNN(layers=3, width=4, channels=3).eval(), folder / "colour.safetensors", {})
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (18, 25), dtype=np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "colour.png")
    Image.fromarray(rng.integers(0, 256, (2, 2), dtype=np.uint8)).save(folder / "tiny.png")
    (folder / "text.png").write_text("no picture")
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    return folder


def eigs(files, *more, image="grey.png", denoiser="unet.safetensors"):
    return run(app, ["eigs", "--denoiser", str(files / denoiser), "--image", str(files / image), *more])


def test_table_figure_and_result(files, tmp_path):
    result = eigs(files, "--sigma", "0.1", "-k", "5", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for text in (
        "lambda",
        "residual",
        "error bound",
        "|<x, e_k>|",
        "asymmetry",
        "forward passes",
        "complete",
    ):
        assert text in result.output
    assert "continued by reflection to 20x28" in result.output
    pairs = EigenPairs.load(tmp_path / "out" / "eigs.safetensors")
    assert pairs.vectors.shape == (5, 1, 1, 20, 28) and pairs.converged.all()
    picture = Image.open(tmp_path / "out" / "eigs.png")
    assert min(picture.size) > 400


def test_json_knows_no_infinity(files):
    """All eigenvalues of a matrix leave none to bound: null, where Python would write -Infinity."""
    result = eigs(files, "-k", "16", "--json", "--crop", "1", "2", "4")

    def refuse(token):
        raise AssertionError(token)

    told = json.loads(result.stdout, parse_constant=refuse)
    assert told["bound"] is None and len(told["values"]) == 16


def test_json(files):
    result = eigs(files, "-k", "3", "--json", "--crop", "1", "2", "16")
    told = json.loads(result.stdout)
    assert len(told["values"]) == len(told["coefficients"]) == 3
    assert told["values"] == sorted(told["values"], reverse=True)
    assert told["products"] == sum(told["spent"].values())
    assert all(told["converged"]) and told["notes"] == []


def test_svd(files, tmp_path):
    options = ["--denoiser", str(files / "unet.safetensors"), "--image", str(files / "grey.png")]
    result = run(app, ["svd", *options, "-k", "4", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "sigma" in result.output and "singular value above" in result.output
    triplets = SingularTriplets.load(tmp_path / "svd.safetensors")
    assert triplets.left.shape == triplets.right.shape == (4, 1, 1, 20, 28)
    assert (tmp_path / "svd.png").stat().st_size > 10_000


def test_noise_is_seeded(files):
    values = [json.loads(eigs(files, "-k", "2", "--json", "--seed", s).stdout)["values"] for s in "001"]
    assert values[0] == values[1] != values[2]


def test_colour(tmp_path):
    """A network in colours reads pictures in colour, and grey ones as three channels."""
    grey = tmp_path / "grey.png"
    Image.fromarray(np.linspace(0, 255, 24 * 20).astype(np.uint8).reshape(24, 20)).save(grey)
    for picture in (["--crop", "60", "180", "16"], ["--image", str(grey)]):
        result = run(app, ["eigs", "--denoiser", "photos-colour", *picture, "-k", "2", "--json"])
        assert result.exit_code == 0, result.output
        told = json.loads(result.output)
        assert told["complete"]
        assert len(told["values"]) == 2


def test_above(files):
    everything = json.loads(eigs(files, "-k", "8", "--json").stdout)["values"]
    bar = (everything[3] + everything[4]) / 2
    above = json.loads(eigs(files, "--above", str(bar), "--json").stdout)["values"]
    np.testing.assert_allclose(above, everything[:4], atol=1e-4)


def test_between(files):
    everything = json.loads(eigs(files, "-k", "8", "--json").stdout)["values"]
    low, high = ((everything[i] + everything[i + 1]) / 2 for i in (5, 1))
    inside = json.loads(eigs(files, "--between", str(low), str(high), "--json").stdout)
    np.testing.assert_allclose(inside["values"], everything[2:6], atol=1e-4)
    assert inside["method"] == "chebyshev"


def test_full_part(files, tmp_path):
    result = eigs(files, "--part", "full", "--left", "-k", "3", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "condition" in result.output and "departure from normality" in result.output
    pairs = FullEigenPairs.load(tmp_path / "full.safetensors")
    assert pairs.vectors.shape == (pairs.k, 1, 1, 20, 28) and pairs.left is not None
    assert (tmp_path / "full.png").stat().st_size > 10_000
    told = json.loads(eigs(files, "--part", "full", "-k", "3", "--json").stdout)
    np.testing.assert_allclose([v[0] for v in told["values"]], pairs.values.real, atol=1e-3)


def test_masks(files, tmp_path):
    """A box and a picture of it are one mask, and singular triplets have one on each side."""
    white = np.zeros((20, 28), dtype=np.uint8)
    white[4:12, 5:20] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    told = [
        json.loads(eigs(files, "-k", "3", "--json", "--mask", mask, *more).stdout)
        for mask in ("4,5,8,15", str(tmp_path / "mask.png"))
        for more in ((), ("--part", "full"))
    ]
    assert told[0]["values"] == told[2]["values"] and told[1]["values"] == told[3]["values"]
    assert all("120 of 560 entries" in one["restriction"] for one in told)
    shown = eigs(files, "-k", "3", "--mask", "4,5,8,15")
    assert "restricted" in shown.output and "120 of 560 entries" in shown.output
    options = ["--denoiser", str(files / "unet.safetensors"), "--image", str(files / "grey.png"), "-k", "2"]
    result = run(app, ["svd", *options, "--mask", "4,5,8,15", "--output-mask", "0,0,20,28", "--json"])
    assert json.loads(result.stdout)["restriction"] == "inputs 120 of 560 entries: dimension 120"


def test_a_colour_picture_is_turned_grey_for_a_grey_network(files, tmp_path):
    """As pictures of a folder are; and so is a mask."""
    grey = read_grey(files / "colour.png", convert=True)[0, 0]
    result = eigs(files, "-k", "2", "--json", image="colour.png")
    assert result.exit_code == 0
    assert result.stderr == f"{files / 'colour.png'} is in colour: its luminance is taken\n"
    problem = console.load_problem(str(files / "unet.safetensors"), files / "colour.png", 0.15, 0)
    assert torch.equal(problem.clean[0, 0], torch.from_numpy(grey))
    masked = eigs(files, "-k", "2", "--json", "--mask", str(files / "colour.png"), "--crop", "0", "0", "16")
    assert masked.stderr == result.stderr
    assert f"{int((grey > 0.5).sum())} of" in json.loads(masked.stdout)["restriction"]


def test_checkpoint(files, tmp_path):
    options = ["-k", "4", "--json", "--checkpoint", str(tmp_path / "solve")]
    first, second = (json.loads(eigs(files, *options).stdout) for _ in range(2))
    np.testing.assert_allclose(second["values"], first["values"], atol=1e-5)
    assert first["complete"] and second["complete"]
    other = eigs(files, *options, "--sigma", "0.4")
    assert other.exit_code == 2 and "another model or image" in other.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sigma", "0"], "sigma is a standard deviation"),
        (["--sigma", "nan"], "sigma is a standard deviation"),
        (["-k", "0"], "-k must be from 1"),
        (["-k", "561"], "k must be from 1"),
        (["--tol", "-1"], "--tol must be positive"),
        (["--crop", "0", "0", "19"], "leaves the 18x25 picture"),
        (["--crop", "0", "0", "0"], "the side of a crop is positive"),
        (["--mask", "10,0,11,5"], "leaves the 20x28 picture"),
        (["--mask", "0,0,0,5"], "leaves the 20x28 picture"),
        (["--mask", "nowhere.png"], "no picture at nowhere.png"),
        (["--image", "missing.png"], "no picture at missing.png"),
        (["--denoiser", "nobody"], "no denoiser named 'nobody'"),
        (["--method", "power"], "--method is one of auto, lanczos, lobpcg, chebyshev, dense; got 'power'"),
        (["--above", "1", "--between", "0", "1"], "--above and --between exclude each other"),
        (["--above", "1", "-k", "4"], "-k is a number of values, and --above and --between find all"),
        (["--between", "0", "1", "-k", "20"], "-k is a number of values"),
        (["--between", "0", "1", "--which", "smallest"], "--which is for -k and --above"),
        (["--foo"], "error: No such option: --foo"),
        (["-k", "x"], "error: Invalid value for '-k'"),
        (["--between", "2", "1"], "--between takes the lower end first, then the higher; got 2 and 1"),
        (["--between", "0", "1", "--method", "lanczos"], "--between is for --method chebyshev"),
        (["--method", "dense", "--checkpoint", "c"], "--checkpoint is for Krylov solves"),
        (["--checkpoint", "."], "--checkpoint is a file, and . a folder: name a file in it"),
        (["--method", "lanczos", "--max-products", "1"], "got --max-products 1"),
    ],
)
def test_bad_options_are_one_line_and_code_2(files, options, says):
    result = eigs(files, *options)
    assert result.exit_code == 2 and says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("image", "denoiser", "says"),
    [
        ("text.png", "unet.safetensors", "not a picture"),
        ("tiny.png", "unet.safetensors", "too small"),
        ("grey.png", "other.safetensors", "other.safetensors"),
        ("grey.png", "text.png", "text.png"),
    ],
)
def test_bad_files_are_one_line_and_code_2(files, image, denoiser, says):
    result = eigs(files, image=image, denoiser=denoiser)
    assert result.exit_code == 2 and says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tol", "nan"], "tol is a finite number"),
        (["--tol", "inf"], "tol is a finite number"),
        (["--above", "nan"], "above is a finite number"),
        (["--above", "inf"], "above is a finite number"),
        (["--between", "0", "inf"], "between is a finite number"),
        (["--sigma", "1e300"], "sigma is a standard deviation"),
        (["--sigma", "inf"], "sigma is a standard deviation"),
        (["--seed", "-1"], "seed must lie in"),
        (["--seed", str(10**30)], "seed must lie in"),
        (["-k", str(10**30)], "k must be from 1"),
    ],
)
def test_numbers_beyond_reason_are_one_line_and_code_2(files, options, says):
    result = eigs(files, *options)
    assert result.exit_code == 2 and says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_json_says_what_was_asked(files):
    told = json.loads(eigs(files, "-k", "2", "--json", "--crop", "1", "2", "16", "--seed", "3").stdout)
    assert told["denoiser"] == str(files / "unet.safetensors") and told["image"] == str(files / "grey.png")
    assert (told["crop"], told["sigma"], told["seed"]) == ([1, 2, 16], 0.15, 3)
    assert told["version"] == version("jacobian-spectra")


def test_exit_codes_tell_of_stops(files, monkeypatch):
    short = eigs(files, "-k", "9", "--method", "lanczos", "--max-products", "14", "--tol", "1e-9", "--json")
    assert short.exit_code == 3 and not all(json.loads(short.stdout)["converged"])
    monkeypatch.setattr(KrylovBasis, "expand", interrupted(KrylovBasis.expand, 12))
    stopped = eigs(files, "-k", "9", "--method", "lanczos", "--tol", "1e-9")
    assert stopped.exit_code == 130 and "interrupted" in stopped.stdout and "lambda" in stopped.stdout
    monkeypatch.setattr(console, "forward_seconds", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    early = eigs(files)
    assert early.exit_code == 130 and early.stderr == "interrupted\n"


def test_a_folder_that_takes_nothing_is_refused_before_the_solve(files, tmp_path, monkeypatch):
    monkeypatch.setattr(spectra, "load_problem", None)  # not reached
    (tmp_path / "file").touch()
    result = eigs(files, "--out", str(tmp_path / "file"))
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["eigs", "svd", "trace", "sure", "density"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_costs_the_files_and_not_the_answer(files, tmp_path, monkeypatch, command, more):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "save_file", full)
    monkeypatch.setattr(Figure, "savefig", full)
    options = ["--denoiser", str(files / "unet.safetensors"), "--image", str(files / "grey.png")]
    few = {"eigs": ["-k", "2"], "svd": ["-k", "2"], "density": ["--probes", "2", "--steps", "9"]}
    few = few.get(command, ["--products", "20"])
    result = run(app, [command, *options, *few, "--out", str(tmp_path / "out"), *more])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: not all of ")
    assert result.stderr.endswith(": [Errno 28] No space left on device\n")
    assert len(result.stderr.splitlines()) == 1
    assert "wrote" not in result.stdout
    if more:
        assert json.loads(result.stdout)["sigma"] == 0.15
    else:
        assert "products" in result.stdout


def test_too_little_memory_is_one_line(files, monkeypatch):
    monkeypatch.setattr(spectra, "load_problem", lambda *_, **__: torch.empty(1 << 60))
    result = eigs(files)
    assert result.exit_code == 2 and result.stderr.startswith("error: out of memory: 4.61e+09 GB were asked")


def test_help_shows_choices_and_what_stands_for_nothing():
    for command, words in (
        ("eigs", (*symmetric.METHODS, *eigs_full.METHODS, "the shipped photograph", "10000", "Exit codes")),
        ("svd", ("auto", *svd.METHODS, "the shipped photograph", "10000")),
        ("synth", ("alpha)",)),
    ):
        shown = run(app, [command, "--help"], env={"COLUMNS": "300"}).output
        assert all(word in shown for word in words)


@pytest.mark.slow
def test_sharded_over_processes(tmp_path):
    """One table, one file of whole vectors: those of one process."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["eigs", "--crop", "60", "180", "40", "-k", "4", "--json", "--out"]
    around = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [*torchrun, "-m", spectra.__name__, *words, str(tmp_path / "two"), "--sharded"]
    told = subprocess.run(command, check=True, capture_output=True, env=around, text=True).stdout
    alone = CliRunner().invoke(app, [*words, str(tmp_path / "one")])
    two, one = json.loads(told), json.loads(alone.stdout)
    np.testing.assert_allclose(two["values"], one["values"], rtol=1e-5)
    pairs = [EigenPairs.load(tmp_path / name / "eigs.safetensors") for name in ("one", "two")]
    assert pairs[0].vectors.shape == pairs[1].vectors.shape == (4, 1, 1, 40, 40)
    overlaps = (pairs[0].vectors * pairs[1].vectors).flatten(1).sum(1)
    torch.testing.assert_close(overlaps, torch.ones(4), rtol=0, atol=1e-3)
