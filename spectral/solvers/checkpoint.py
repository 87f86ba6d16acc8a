"""A search on disk: written whole or not at all, so that a process killed at any moment can be resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral import storage
from spectral.errors import CheckpointError
from spectral.operators.base import LinearOperator

if TYPE_CHECKING:
    from spectral.solvers.search import Target

KIND = "checkpoint"
EVERY = 1.0  # seconds
SHARE = 0.05  # of the time, at most, goes into writing

State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """The file in which a search is kept.

    It is written at every restart and change of stage, and in between every second, or as seldom as
    keeps writing below a twentieth of the time.  It stays when the solve has ended, so that a later call with
    more pairs or a smaller tolerance goes on from there.

    Args:
        path: the file; where there is one already, the search in it is resumed.
        A: the operator, which the file must belong to: a product with a fixed vector tells (one product).
        solver: the kind of search, which must be the same.
    """

    def __init__(self, path: str | Path, A: LinearOperator, solver: str) -> None:
        self.path, self.solver = Path(path), solver
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(*A.batch, 1, A.shape[1], generator=generator, dtype=torch.float64)
        self.sample = A.apply(x.to(A.device, A.dtype))
        self.written, self.cost = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to write, between restarts."""
        return time.monotonic() - self.written > max(EVERY, self.cost / SHARE)

    def write(self, target: Target, states: list[State]) -> None:
        """Replace what the file holds."""
        began = time.monotonic()
        tensors = {f"{i}.{name}": t for i, (held, _) in enumerate(states) for name, t in held.items()}
        meta = {"solver": self.solver, "target": vars(target), "groups": [meta for _, meta in states]}
        storage.write(self.path, KIND, tensors | {"sample": self.sample}, meta)
        self.written = time.monotonic()
        self.cost = self.written - began

    def read(self, target: Target) -> list[State]:
        """What the file holds; nothing where there is no file.  A target other than the one it was kept for
        sends every part back to the solve.

        Raises:
            CheckpointError: the file is of another operator, another solver, or another end of the spectrum.
            FileContentError: the file is no checkpoint.
        """
        for left in self.path.parent.glob(
            f".{self.path.name}.*.partial"
        ):  # by a process killed while writing
            left.unlink(missing_ok=True)
        if not self.path.exists():
            return []
        tensors, meta = storage.read(self.path, KIND)
        sample = tensors.pop("sample").to(self.sample)
        kind = meta["solver"], meta["target"].get("which"), tuple(sample.shape)
        here = self.solver, target.which, tuple(self.sample.shape)
        if kind != here:
            raise CheckpointError(
                "{} holds a solve by {} for the {}, size {}, and not by {} for the {}, size {}: "
                "give another path".format(self.path, *kind, *here)
            )
        apart = torch.linalg.vector_norm(sample - self.sample, dim=-1)
        if not (apart <= 1e-2 * torch.linalg.vector_norm(sample, dim=-1)).all():
            raise CheckpointError(
                f"{self.path} belongs to another model or image, with other products: give another path"
            )
        groups: list[dict[str, Any]] = meta["groups"]
        asked, kept = vars(target), meta["target"]
        if asked != kept:
            for group in groups:
                group |= {"stage": "solve", "probed": False}
        held = [
            {name.split(".", 1)[1]: t for name, t in tensors.items() if name.split(".", 1)[0] == str(i)}
            for i in range(len(groups))
        ]
        if asked != kept:
            for part in held:
                part.pop("bar", None)
        return list(zip(held, groups, strict=True))
