"""Results on disk: tensors and JSON metadata in one safetensors file, written whole or not at all."""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spectral.errors import FileContentError

PARTIAL = ".partial"


def write(path: str | Path, kind: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write tensors and metadata to `path`, through a temporary file beside it; returns the path.

    Args:
        path: the file; its folder is made.
        kind: what the file holds, checked by `read`.
        tensors: any dtype and device; complex ones are kept as pairs of real numbers.
        meta: JSON values.

    Raises:
        OSError: it could not be written, the disk being full or the folder read-only; what it held stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: t.detach().cpu().resolve_conj().contiguous() for name, t in tensors.items()}
    pairs = [name for name, t in held.items() if t.is_complex()]
    held |= {name: torch.view_as_real(held[name]) for name in pairs}
    header = {"kind": kind, "meta": json.dumps(meta), "complex": json.dumps(pairs)}
    # A folder, since safetensors has temporary files of its own, and a killed process leaves what it has.
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, ignore_cleanup_errors=True
    ) as folder:
        partial = Path(folder) / path.name
        try:
            save_file(held, partial, metadata=header)
        except SafetensorError as failure:
            raise OSError(f"{path} could not be written: {failure}") from None
        partial.chmod(0o644)
        partial.replace(path)
    return path


def sweep(path: str | Path) -> None:
    """Clear away what processes killed in `write` left beside `path`; none may be writing to it."""
    path = Path(path)
    # Eight random characters, so that "a" does not clear "a.left".
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `write` put into `path`.

    Raises:
        FileContentError: there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileContentError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except SafetensorError as failure:
        raise FileContentError(f"{path} is not a safetensors file: {failure}") from None
    if held.get("kind") != kind:
        raise FileContentError(f"{path} holds {held.get('kind', 'no result of this library')}, not {kind}")
    tensors |= {name: torch.view_as_complex(tensors[name]) for name in json.loads(held.get("complex", "[]"))}
    return tensors, json.loads(held["meta"])
