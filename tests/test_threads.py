"""Solves in several threads, on one model, and in a forked process."""

import copy
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import spectral
from spectral.jacobians.cpu import openmp
from spectral.jacobians.lock import ALONE

ROOT = Path(__file__).parent.parent


@pytest.fixture
def model():
    """In training mode, with statistics, dropout and attention, which a solve in one thread switches."""

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Dropout(0.5)
            )
            self.attend, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Conv2d(8, 1, 1)

        def forward(self, y):
            x = self.body(y)
            tokens = x.flatten(2).mT
            x = x + self.attend(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(x)
            return y - 0.3 * self.last(x)

    torch.manual_seed(0)
    return Denoiser().train()


CALLS = [
    lambda f, y, method: spectral.top_eigs(spectral.jacobian(f, y, method=method), k=3).values,
    lambda f, y, method: spectral.top_svd(spectral.jacobian(f, y, method=method), k=2).values,
    lambda f, y, method: spectral.jacobian(f, y, method=method).dense(),
]


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward"])
def test_threads_share_a_model(model, method):
    before, flags = copy.deepcopy(model.state_dict()), torch.backends.cuda.math_sdp_enabled()
    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = [call(model, y, method) for call in CALLS]
    together = threading.Barrier(3)

    def solve(call):
        together.wait()  # three threads, there at once
        return call(model, y, method)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(solve, CALLS))
    for one, other in zip(alone, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.backends.cuda.math_sdp_enabled() == flags and torch.backends.cuda.flash_sdp_enabled()


REFUSED = """
import os, signal, torch, spectral
torch.set_num_threads(2)
{before}
if os.fork() == 0:
    signal.alarm(60)
    for call in ({calls}):
        try:
            call()
        except spectral.errors.SpectralError as told:
            print(told, flush=True)
    os._exit(0)
os.wait()
{after}  # the parent goes on
"""
OF_A_MODEL = {
    "before": """
model, y = torch.nn.Conv2d(1, 8, 3, padding=1), torch.rand(1, 1, 64, 64)
J = spectral.jacobian(model, y)
product = lambda: J @ torch.ones(4096)""",
    "calls": "product, J.dense, lambda: spectral.top_svd(J), lambda: spectral.jacobian(model, y)",
    "after": "assert torch.isfinite(product()).all()",
}
OF_A_MATRIX = {
    "before": """
A = torch.diag(torch.arange(1.0, 201.0))
solve = lambda: spectral.top_eigs(A, k=2)
solve()""",
    "calls": "solve, *(lambda d=d: d(A) for d in (spectral.top_svd, spectral.trace, spectral.schatten_norm))",
    "after": "assert solve().converged.all()",
}


@pytest.mark.skipif(not openmp.at_hand(), reason="another OpenMP, which may outlive a fork")
@pytest.mark.parametrize("of", [OF_A_MODEL, OF_A_MATRIX], ids=["model", "matrix"])
def test_a_forked_process_is_told_that_threads_stayed_behind(of):
    """Where it would wait for them, without end."""
    script = [sys.executable, "-c", REFUSED.format(**of)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert len(told := done.stdout.splitlines()) == 4
    assert all("was forked" in line and "torch.set_num_threads(1)" in line for line in told)


def in_a_child(model, y, queue):
    torch.set_num_threads(1)  # as DataLoader's workers do: GNU OpenMP's threads do not outlive a fork
    queue.put(spectral.top_eigs(model, y, 3).values.tolist())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_process_solves_after_its_parent_has(model):
    y, context = torch.rand(1, 1, 8, 8), multiprocessing.get_context("fork")
    expected, queue = spectral.top_eigs(model, y, 3).values.tolist(), context.SimpleQueue()
    child = context.Process(target=in_a_child, args=(model, y, queue))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert queue.get() == pytest.approx(expected, rel=1e-5)


def test_a_thread_that_the_locks_holder_waits_for_does_without():
    """As the one in which torch goes back on a GPU; another one has to wait."""
    ended = []

    def work(name, holder):
        with ALONE.working_for(holder), ALONE, ALONE:
            ended.append(name)

    with ALONE:
        here = threading.get_ident()
        helper = threading.Thread(target=work, args=("helper", here), daemon=True)
        stranger = threading.Thread(target=lambda: work("stranger", threading.get_ident()), daemon=True)
        helper.start(), helper.join(10)
        stranger.start(), stranger.join(0.1)
        assert ended == ["helper"]
    stranger.join(10)
    assert ended == ["helper", "stranger"]
