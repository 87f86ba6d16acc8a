"""Searches stopped at any moment, by Ctrl-C or their budget: what they tell is true, and nothing is lost."""

import contextlib
import functools
import inspect
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import spectral
from spectral import storage
from spectral.errors import CheckpointError
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.linalg.krylov import KrylovBasis
from spectral.operators import as_operator, from_functions
from spectral.problem import proved
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.krylov_schur import KrylovSchurBasis
from spectral.solvers.search import search
from tests.helpers.calls import golub_kahan, krylov_schur, lanczos

TRACED = {
    inspect.getfile(part) for part in (search, Checkpoint, KrylovBasis, GolubKahanBasis, KrylovSchurBasis)
}
# A single start holds one vector of the double value: only the probe finds the other.
VALUES = torch.cat([torch.tensor([2.0, 2.0]), torch.linspace(1.9, 0, 48)]).double()
Q, _ = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
M = (Q * VALUES) @ Q.T
SOLVERS = {
    "lanczos": (lanczos, as_operator(M, symmetric=True)),
    "golub-kahan": (golub_kahan, as_operator(M)),
    "krylov-schur": (krylov_schur, as_operator(M)),
}
KINDS = pytest.mark.parametrize("kind", SOLVERS)


class Interruption:
    """KeyboardInterrupt at the so-many-th line of the code traced; None counts the lines."""

    def __init__(self, at=None, traced=lambda code: code.co_filename in TRACED):
        self.at, self.lines, self.traced = at, 0, traced

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.before)

    def call(self, frame, event, argument):
        return self.line if self.traced(frame.f_code) else None

    def line(self, frame, event, argument):
        self.lines += event == "line"
        if self.lines == self.at:
            raise KeyboardInterrupt
        return self.line


def solve(kind, k=3, **options):
    solver, A = SOLVERS[kind]
    return solver(A, k, tol=1e-7, basis=10, **options)


