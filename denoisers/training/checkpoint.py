"""The state of a run, nested tables of tensors and of what JSON knows, in one file of `spectral.storage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from spectral import storage
from spectral.errors import CheckpointError, FileContentError

KIND = "training"

State = dict[str, Any]


def write(path: Path, state: State) -> str | None:
    """Write it whole or not at all; why not, where it cannot be written."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    try:
        storage.write(path, KIND, tensors, tree)
    except OSError as failure:
        return " ".join(str(failure).split())
    return None


def read(path: Path) -> State:
    """What `write` wrote, on the CPU.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        tensors, tree = storage.read(path, KIND)
    except FileContentError as failure:
        raise CheckpointError(f"{path} is damaged ({failure}): delete it, and start again") from failure
    return _joined(tree, tensors)


def _split(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with the name of each tensor in its place; keys become text, as in JSON."""
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, dict):
        return {str(key): _split(value, f"{name}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_split(value, f"{name}/{i}", tensors) for i, value in enumerate(tree)]
    return tree


def _joined(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {"tensor"}:
            return tensors[tree["tensor"]]
        return {int(k) if k.isdigit() else k: _joined(value, tensors) for k, value in tree.items()}
    return [_joined(value, tensors) for value in tree] if isinstance(tree, list) else tree
