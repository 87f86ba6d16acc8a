"""A network that a figure needs: trained once, found again by its configuration."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

import denoisers
from denoisers.images.folder import pictures_in
from denoisers.images.stack import is_stack
from denoisers.networks import Denoiser
from denoisers.training import TrainConfig, train
from denoisers.training.config import GENERATED
from denoisers.weights import read

POLL = 2.0  # seconds between looks at what other processes train


@dataclass(frozen=True)
class Need:
    """A configuration, and the network whose weights it starts from.

    config: with no `start` of its own.
    start: the network to go on from.
    """

    config: TrainConfig
    start: Need | None = None

    @property
    def key(self) -> str:
        """What the weights depend on, in twelve digits: the settings that are not the usual ones, hashed.

        A setting that a later version has besides leaves the key as it was. Of pictures their bytes count,
        not where they lie.
        """
        told: dict[str, Any] = {}
        for f in fields(TrainConfig):
            value = getattr(self.config, f.name)
            if f.name == "data" or value != f.default:
                told[f.name] = float(value) if isinstance(f.default, float) else value  # 3 and 3.0 are one
        if self.config.data not in (*GENERATED, "photos"):
            told["data"] = contents(self.config.data)
        told["start"] = self.start.key if self.start else ""
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """For people: data, size and, of a finite set, how many images."""
        c = self.config
        parts = [
            Path(c.data).stem,
            f"{c.alpha:g}" if c.data == "calpha" else "",
            f"b{c.beta:g}" if c.beta else "",
        ]
        parts += [
            "shuffled" if c.shuffled else "",
            f"{c.size}px",
            f"n{c.images}-{c.half}" if c.images else "",
        ]
        return "-".join([*(p for p in parts if p), c.network.lower(), self.key])

    def folder(self, runs: Path) -> Path:
        """Of the run, in the folder of all runs."""
        return runs / self.name

    def ready(self, runs: Path) -> bool:
        """Whether its weights are there."""
        return (self.folder(runs) / "weights.safetensors").is_file()

    def load(self, runs: Path) -> Denoiser:
        """The trained network, in evaluation mode."""
        return denoisers.load(self.folder(runs))

    def cache(self, runs: Path) -> Path | None:
        """The file that keeps a folder's pictures, read and averaged once; None where there is no folder."""
        c = self.config
        if c.data in (*GENERATED, "photos") or is_stack(c.data):
            return None
        return runs / f"{Path(c.data).stem}-{c.size}px-{contents(c.data)[:12]}.safetensors"

    def minutes(self, runs: Path) -> float:
        """Of wall clock, that its training took."""
        told = read(self.folder(runs) / "weights.safetensors")[1]
        return float(told["training_seconds"]) / 60

    def train(self, runs: Path, console: Console, **how: Any) -> None:
        """Train it, and what it starts from, from where they were left; nothing where it is ready.

        Args:
            runs: folder of all runs.
            console: where progress is shown.
            how: keywords of `denoisers.training.train` that weights do not depend on, such as `device`.

        Raises:
            KeyboardInterrupt: it was stopped, with a checkpoint.
            BlockingIOError: another process trains it.
        """
        if self.ready(runs):
            return
        config = self.config
        if self.start:
            self.start.train(runs, console, **how)
            config = replace(config, start=str(self.start.folder(runs)))
        folder = self.folder(runs)
        with _alone(folder):
            if self.ready(runs):  # by a process that had it until now
                return
            resume = (folder / "checkpoint.safetensors").is_file()
            console.print(f"{'going on with' if resume else 'training'} {self.name}, {config.steps} steps")
            told = {"checkpoint_every": 500, "validate_every": 1000, "cache": self.cache(runs)} | how
            train(config, folder, resume=resume, console=console, **told)


@cache
def contents(path: str) -> str:
    """SHA-256 of a file, or of the pictures of a folder, in the order of their names.

    Raises:
        FileNotFoundError: there is no such file, and no picture in such a folder.
    """
    files = [Path(path)] if is_stack(path) else pictures_in(path)
    return hashlib.sha256("".join(map(_digest, files)).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def chain(needs: list[Need]) -> list[Need]:
    """The needs and what they start from, each once, in an order in which they can be trained."""
    found: dict[str, Need] = {}
    for need in needs:
        if need.start:
            found.setdefault(need.start.key, need.start)
        found.setdefault(need.key, need)
    return list(found.values())


def train_all(needs: list[Need], runs: Path, console: Console, **how: Any) -> None:
    """Train the needs and what they start from, sharing them with processes that are told the same.

    Each takes the next that no other has. At the end what others have is waited for, and what one of them
    leaves unfinished is gone on with.

    Raises:
        KeyboardInterrupt: it was stopped, with a checkpoint.
    """
    left, told = chain(needs), False
    while left:
        taken = []
        for need in left:
            try:
                need.train(runs, console, **how)
            except BlockingIOError:
                taken.append(need)
        if len(taken) == len(left):
            if not told:
                console.print(f"other processes train {', '.join(need.name for need in taken)}: waiting")
            told = True
            time.sleep(POLL)
        left = taken


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process trains {folder.name}") from error
        yield
