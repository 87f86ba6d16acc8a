"""One image over several processes: the Jacobian, spectra and products of one, and what is refused."""

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import denoisers
import spectral
from spectral.errors import CheckpointError, OptionError, ShapeError
from tests.helpers.ranks import ROOT, ended, started, together
from tests.helpers.sharded import answers, image, models, network, program_bytes, restricted

HERE = "tests.helpers.sharded:"
SMALL = [("bfcnn-3-8", (1, 1, 32, 32)), ("unet-1-4", (1, 1, 30, 12)), ("bfcnn-6-8", (1, 1, 33, 8))]
STRIPS = [14, 8, 9]


@pytest.fixture(scope="module")
def by_two():
    """What two processes find."""
    works = [
        ("matrices", (SMALL,)),
        ("refusals", (list(models()), (1, 1, 64, 16))),
        ("refusals", (["by size"], (1, 1, 48, 16))),
        ("strips", ("unet-1-4", [15, 17], 8)),
        ("refusals", (["by size"], (1, 1, 1, 16))),
        ("spectra", ("bfcnn-4-8", (1, 1, 48, 40), 4, torch.float64)),
        ("shortened", (["bfcnn-3-8", "bfcnn-8-8"], (1, 1, 64, 12))),
        ("half_refusals", (["ramp", "table", "by jumps"], (1, 1, 64, 16))),
        ("refusals", (["linear, by size at zero", "linear at zero"], (1, 1, 48, 16))),
        ("differing", ()),
    ]
    return together(2, HERE + "several", works)


def check_matrix(told, kind, shape):
    J = spectral.jacobian(network(kind), image(*shape))
    M = J.dense()
    for one in told:
        torch.testing.assert_close(one["matrix"], M, rtol=0, atol=1e-12 * M.abs().max().item())
        torch.testing.assert_close(one["transposed"], M.mT, rtol=0, atol=1e-12 * M.abs().max().item())
        assert one["adjoint"] < 1e-12
    check_traffic(told, shape, J.reach())


def check_traffic(told, shape, reach):
    """Bytes as the formula has them: rows of the halo, each of all channels and columns."""
    rows, width = math.prod(shape[:-2]), shape[-1]
    for one in told:
        own, extended = one["rows"]
        wide = 8 if "float64" in one["repr"] else 4
        assert one["ahead"] == one["behind"] == one["formula"]
        assert one["ahead"][1] == (extended - own) * rows * width * wide
        assert extended - own <= sum(reach.halo)
    assert sum(one["ahead"][0] for one in told) == sum(one["ahead"][1] for one in told)


@pytest.mark.parametrize("case", range(len(SMALL)), ids=[kind for kind, _ in SMALL])
def test_the_matrix_is_that_of_one_process(by_two, case):
    check_matrix([one[0][case] for one in by_two], *SMALL[case])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("attention", "attention: it looks at all rows"),
        ("group norm", "its means are over all rows"),
        ("layer norm", "its means are over all rows"),
        ("pooling", "averages over all rows"),
        ("circular", "not known"),
        ("resized", "has not the rows"),
        ("ramp", "something else at 40 rows in place of 32"),
        ("table", "something else at 40 rows in place of 32"),
        ("by jumps", "something else"),
        ("by size", "something else at"),
    ],
)
def test_what_cannot_be_cut_is_refused(by_two, name, why):
    """By its steps, or by what it computes; by the same exception in each process."""
    for one in by_two:
        assert one[1][name].startswith("ReachError") and why in one[1][name]


def test_what_goes_by_the_size_of_the_whole_is_refused(by_two):
    """Strips are tried at 33 rows at most: the switch at 40 is met in the whole alone."""
    for one in by_two:
        assert "something else at the whole image" in one[2]["by size"]


