"""A search on disk: written whole or not at all, so that a process killed at any moment can be resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import torch
from torch import Tensor

from spectral import storage
from spectral.errors import CheckpointError, RankError
from spectral.linalg.krylov import Relation
from spectral.operators.base import Derived, LinearOperator
from spectral.operators.compression import Compression
from spectral.operators.space import Space
from spectral.solvers import parts

try:
    import fcntl
except ImportError:  # where there are no such locks, two processes are not kept apart
    fcntl = None  # type: ignore[assignment]

KIND = "checkpoint"
EVERY = 1.0  # seconds
SHARE = 0.05  # of the time, at most, goes into writing
PROGRESS = ("stage", "probed", "polishes", "failure")  # what other questions make a search begin anew

T = TypeVar("T")
State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """The file in which a search is kept.

    It is written at every restart and change of stage, and in between every second, or as seldom as
    keeps writing below a twentieth of the time.  It stays when the solve has ended, so that a later call with
    more pairs or a smaller tolerance goes on from there.  Where it cannot be written the search goes on
    without, and `notes` says so.  As a context it is one process's, by a lock on a file beside it.  Of
    vectors that several processes share each keeps its own (`parts`), and any number of them goes on.

    Args:
        path: the file; where there is one already, the search in it is resumed.
        A: the operator, which the file must belong to: a product with a fixed vector tells (one product), and
            what a fixed vector leaves of it by a mask or constraints.
        solver: the kind of search, which must be the same.
    """

    def __init__(self, path: str | Path, A: LinearOperator, solver: str) -> None:
        self.path, self.solver = Path(path), solver
        generator = torch.Generator().manual_seed(0)
        x = A.domain.normal(*A.batch, 1, generator=generator)
        self.place, self.of_place = _place(A)
        self.sample, self.norms = A.apply(x.to(A.device, A.dtype)), A.codomain.norms
        self.sides = {name: getattr(A, side) for name, side in Relation.SIDES.items()}
        self.sides |= {"sample": A.codomain} | ({"place": self.of_place} if len(self.place) else {})
        self.ranks, self.number = A.domain.ranks, 0
        self.written, self.cost = time.monotonic(), 0.0
        self.notes: list[str] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Take the file for this search alone, and clear away what killed processes left of it.

        Raises:
            CheckpointError: another search has it.
        """

        def take() -> None:
            if self._first:
                self._lock = _locked(self.path)
                storage.sweep(self.path)

        self._together(take)
        return self

    def __exit__(self, *exception: object) -> None:
        """Let others have it."""
        if self._lock is not None:
            _lock_file(self.path).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    @property
    def due(self) -> bool:
        """Whether it is time to write, between restarts; by the clock of the first process."""
        due = time.monotonic() - self.written > max(EVERY, self.cost / SHARE)
        return due if self.ranks is None else self.ranks.first(due)

    def write(self, question: dict[str, Any], states: list[State]) -> None:
        """Replace what the file holds, or leave it as it is, with a note, where there is no writing."""
        began = time.monotonic()
        tensors = {f"{i}.{name}": t for i, (held, _) in enumerate(states) for name, t in held.items()}
        meta = {"solver": self.solver, "target": question, "groups": [meta for _, meta in states]}
        try:
            tensors |= {"sample": self.sample} | ({"place": self.place} if len(self.place) else {})
            sides = {name: self.sides[part] for name in tensors if (part := parts.last(name)) in self.sides}
            parts.write(self.path, KIND, tensors, meta, sides, self.number + 1)
            self.number += 1
            self.notes = []
        except OSError as failure:
            self.notes = [f"the checkpoint {self.path} could not be written: {failure.strerror or failure}"]
        except RankError as failure:
            if self.ranks is None or self.ranks.lost:
                raise
            self.notes = [f"the checkpoint {self.path} could not be written: {failure}"]
        self.written = time.monotonic()
        self.cost = self.written - began

    def read(self, question: dict[str, Any]) -> list[State]:
        """What the file holds; nothing where there is no file.  Where that was to find something else, every
        part goes back to the solve.

        Args:
            question: the fields of the target, tol and confidence.

        Raises:
            CheckpointError: the file is of another operator, another solver, or another end of the spectrum.
            FileContentError: the file is no checkpoint.
        """
        there = self.path.exists()
        if not (there if self.ranks is None else self.ranks.first(there)):
            return []
        tensors, meta, self.number = self._together(lambda: parts.read(self.path, KIND, self.sides))
        sample, place = tensors.pop("sample").to(self.sample), tensors.pop("place", self.place[:0])
        kind = meta["solver"], meta["target"].get("which"), tuple(sample.shape[:-1])
        here = self.solver, question["which"], tuple(self.sample.shape[:-1])
        if kind != here:
            raise CheckpointError(
                "{} holds a solve by {} for the {}, batch {}, and not by {} for the {}, batch {}: "
                "give another path".format(self.path, *kind, *here)
            )
        if not (self.norms(sample - self.sample) <= 1e-2 * self.norms(sample)).all():
            raise CheckpointError(
                f"{self.path} belongs to another model or image, with other products: give another path"
            )
        self._together(lambda: self._check_place(place))
        groups: list[dict[str, Any]] = meta["groups"]
        held = [
            {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(i)}
            for i in range(len(groups))
        ]
        if question != meta["target"]:
            groups = [{name: v for name, v in group.items() if name not in PROGRESS} for group in groups]
            for part in held:
                part.pop("threshold", None)
        return list(zip(held, groups, strict=True))

    def _check_place(self, place: Tensor) -> None:
        # One pixel among 10^5 hardly shows in a product.
        if place.shape != self.place.shape or not torch.allclose(place.to(self.place), self.place, 0, 1e-3):
            raise CheckpointError(f"{self.path} belongs to another mask or constraints: give another path")

    @property
    def _first(self) -> bool:
        return self.ranks is None or self.ranks.rank == 0

    def _together(self, work: Callable[[], T]) -> T:
        """work(), failing in all processes where it fails in one."""
        return work() if self.ranks is None else self.ranks.agree(work)


def _place(A: LinearOperator) -> tuple[Tensor, Space]:
    """What tells one restriction of an operator from another; nothing of one that is not restricted."""
    while isinstance(A, Derived):
        if isinstance(A, Compression):
            return A.projected(0)
        A = A.A
    return torch.zeros(0), Space(0)


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _locked(path: Path) -> IO[str] | None:
    """A file that holds the lock of a path until it is closed, also by the process's end; None where the
    folder, or the system, has no locks.

    Raises:
        CheckpointError: the lock is held.
    """
    if fcntl is None:
        return None
    place = _lock_file(path)
    while True:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = place.open("a+")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"{path} is in use by another solve, of process {file.read() or '?'}: wait for its end, or "
                "give another path"
            ) from None
        except OSError:
            return None
        if place.exists() and os.path.samestat(place.stat(), os.fstat(file.fileno())):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()  # its holder took it away meanwhile: the lock is now that of the next file
