"""Searches on disk: killed, resumed, continued, refused; and problems of a batch that part on the way."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import spectral
from spectral.errors import CheckpointError, FileContentError
from spectral.operators import as_operator, from_functions
from tests.helpers.calls import golub_kahan, krylov_schur, lanczos

VALUES = torch.linspace(0, 1, 300, dtype=torch.float64)


class KilledError(Exception):
    """Raised by an operator in the middle of a solve."""


def operator(products=None, values=VALUES):
    """diag(values), which dies after so many products."""

    def product(V):
        if products is not None and A.count > products:
            raise KilledError
        return V * values

    A = from_functions(product, product, n=len(values), dtype=values.dtype)
    A.symmetric = True
    return A


def theta(found):
    return (found.vectors * found.AV).sum(-1)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_a_killed_solve_goes_on_where_it_was(tmp_path, which):
    whole = lanczos(operator(), 5, which=which, tol=1e-8, basis=30)
    path, spent = tmp_path / "solve.safetensors", 0
    for products in (40, 45, 50, 70, None):
        A = operator(products)
        try:
            resumed = lanczos(A, 5, which=which, tol=1e-8, basis=30, checkpoint=path)
        except KilledError:
            assert products is not None
        finally:
            spent += A.count
    assert resumed.spent == whole.spent  # the same random numbers, the same way
    torch.testing.assert_close(theta(resumed), theta(whole), atol=1e-14, rtol=0)
    lost = spent - sum(whole.spent.values())
    assert 4 < lost < 4 * 30 + 5  # a restart cycle a kill, and a product to know the operator by


def test_a_killed_probe_is_probed_on(tmp_path):
    """Killed in the completeness stage: what was solved is not solved again."""
    whole = lanczos(operator(), 5, tol=1e-8)
    path = tmp_path / "solve.safetensors"
    with pytest.raises(KilledError):
        lanczos(operator(whole.spent["solve"] + 20), 5, tol=1e-8, checkpoint=path)
    A = operator()
    resumed = lanczos(A, 5, tol=1e-8, checkpoint=path)
    assert A.count <= 1 + whole.spent["completeness"] + 5
    assert resumed.completeness.confidence == 0.99
    torch.testing.assert_close(resumed.completeness.bound, whole.completeness.bound, atol=1e-12, rtol=0)


def test_a_finished_solve_is_kept_and_extended(tmp_path):
    path = tmp_path / "solve.safetensors"
    first = lanczos(operator(), 5, tol=1e-8, checkpoint=path)
    A = operator()
    again = lanczos(A, 5, tol=1e-8, checkpoint=path)
    assert A.count == 1 + 5  # one to know the operator by, five fresh residuals
    torch.testing.assert_close(theta(again), theta(first), atol=1e-13, rtol=0)
    more = lanczos(operator(), 8, tol=1e-8, checkpoint=path)
    torch.testing.assert_close(theta(more)[0], VALUES.flip(0)[:8], atol=1e-9, rtol=0)
    assert more.completeness.confidence == 0.99


def test_singular_triplets_are_kept_too(tmp_path):
    path = tmp_path / "solve.safetensors"
    for products in (60, 60, 80, None):
        try:
            found = golub_kahan(operator(products), 4, tol=1e-8, basis=25, checkpoint=path)
        except KilledError:
            assert products is not None
    sigma = torch.linalg.vector_norm(found.AV, dim=-1)
    torch.testing.assert_close(sigma[0], VALUES.flip(0)[:4], atol=1e-9, rtol=0)


def test_a_batch_is_kept_with_its_groups(tmp_path):
    M = torch.stack([torch.diag(VALUES**p) for p in (1, 4, 16)])
    path = tmp_path / "solve.safetensors"

    def batch(products=None):
        def product(V):
            if products is not None and A.count > products:
                raise KilledError
            return V @ M

        A = from_functions(product, n=300, symmetric=True, batch=(3,), dtype=M.dtype)
        return A

    for products in (90, 60, None):
        try:
            found = lanczos(batch(products), 5, tol=1e-8, checkpoint=path)
        except KilledError:
            assert products is not None
    for values, p in zip(theta(found), (1, 4, 16), strict=True):
        torch.testing.assert_close(values, (VALUES**p).flip(0)[:5], atol=1e-9, rtol=0)


def test_files_of_other_problems_are_refused(tmp_path):
    path = tmp_path / "solve.safetensors"
    lanczos(operator(), 3, checkpoint=path)
    with pytest.raises(CheckpointError, match="another model or image"):
        lanczos(operator(values=VALUES**2), 3, checkpoint=path)
    with pytest.raises(CheckpointError, match="smallest"):
        lanczos(operator(), 3, which="smallest", checkpoint=path)
    with pytest.raises(CheckpointError, match="size"):
        lanczos(operator(values=VALUES[:200]), 3, checkpoint=path)
    with pytest.raises(CheckpointError, match="golub-kahan"):
        golub_kahan(operator(), 3, checkpoint=path)
    krylov_schur(operator(), 3, checkpoint=path.with_suffix(".schur"))
    with pytest.raises(CheckpointError, match=r"by krylov-schur for the largest.*for the magnitude"):
        krylov_schur(operator(), 3, which="magnitude", checkpoint=path.with_suffix(".schur"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FileContentError, match="not a safetensors"):
        lanczos(operator(), 3, checkpoint=path)


def test_images_that_converge_first_drop_out():
    """Fast and slow spectra side by side: the fast ones pay for themselves alone."""
    powers = (1, 2, 4, 8, 16, 32)
    M = torch.stack([torch.diag(VALUES**p) for p in powers])
    A = as_operator(M, symmetric=True)
    together = lanczos(A, 5, tol=1e-8)
    alone = [lanczos(as_operator(m, symmetric=True), 5, tol=1e-8) for m in M]
    slowest = max(one.spent["solve"] for one in alone)
    mean = sum(one.spent["solve"] for one in alone) / len(alone)
    assert together.spent["solve"] < 1.15 * mean < 0.8 * slowest
    for i, one in enumerate(alone):
        torch.testing.assert_close(theta(together)[i], theta(one)[0], atol=1e-12, rtol=0)
    assert (together.completeness.bound < torch.stack([theta(one)[0, -1] for one in alone]) + 1e-7).all()


WORKER = """
import sys, torch, denoisers, spectral
from denoisers.images.folder import photograph
torch.set_num_threads(1)
x = torch.from_numpy(photograph())[:, :, 60:108, 180:228].contiguous()
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
print("ready", flush=True)
pairs = spectral.top_eigs(denoisers.load("photos"), y, int(sys.argv[3]), tol=1e-5, checkpoint=sys.argv[1])
pairs.save(sys.argv[2])
"""


@pytest.mark.parametrize(("kills", "k"), [(1, 6), pytest.param(100, 40, marks=pytest.mark.slow)])
def test_kill_minus_nine(tmp_path, kills, k):
    """A real solve killed at random moments, each time by SIGKILL, and resumed: the same eigenpairs."""
    path, result = tmp_path / "solve.safetensors", tmp_path / "pairs.safetensors"
    whole = tmp_path / "whole.safetensors"
    rng, killed = random.Random(0), 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    while not result.exists():
        command = [sys.executable, "-c", WORKER, str(path), str(result), str(k)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        if killed < kills:
            while not killed and not path.exists() and worker.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 1.4) if killed else 0)
            worker.send_signal(signal.SIGKILL)
        if worker.wait() == 0:
            break
        killed += 1
    assert killed
    print(f"killed {killed} times")
    command = [sys.executable, "-c", WORKER, str(tmp_path / "other.safetensors"), str(whole), str(k)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    resumed, straight = (spectral.EigenPairs.load(p) for p in (result, whole))
    assert resumed.converged.all()
    torch.testing.assert_close(resumed.values, straight.values, atol=1e-5, rtol=0)
    overlap = (resumed.vectors.flatten(1) @ straight.vectors.flatten(1).T).diagonal()
    assert overlap.min() > 0.99
    assert not list(tmp_path.glob(".*.partial"))