def test_what_goes_by_size_is_refused_where_its_value_is_zero(by_two):
    """f(0) is zero at every size, and J is not."""
    for one in by_two:
        assert "something else at the whole image" in one[8]["linear, by size at zero"]
        assert one[8]["linear at zero"] == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tol", "tol = 0.0001 in process 0, and 0.001 in process 1"),
        ("k", "k = 3 in process 0, and 4 in process 1"),
        ("method", "method = auto in process 0, and lobpcg in process 1"),
        ("a method's block", "block=2.* in process 0, and .*block=4"),
        ("max_products", "max_products = None in process 0, and 30 in process 1"),
        ("seed", "seed = 0 in process 0, and 1 in process 1"),
        ("above", "above = None in process 0, and 0.9 in process 1"),
        ("start", "start = None in process 0, and torch.float32, 5 axes in process 1"),
        ("checkpoint", "checkpoint = None in process 0, and solve.safetensors in process 1"),
        ("door", "call = top_eigs in process 0, and trace in process 1"),
        ("misspelt", "unexpected keyword argument 'tool'|arguments = "),
        ("weights", "other weights"),
        (
            "width",
            r"different images: shape = .*32, 8\] in process 0, and .*32, 7\] in process 1",
        ),
        ("given", "different images: given = whole in process 0, and strip in process 1"),
        ("keyword", "model_kwargs = .* in process 0"),
        ("no image", "^OptionError: y must be a floating-point tensor, got NoneType"),
        ("no model", "^OptionError: a model is called on y, and a int cannot be"),
        ("integers", "^OptionError: y must be a floating-point tensor, got torch.uint8"),
        ("no rows", "^ShapeError: y has shape .*: expected at least one entry"),
        ("not finite", "^NotFiniteError: y holds NaN or infinity"),
        ("starts", "^OptionError: start holds 2, 1 vectors in the processes"),
        ("directions", "^OptionError: orthogonal_to holds 2, 1 vectors in the processes"),
        ("vectors", r"vectors = \[2\] in process 0, and \[1\] in process 1"),
        ("length", "of the rows here = True in process 0, and False in process 1"),
        ("product", "different things: call = A.apply in process 0, and A.apply_transpose in process 1$"),
        ("product, door", "different things: call = trace in process 0, and A.apply in process 1$"),
        ("gathered", "shape = .*2, .* in process 0, and .*1, .* in process 1"),
        ("outputs", "^ReachError: .* something else of one strip than of another: output = "),
        ("progress", "^$"),
        ("keywords alike", "^$"),
        ("after all", "^$"),
    ],
)
def test_processes_that_ask_for_different_things_end_at_once(by_two, name, why):
    """In each process, by one sentence that names what differs; and the next call is as ever."""
    for one in by_two:
        said, seconds = one[9][name]
        assert re.search(why, said) and (seconds < 30 or not said), (said, seconds)


def test_a_reach_that_is_a_row_short_is_noticed(by_two):
    """By one of the two processes, and told by both."""
    for one in by_two:
        assert len(one[6]) == 4
        for name, said in one[6].items():
            assert "computes something else" in said, name


def test_half_precision_is_refused(by_two):
    """A hundred roundings of bfloat16 would be most of f; and sums alone do not tell images apart."""
    for one in by_two:
        for name in ("ramp", "table", "by jumps"):
            assert one[7][name].startswith("ReachError") and "half precision" in one[7][name]
        assert one[7]["mirrored"].startswith("ShapeError")


def test_strips_begin_where_poolings_do(by_two):
    for one in by_two:
        assert one[3]["failure"].startswith("ReachError")
        assert "multiples of 2 rows" in one[3]["failure"] and "begin at 15: cut at 16" in one[3]["failure"]


def test_more_processes_than_rows(by_two):
    for one in by_two:
        assert one[4]["by size"].startswith("OptionError") and "start fewer" in one[4]["by size"]


def test_a_solve_is_that_of_one_process(by_two):
    check_solve([one[5] for one in by_two], "bfcnn-4-8", (1, 1, 48, 40), 4, torch.float64)


def check_solve(told, kind, shape, k, dtype, products=0):
    J = spectral.jacobian(network(kind, dtype), image(*shape, dtype=dtype))
    alone = spectral.top_eigs(J, k=k)
    for one in told:
        assert abs(one["products"] - alone.products) <= products and one["complete"] == bool(alone.complete)
        close = 1e-12 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(one["values"], alone.values, rtol=close, atol=0)
        assert torch.equal(one["values"], told[0]["values"]) and torch.equal(
            one["residuals"], told[0]["residuals"]
        )
        assert one["adjoint"] < (1e-12 if dtype is torch.float64 else 1e-6)
        assert (
            one["strip"][-2] == one["rows"][0] and one["residuals"].max() <= 1e-4 * alone.values.abs().max()
        )
    vectors = told[0]["vectors"]
    assert vectors.shape == alone.vectors.shape and all(one["vectors"] is None for one in told[1:])
    gaps = alone.values.diff().abs().min() / alone.values[0]
    if gaps > 1e-3:
        overlap = (vectors * alone.vectors).flatten(1).sum(1)
        torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=1e-3)
    check_traffic(told, shape, J.reach())


