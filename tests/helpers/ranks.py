"""Several processes in one test: a function run in each, as torchrun would start them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


def started(size: int, work: str, *arguments: Any, folder: Path) -> list[subprocess.Popen[str]]:
    """`size` processes, each calling work(*arguments), "module:function"; what it returns goes to a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.save((work, arguments), folder / "work.pt")
    around = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.helpers.ranks", str(folder)]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | around | {"RANK": str(rank)},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{rank}.err").open("w"),
        )
        for rank in range(size)
    ]


def together(size: int, work: str, *arguments: Any, timeout: float = 300) -> list[Any]:
    """What work(*arguments), "module:function", returns in each of `size` processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = started(size, work, *arguments, folder=folder)
        with ended(running):
            until = time.monotonic() + timeout
            for process in running:
                process.wait(timeout=max(until - time.monotonic(), 0.1))
        failed = [(folder / f"{rank}.err").read_text() for rank, p in enumerate(running) if p.returncode]
        assert not failed, "\n".join(failed)
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


@contextlib.contextmanager
def ended(running: list[subprocess.Popen[str]]) -> Iterator[None]:
    """None of the processes outlives what is done with them."""
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main(folder: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    work, arguments = torch.load(folder / "work.pt", weights_only=False)
    module, _, name = work.partition(":")
    found = getattr(__import__(module, fromlist=[name]), name)(*arguments)
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