def values(kind, found):
    """The values of what was found; and that its vectors are orthonormal and its images their products."""
    right = found.right[0] if kind == "golub-kahan" else found.vectors[0]
    images = found.AV
    torch.testing.assert_close(right @ right.T, torch.eye(len(right)).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(right @ M, images[0], atol=1e-10, rtol=0)
    return torch.linalg.svdvals(right @ M) if len(right) else right[:, 0]


def certified(kind, found):
    """Three values, and the probe's word that there is no other beyond them."""
    torch.testing.assert_close(values(kind, found), VALUES[:3], atol=1e-10, rtol=0)
    assert found.completeness.confidence == 0.99
    assert found.completeness.bound.item() <= 1.9 + 1e-6
    assert not found.notes


@KINDS
@pytest.mark.parametrize("points", [16, pytest.param(300, marks=pytest.mark.slow)])
def test_an_interruption_loses_nothing(tmp_path, kind, points):
    """At lines spread over the whole solve: restarts, probes, refreshes, tests and writing."""
    path = tmp_path / "solve"
    with Interruption() as whole:
        certified(kind, solve(kind, checkpoint=path))
    for at in range(1, whole.lines, max(1, whole.lines // points)):
        path.unlink(missing_ok=True)
        with Interruption(at), contextlib.suppress(KeyboardInterrupt):  # outside the search it is let through
            found = solve(kind, checkpoint=path)
            values(kind, found)
            if found.notes != ["interrupted"]:
                certified(kind, found)  # nothing was left to do
        certified(kind, solve(kind, checkpoint=path))
        certified(kind, solve(kind, checkpoint=path))  # what was finished stays so


@KINDS
@pytest.mark.parametrize("budgets", [(5, 20, 33), pytest.param(range(4, 70), marks=pytest.mark.slow)])
def test_a_larger_budget_goes_on_where_a_smaller_one_stopped(tmp_path, kind, budgets):
    whole = solve(kind)
    for budget in budgets:
        path = tmp_path / str(budget)
        for _ in range(2):  # the same budget again changes nothing
            values(kind, solve(kind, max_products=budget, checkpoint=path))
        resumed = solve(kind, max_products=5000, checkpoint=path)
        certified(kind, resumed)
        assert resumed.spent["solve"] == whole.spent["solve"]


@KINDS
def test_another_confidence_is_another_question(tmp_path, kind):
    """A search that was not probed, or at a lower confidence, is probed when that is asked for."""
    path = tmp_path / "solve"
    assert solve(kind, confidence=0, checkpoint=path).completeness.confidence == 0
    certified(kind, solve(kind, checkpoint=path))
    A = SOLVERS[kind][1]
    before = A.count
    surer = solve(kind, confidence=1 - 1e-9, checkpoint=path)
    assert surer.completeness.confidence == 1 - 1e-9 and A.count - before > 10
    assert surer.completeness.bound.item() <= 1.9 + 1e-6


def test_an_interruption_ends_every_solve_of_a_call():
    """That of left vectors is not begun."""
    calls = 0

    def product(V):
        nonlocal calls
        calls += len(V)
        if calls == 15:
            raise KeyboardInterrupt
        return V @ M

    found = krylov_schur(from_functions(product, product, n=50, dtype=M.dtype), 3, tol=1e-7, left=True)
    assert found.left is None and found.notes == ["interrupted", "left vectors were not solved for"]
    assert calls < 25


@KINDS
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_costs_the_checkpoint_alone(tmp_path, monkeypatch, kind, stride):
    path, written = tmp_path / "solve", []

    def failing(*arguments, **options):
        written.append(arguments)
        if len(written) > failing.after:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return save_file(*arguments, **options)

    monkeypatch.setattr(storage, "save_file", failing)
    failing.after = len(written) + 1000
    certified(kind, solve(kind, checkpoint=tmp_path / "whole"))
    for after in range(0, len(written), stride):
        written.clear()
        path.unlink(missing_ok=True)
        failing.after = after
        found = solve(kind, checkpoint=path)
        (note,) = found.notes
        assert "could not be written" in note and "No space left" in note
        certified(kind, replace(found, notes=[]))
        assert sorted(tmp_path.iterdir()) == ([path] if after else []) + [tmp_path / "whole"]
        failing.after = 1000
        certified(kind, solve(kind, checkpoint=path))  # from the last state that could be written


def test_a_checkpoint_is_one_solve_at_a_time(tmp_path):
    """Of two processes the second is refused, and spoils nothing of the first."""
    path = tmp_path / "solve[1]"  # no pattern
    with Checkpoint(path, SOLVERS["lanczos"][1], "lanczos"):
        partial = tmp_path / f".{path.name}.abcdefgh.partial"
        partial.mkdir()
        code = (
            "import sys, torch, spectral; "
            "spectral.top_eigs(torch.eye(9), k=1, method='lanczos', checkpoint=sys.argv[1])"
        )
        command = [sys.executable, "-c", code, path]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"{path} is in use by another solve, of process {os.getpid()}" in second.stderr
        assert partial.exists()
        with pytest.raises(CheckpointError, match="in use by another solve"):
            solve("lanczos", checkpoint=path)
    certified("lanczos", solve("lanczos", checkpoint=path))
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    of_another = tmp_path / ".solve.left.abcdefgh.partial"
    for folder in (of_another, tmp_path / ".solve.abcdefgh.partial"):
        folder.mkdir()
        (folder / ".tmpVixdYB").touch()
    (tmp_path / ".solve.lock").write_text("12345")  # of a process that is no more
    certified("lanczos", solve("lanczos", checkpoint=tmp_path / "solve"))
    assert sorted(tmp_path.iterdir()) == [of_another, tmp_path / "solve"]


def test_an_interruption_at_another_precision_ends_the_call(monkeypatch):
    """What was found is verified at the model's own, and LOBPCG is not begun."""
    model = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    expand, calls = KrylovBasis.expand, []

    def interrupted(basis):
        calls.append(basis.size)
        if len(calls) == 15:
            raise KeyboardInterrupt
        expand(basis)

    monkeypatch.setattr(KrylovBasis, "expand", interrupted)
    y = torch.rand(1, 1, 16, 16)
    pairs = spectral.top_eigs(model, y, 3, tol=1e-6, precision="bfloat16")
    assert "interrupted" in pairs.notes and pairs.k == 3 and not pairs.complete
    assert len(calls) == 15 and "polished" not in str(pairs.notes)
    S = spectral.jacobian(model, y).symmetric_part()
    E = pairs.vectors.flatten(1)
    true = torch.linalg.vector_norm(S.apply(E) - pairs.values.to(E)[:, None] * E, dim=-1)
    torch.testing.assert_close(pairs.residuals.to(true), true, atol=1e-5, rtol=0)


SKEW = torch.diag(VALUES[::4]) + torch.randn(13, 13, generator=torch.Generator().manual_seed(1)).double() / 50
PROVED = {
    "top_eigs": (spectral.top_eigs, "lanczos", torch.linalg.eigvalsh((SKEW + SKEW.T) / 2).flip(0)),
    "top_svd": (spectral.top_svd, "golub-kahan", torch.linalg.svdvals(SKEW)),
    "top_eigs_full": (
        functools.partial(spectral.top_eigs_full, left=True),
        "krylov-schur",
        torch.linalg.eigvals(SKEW).real.sort(descending=True).values,
    ),
}


def of_the_proof(code):
    parts = code.co_qualname.split(".")
    return parts[-1] == "certified" or (
        parts[0] == "Problem" and parts[-1] in ("report", "rounding", "sized")
    )


@pytest.mark.parametrize("name", PROVED)
@pytest.mark.parametrize("points", [16, pytest.param(300, marks=pytest.mark.slow)])
def test_an_interruption_of_the_proof_loses_nothing(name, points):
    """At lines between the search and the answer, which is the same but for its mark."""
    door, method, truth = PROVED[name]

    def answer(at=None):
        with Interruption(at, traced=of_the_proof) as lines:
            return door(as_operator(SKEW), k=3, tol=1e-6, method=method), lines.lines

    whole, lines = answer()
    assert "interrupted" not in whole.notes and lines > 20
    torch.testing.assert_close(whole.values.real, truth[:3], atol=1e-5, rtol=0)
    for at in range(1, lines + 1, max(1, lines // points)):
        marked, _ = answer(at)
        assert "interrupted" in marked.notes and set(marked.notes) - {"interrupted"} == set(whole.notes)
        torch.testing.assert_close(marked.values, whole.values)
        torch.testing.assert_close(marked.errors, whole.errors)
        assert marked.spent == whole.spent


def test_a_second_interruption_ends_the_call():
    """In the proof, or one in the search and one in the proof."""

    def stopped(found):
        proofs.append(found.notes)
        raise KeyboardInterrupt

    found, proofs = solve("lanczos"), []
    with pytest.raises(KeyboardInterrupt):
        proved(found, stopped)
    with pytest.raises(KeyboardInterrupt):
        proved(replace(found, notes=["interrupted"]), stopped)
    assert proofs == [[], ["interrupted"], ["interrupted"]]