def test_one_process_alone():
    """Without torchrun it is the Jacobian, of any model; results are whole and save as ever."""
    y = image(1, 1, 20, 12)
    A, J = spectral.sharded(network("unet-1-4"), y), spectral.jacobian(network("unet-1-4"), y)
    torch.testing.assert_close(A.dense(), J.dense(), rtol=0, atol=1e-12)
    a, b = spectral.top_eigs(A, k=3, method="lanczos"), spectral.top_eigs(J, k=3, method="lanczos")
    torch.testing.assert_close(a.values, b.values)
    torch.testing.assert_close(a.vectors, b.vectors, rtol=0, atol=1e-3)
    assert a.products == b.products and A.strip is a.strip is None
    assert A.gather(a) is a and torch.equal(A.gather(a.vectors), a.vectors) and A.bytes_per_product == (0, 0)
    spectral.sharded(models()["attention"], image(1, 1, 16, 8, dtype=torch.float32))
    coarse = A.at_precision("float32")
    assert coarse.apply(A.domain.normal(1, generator=torch.Generator())).shape == (1, 240)
    with pytest.raises(ShapeError, match="of the rows here"):
        A.gather(torch.zeros(3, 5))


def test_inside_of_inference_mode():
    with torch.inference_mode(), torch.autocast("cpu"):
        y = image(1, 1, 20, 12)
        A = spectral.sharded(network("unet-1-4"), y)
        torch.testing.assert_close(A.dense(), spectral.jacobian(network("unet-1-4"), y).dense())


def test_what_is_asked_wrongly():
    model, y = network("bfcnn-2-8"), image(1, 1, 16, 8)
    with pytest.raises(OptionError, match="given is one of"):
        spectral.sharded(model, y, given="part")
    with pytest.raises(OptionError, match="timeout"):
        spectral.sharded(model, y, timeout=0)
    with pytest.raises(ShapeError, match="rows"):
        spectral.sharded(model, y.flatten())
    with pytest.raises(OptionError, match="keyword level has rows"):
        spectral.sharded(model, y, model_kwargs={"level": torch.zeros(1, 1, 16, 8)})


def test_vectors_of_strips_have_files_of_their_own(tmp_path):
    pairs = spectral.top_eigs(network("bfcnn-2-8"), image(1, 1, 8, 8), k=2)
    object.__setattr__(pairs, "strip", (8, 16, 32))
    path = pairs.save(tmp_path / "pairs.safetensors")
    assert path.name == "pairs.rows-8-16.safetensors"
    assert type(pairs).load(path).strip == (8, 16, 32)


def test_weights_that_change_are_noticed():
    model = network("bfcnn-2-8")
    A = spectral.sharded(model, image(1, 1, 16, 8))
    next(model.parameters()).data.mul_(2)
    with pytest.raises(spectral.errors.SpectralError, match="weights"):
        spectral.top_eigs(A, k=2)


def test_vectors_are_confirmed_by_other_ways(monkeypatch):
    A = spectral.sharded(network("bfcnn-3-8"), image(1, 1, 24, 12))
    push = A.local._push
    monkeypatch.setattr(A.local, "_push", lambda V: 1.5 * push(V))
    pull = A.local._pull
    monkeypatch.setattr(A.local, "_pull", lambda V: 1.5 * pull(V))
    with pytest.raises(spectral.errors.SpectralError, match="are wrong"):
        spectral.top_eigs(A, k=2, method="lanczos")


# Slow: many processes, whole networks, processes that end


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_matrices_over_more_processes(size):
    """Strips lower than the reach are given rows by several neighbours; odd heights."""
    cases = [*SMALL, ("bfcnn-6-8", (1, 1, 8, 8)), ("unet-2-4", (1, 1, 64, 8)), ("bfcnn-20-8", (1, 1, 32, 6))]
    found = together(size, HERE + "matrices", cases, timeout=900)
    for i, (kind, shape) in enumerate(cases):
        check_matrix([one[i] for one in found], kind, shape)
    assert "no memory of the network's is saved" in found[1][3]["repr"]
    heights = [one[5]["rows"] for one in found]
    assert max(own for own, _ in heights) < 20 and heights[0][1] == min(heights[0][0] + 20, 32)


