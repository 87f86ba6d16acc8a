"""Vectors on disk whose entries lie in several processes: each writes its own, any number of them read.

A file as of `storage` holds all that is the same everywhere, and names the parts, files of a folder beside
it, path.parts/, each the vectors' entries in one process.  The parts are written first, under a number of
their own, then the file, which is replaced at once: what it names is whole, whenever processes are killed.
The folder must be one for all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral import storage
from spectral.errors import CheckpointError
from spectral.operators.space import Space

Sides = dict[str, Space]


def write(
    path: Path, kind: str, tensors: dict[str, Tensor], meta: dict[str, Any], sides: Sides, number: int
) -> None:
    """As `storage.write`, in all processes at once, but that each writes what of `sides` lies in it.

    Args:
        path, kind, tensors, meta: see `storage.write`.
        sides: the tensors that hold vectors, and of which space.
        number: another than that of the parts that are there.

    Raises:
        OSError: it could not be written here.
        RankError: it could not be written elsewhere.
    """
    ranks = next((space.ranks for space in sides.values()), None)
    if ranks is None or ranks.size == 1:
        storage.write(path, kind, tensors, meta)
        _sweep(path, None)
        return
    own = {name: tensors[name] for name in sides}
    ranks.agree(lambda: storage.write(_part(path, number, ranks.rank), f"{kind} part", own, {}))
    placed = {name: _told(space) for name, space in sides.items()}
    meta = meta | {"parts": {"number": number, "files": ranks.size, "placed": placed}}
    same = {name: t for name, t in tensors.items() if name not in sides}
    ranks.agree(lambda: storage.write(path, kind, same, meta) if ranks.rank == 0 else None)
    if ranks.rank == 0:
        _sweep(path, number)


def read(path: Path, kind: str, sides: dict[str, Space]) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """What `write` put there, of vectors what lies here now; and the number of the parts.

    Args:
        path, kind: see `storage.read`.
        sides: the space of a tensor of vectors, by the last word of its name.

    Raises:
        FileContentError: see `storage.read`.
        CheckpointError: vectors are of another length.
    """
    tensors, meta = storage.read(path, kind)
    parts = meta.pop("parts", None)
    if parts is None:
        for name, t in tensors.items():
            space = sides.get(last(name))
            if space is not None:
                _check(path, t.shape[-1], space)
                tensors[name] = space.own(t).contiguous()
        return tensors, meta, 0
    for file in range(parts["files"]):
        held, _ = storage.read(_part(path, parts["number"], file), f"{kind} part")
        for name, t in held.items():
            space = sides.get(last(name))
            if space is not None:
                placed = parts["placed"][name]
                _check(path, placed["dimension"], space)
                if name not in tensors:
                    tensors[name] = t.new_empty(*t.shape[:-1], space.n)
                space.taken(tensors[name], t, placed["runs"][file])
    return tensors, meta, parts["number"]


def last(name: str) -> str:
    """The last word of a tensor's name, by which it is known of which space it is."""
    return name.rpartition(".")[2]


def _sweep(path: Path, number: int | None) -> None:
    """Clear away parts that the file does not name."""
    for old in _folder(path).glob("*.safetensors"):
        if not old.name.startswith(f"{number}-"):
            old.unlink(missing_ok=True)


def _check(path: Path, length: int, space: Space) -> None:
    if length != space.dimension:
        raise CheckpointError(
            f"{path} holds vectors of size {length}, and not of size {space.dimension}: give another path"
        )


def _told(space: Space) -> dict[str, Any]:
    """Where each process's entries lie."""
    assert space.ranks is not None
    (every,) = space.ranks.gather(torch.tensor(space.runs))
    return {"dimension": space.dimension, "runs": every.long().tolist()}


def _folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _part(path: Path, number: int, rank: int) -> Path:
    return _folder(path) / f"{number}-{rank}.safetensors"
