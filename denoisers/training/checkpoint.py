"""The state of a run in one file: tensors and JSON, written whole or not at all, refused where damaged."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spectral.errors import CheckpointError

State = dict[str, Any]


def write(path: Path, state: State) -> str | None:
    """Write nested tables of tensors and of what JSON knows; why not, where it cannot be written."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    header = {"state": json.dumps(tree), "checksum": str(_checksum(tensors))}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        save_file(tensors, unfinished, header)
        unfinished.replace(path)
    except (OSError, SafetensorError) as failure:
        unfinished.unlink(missing_ok=True)
        return " ".join(str(failure).split())
    return None


def read(path: Path) -> State:
    """What `write` wrote, on the CPU.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if int(header["checksum"]) == _checksum(tensors):
            return _joined(json.loads(header["state"]), tensors)
        reason = "its numbers are not those that were written"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as failure:
        reason = str(failure)
    raise CheckpointError(f"{path} is damaged ({reason}): delete it, and start again")


def _split(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with the name of each tensor in its place; keys become text, as in JSON."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().contiguous().clone()
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


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