@pytest.mark.slow
def test_every_front_door():
    """All solvers and estimators, over strips of an image that is given in strips of odd heights too."""
    kind, shape = "bfcnn-3-8", (1, 1, 31, 10)
    J = spectral.jacobian(network(kind), image(*shape))
    true = answers(J) | {
        method: spectral.diagonal(J, products=16, method=method).value
        for method in ("exact", "hutchinson", "xdiag")
    }
    model, y = network(kind), image(*shape)
    true |= {
        "sure": spectral.sure(model, y, 0.1).value,
        "its error": spectral.sure(model, y, 0.1).stderr,
        "xtrace's": spectral.sure(model, y, 0.1, method="xtrace", products=20).value,
    }
    given = [("doors", (kind, shape)), ("strips", (kind, STRIPS, 10))]
    found = together(3, HERE + "several", given, timeout=900)
    for rank, (told, strips) in enumerate(found):
        for name, value in true.items():
            if name in ("exact", "hutchinson", "xdiag") and rank:
                assert told[name] is None
                continue
            close = {
                "magnitude": 1e-6,
                "inside": 1e-6,
                "spectral norm": 1e-6,
                "precision": 1e-6,
                "full": 1e-2,
            }.get(name, 1e-9)
            torch.testing.assert_close(
                torch.as_tensor(told[name]), torch.as_tensor(value), rtol=close, atol=close, msg=name
            )
        said = told["refused"]
        assert said["median"].startswith(
            "OptionError: of a Jacobian over several processes sigma is a number"
        )
        assert said["y"].startswith("ShapeError: y is the image, the rows that lie here")
        assert said["probing"].startswith("OptionError: probing is for an image in one process")
        assert said["posterior"].startswith("OptionError: a model is called on y, and a ShardedJacobian")
        assert said["batched"].startswith("OptionError: batched goes with a model")
        assert said["scipy"].startswith("ShapeError: SciPy's vectors lie in one place")
        torch.testing.assert_close(strips["matrix"], J.dense(), rtol=0, atol=1e-12)
        assert strips["rows"][0] == STRIPS[rank]
    torch.testing.assert_close(found[0][1]["output"], J.output, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def by_one_restricted(tmp_path_factory):
    return restricted(*RESTRICTED, tmp_path_factory.mktemp("one"))


RESTRICTED = "bfcnn-3-8-2", (1, 2, 25, 10)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_masks_and_constraints(size, by_one_restricted, tmp_path):
    """As in one process, by as many products: of strips without an entry, and with all."""
    alone = by_one_restricted
    for one in together(size, HERE + "restricted", *RESTRICTED, tmp_path, timeout=900):
        for name, true in alone.items():
            if name in {"refused", "first"}:
                assert one[name].keys() == true.keys()
            elif isinstance(true, dict):
                for part, close in (("values", 1e-9), ("lobpcg", 1e-6), ("dense", 1e-12)):
                    torch.testing.assert_close(one[name][part], true[part], rtol=close, atol=1e-12)
                for part in ("products", "restriction", "complete", "again"):
                    assert one[name][part] == true[part], (name, part)
                if one[name]["vectors"] is not None:
                    overlap = (one[name]["vectors"] * true["vectors"]).flatten(1).sum(1)
                    torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=0, atol=1e-4)
            else:
                torch.testing.assert_close(one[name], true, rtol=1e-6, atol=1e-9)
        said = one["refused"]
        assert said["other"].startswith("CheckpointError") and said["none"].startswith("CheckpointError")
        assert "give another path" in said["other"] and "of size 237" in said["none"]
        assert said["halves"].startswith("OptionError: mask holds True and False")
        assert said["empty"].startswith("OptionError: mask holds no entry")
        assert said["shape"].startswith("ShapeError: mask is broadcast")
        assert said["start"].startswith("NotFiniteError: start holds NaN")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "kind", "shape", "k"),
    [
        (2, "bfcnn-20-64", (1, 1, 128, 96), 6),
        (4, "bfcnn-20-16", (1, 1, 251, 48), 3),
        (2, "unet-3-16", (1, 1, 256, 48), 4),
        (4, "unet-3-16", (1, 1, 256, 32), 2),
    ],
)
def test_whole_networks(kind, shape, k, size):
    """Real halos, of 20 and of 51 rows, in float32; as many products."""
    found = together(size, HERE + "spectra", kind, shape, k, torch.float32, timeout=1500)
    check_solve(found, kind, shape, k, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_memory_falls_with_the_number_of_processes(size):
    """What a program keeps of an image goes as the rows that it is of; kernels are the same."""
    kind, shape = "bfcnn-4-16", (1, 1, 192, 64)
    (whole, rows), (half, fewer) = (program_bytes(kind, (1, 1, h, 64)) for h in (192, 96))
    each = (whole - half) / (rows - fewer)
    for held, extended in together(size, HERE + "program_bytes", kind, shape):
        assert extended <= 192 / size + 8
        assert held == pytest.approx(whole - each * (rows - extended), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["top_eigs", "top_svd", "top_eigs_full"])
def test_a_solve_goes_on_with_any_number_of_processes(door, tmp_path):
    path, kind, shape = tmp_path / "solve.safetensors", "bfcnn-4-8", (1, 1, 48, 32)
    J = spectral.jacobian(network(kind), image(*shape))
    alone = getattr(spectral, door)(J, k=4, confidence=0.0)
    most = [20, 30, 40, None]
    for size, budget in zip((2, 3, 1, 4), most, strict=True):
        if size == 1:
            found = [getattr(spectral, door)(J, k=4, max_products=budget, checkpoint=path, confidence=0.0)]
            told = [{"spent": found[0].spent, "values": found[0].values}]
        else:
            told = together(size, HERE + "kept", path, 4, budget, kind, shape, door)
        for one in told:
            # When convergence is tested is begun anew, and may come late by a product or two.
            assert one["spent"]["solve"] <= (budget or alone.spent["solve"] + 2)
    assert told[0]["spent"]["solve"] >= alone.spent["solve"] and told[0]["converged"].all()
    torch.testing.assert_close(told[0]["values"], alone.values, rtol=1e-6, atol=1e-6)
    again = getattr(spectral, door)(J, k=4, checkpoint=path, confidence=0.0)
    assert again.spent["solve"] == told[0]["spent"]["solve"]
    assert not list(Path(f"{path}.parts").iterdir())  # one process keeps all in one file
    with pytest.raises(CheckpointError, match="size 1536, and not of size 768"):
        other = spectral.jacobian(network(kind), image(1, 1, 24, 32))
        getattr(spectral, door)(other, k=4, checkpoint=path)


def test_the_script_of_the_page(tmp_path):
    """docs/scale.md's file, as it stands, by torchrun; what it leaves is what one process finds."""
    (script,) = re.findall(r"^```py\n(.*?)^```", (ROOT / "docs/scale.md").read_text(), re.M | re.S)
    (tmp_path / "large.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "large.py"],
        check=False,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "over 2 processes" in done.stdout and "Sure(" in done.stdout and "complete" in done.stdout
    pairs = spectral.EigenPairs.load(tmp_path / "pairs.safetensors")
    y = torch.rand(1, 1, 256, 32, generator=torch.Generator().manual_seed(0))
    alone = spectral.top_eigs(denoisers.load("calpha"), y, k=4)
    torch.testing.assert_close(pairs.values, alone.values, rtol=1e-5, atol=0)
    assert pairs.vectors.shape == alone.vectors.shape and pairs.strip is None and pairs.complete
    assert (tmp_path / "large.safetensors").exists()
    assert len(list((tmp_path / "large.safetensors.parts").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("how", "size"), [("kill", 2), ("kill", 3), ("stop", 2), ("ctrl-c", 3)])
def test_processes_that_end(how, size):
    """Killed, or silent: the others end with one sentence.  Interrupted: all return what they have."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "solve.safetensors"
        running = started(size, HERE + "lost", path, how, 10.0, folder=folder)
        left = running if how == "ctrl-c" else running[:-1]
        with ended(running):
            until = time.monotonic() + 240
            for process in left:
                assert process.wait(timeout=max(until - time.monotonic(), 1)) == 0
        found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(len(left))]
        for one in found:
            if how == "ctrl-c":
                assert "interrupted" in one["notes"] and one["products"] == found[0]["products"]
            else:
                assert one["seconds"] < 60
                assert "has lost process" in one["failure"] and "torchrun" in one["failure"]
        assert path.exists()  # and the solve goes on from there, in one process here
        J = spectral.jacobian(network("bfcnn-4-8"), image(1, 1, 96, 96))
        assert spectral.top_eigs(J, k=20, checkpoint=path).converged.all()
