"""Surveys that are killed, shared out, and lose a process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import spectral
from tests.helpers import small_survey
from tests.helpers.small_survey import SIGMAS

PROGRAM = [small_survey.__file__]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def environment(rank=0, processes=1):
    path = os.pathsep.join([str(Path(small_survey.__file__).parents[2]), *(p for p in sys.path if p)])
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **ranks}


def start(out, log, count, *broken, side=24, **ranks):
    command = [sys.executable, *PROGRAM, str(out), str(log), str(count), str(side), *broken]
    return subprocess.Popen(command, env=environment(**ranks))


def under_torchrun(out, log, count, processes=2):
    command = [sys.executable, *TORCHRUN, str(processes), *PROGRAM, str(out), str(log), str(count), "24"]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def results(out):
    return {
        path.relative_to(out): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in out.glob("sigma-*/*.safetensors")
    }


def wait_for(out, count, process, seconds=300):
    until = time.monotonic() + seconds
    while len(results(out)) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert len(results(out)) >= count


def solves(log):
    """How often each (name, sigma) was solved, and by which ranks."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return Counter((name, sigma) for _, name, sigma in lines), Counter(rank for rank, _, _ in lines)


def test_two_processes_share_and_the_other_part_is_taken_over(tmp_path):
    """One is killed: the other does it all, and what the first had done is not done again."""
    out, log = tmp_path / "out", tmp_path / "log"
    first = start(out, log, 6, side=12, rank=1, processes=2)
    wait_for(out, 1, first)
    first.kill()
    first.wait()
    before = results(out)
    assert len(before) < 12
    assert start(out, log, 6, side=12, rank=0, processes=2).wait(300) == 0
    after = results(out)
    assert len(after) == 12 and after.items() >= before.items()
    by_name, by_rank = solves(log)
    assert set(by_rank) == {"0", "1"} and len(by_name) == 12
    assert all(by_name[path.name.removesuffix(".safetensors"), path.parent.name[6:]] == 1 for path in before)
    assert spectral.Survey.load(out).converged and (out / "table.csv").exists()


@pytest.mark.slow
def test_killed_three_times_and_resumed(tmp_path):
    """200 pictures, one of them corrupt: what is there in the end is what one run without a stop finds."""
    count, broken, rng = 200, 77, random.Random(0)
    assert start(tmp_path / "whole", tmp_path / "whole.log", count, str(broken)).wait(900) == 0
    out, log, kept = tmp_path / "out", tmp_path / "log", {}
    for done in sorted(rng.sample(range(20, 380), 3)):
        process = start(out, log, count, str(broken))
        wait_for(out, done, process)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert results(out).items() >= kept.items()
        kept = results(out)
    assert start(out, log, count, str(broken)).wait(900) == 0
    assert results(out).items() >= kept.items()
    whole, found = (spectral.Survey.load(folder) for folder in (tmp_path / "whole", out))
    assert len(found.rows) == 2 * (count - 1) and all(row.converged and row.complete for row in found.rows)
    assert [(f.image, f.sigma) for f in found.failures] == [(f"{broken:03d}", None)]
    torch.testing.assert_close(found.values, whole.values, rtol=1e-5, atol=0)
    again, _ = solves(log)
    assert len(again) == 2 * (count - 1)
    assert sum(again.values()) - len(again) <= 3 * 13  # of each kill, at most the images under way
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_one_process_and_two_find_the_same(tmp_path):
    assert start(tmp_path / "one", tmp_path / "one.log", 64).wait(900) == 0
    process = under_torchrun(tmp_path / "two", tmp_path / "two.log", 64)
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0, told
    one, two = (spectral.Survey.load(tmp_path / name) for name in ("one", "two"))
    torch.testing.assert_close(one.values, two.values, rtol=1e-5, atol=0)
    by_name, by_rank = solves(tmp_path / "two.log")
    assert len(by_name) == 128 and set(by_name.values()) == {1}
    assert set(by_rank) == {"0", "1"} and min(by_rank.values()) >= 0.25 * 128


@pytest.mark.slow
def test_a_rank_of_torchrun_is_killed(tmp_path):
    """torchrun ends the other; what both had finished stays, and another number of processes goes on."""
    out, log, count = tmp_path / "out", tmp_path / "log", 100
    process = under_torchrun(out, log, count)
    wait_for(out, 60, process)
    children = [
        int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    ranks = [pid for pid in children if b"small_survey" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    before = results(out)
    assert 60 <= len(before) < 2 * count and set(solves(log)[1]) == {"0", "1"}
    assert start(out, log, count).wait(900) == 0
    after = results(out)
    assert len(after) == 2 * count and after.items() >= before.items()
    assert spectral.Survey.load(out).sigmas == sorted(SIGMAS)


@pytest.mark.slow
def test_one_of_two_dies_and_the_other_does_its_part_too(tmp_path):
    """Without torchrun, which would end both: what was under way in the dead one is claimed anew."""
    out, log, count = tmp_path / "out", tmp_path / "log", 100
    both = [start(out, log, count, rank=rank, processes=2) for rank in (0, 1)]
    until = time.monotonic() + 300
    while not log.exists() or (len(solves(log)[1]) < 2 and time.monotonic() < until):
        time.sleep(0.05)
    both[1].kill()
    both[1].wait()
    before = results(out)
    assert both[0].wait(900) == 0
    after = results(out)
    assert len(before) < len(after) == 2 * count and after.items() >= before.items()
    by_name, _ = solves(log)
    assert len(by_name) == 2 * count and sum(by_name.values()) - 2 * count <= 7  # what was under way


@pytest.mark.slow
def test_started_twice_on_one_folder(tmp_path):
    """As on two nodes, each of which is its own process 0."""
    out, log, count = tmp_path / "out", tmp_path / "log", 60
    both = [start(out, log, count) for _ in range(2)]
    assert [process.wait(900) for process in both] == [0, 0]
    by_name, _ = solves(log)
    assert len(by_name) == 2 * count and set(by_name.values()) == {1}
    assert spectral.Survey.load(out).converged
