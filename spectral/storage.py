"""Tensors and JSON metadata in one safetensors file, written whole or not at all and read with a checksum."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spectral.errors import FileContentError

# In the header's JSON; a quotation mark inside a string would have a backslash before it.
_MARK = b'"sha256":"'
_BLANK = b"0" * 64
_PIECE = 1 << 20
PARTIAL = ".partial"


def write(
    path: str | Path,
    kind: str,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    about: dict[str, Any] | None = None,
) -> Path:
    """Write tensors and metadata to `path`, through a temporary file beside it; returns the path.

    The header holds the SHA-256 of the file, taken with zeros in its own place.

    Args:
        path: the file; its folder is made.
        kind: what the file holds, checked by `read`.
        tensors: any dtype and device; complex ones are kept as pairs of real numbers.
        meta: JSON values.
        about: JSON values too, which `about_of` reads without the rest.

    Raises:
        OSError: it could not be written, the disk being full or the folder read-only; what it held stays.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: t.detach().cpu().resolve_conj().resolve_neg().contiguous() for name, t in tensors.items()}
    pairs = [name for name, t in held.items() if t.is_complex()]
    held |= {name: torch.view_as_real(held[name]) for name in pairs}
    header = {"kind": kind, "meta": json.dumps(meta), "complex": json.dumps(pairs), "sha256": _BLANK.decode()}
    if about is not None:
        header["about"] = json.dumps(about)
    with replacing(path) as partial:
        try:
            save_file(_apart(held), partial, metadata=header)
        except SafetensorError as failure:
            raise OSError(f"{path} could not be written: {failure}") from None
        with partial.open("r+b") as file:
            digest, _, place = _checksum(file)
            file.seek(place)
            file.write(digest)
    return path


@contextlib.contextmanager
def replacing(path: Path, first: bool = False) -> Iterator[Path]:
    """A file to write that takes the place of `path` in the end: others find the old one or the new, whole.

    first: only where there is none yet.
    """
    # A folder, since safetensors has temporary files of its own, and a killed process leaves what it has.
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, ignore_cleanup_errors=True
    ) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.chmod(0o644)  # safetensors' own files are their owner's alone
        if first:
            try:
                os.link(partial, path)
            except FileExistsError:
                return
            except OSError:  # a disk without links
                partial.replace(path)
        else:
            partial.replace(path)


def sweep(path: str | Path) -> None:
    """Clear away what processes killed in `write` left beside `path`; none may be writing to it."""
    path = Path(path)
    # Eight random characters, so that "a" does not clear "a.left".
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)


def check(path: str | Path) -> None:
    """See that no bit of what `write` wrote has changed.

    Raises:
        FileContentError: one has, or there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileContentError(f"no file {path}")
    with path.open("rb") as opened:
        digest, kept, _ = _checksum(opened)
    if kept != digest:
        raise FileContentError(
            f"{path} is damaged, or not a safetensors file of this library: "
            + ("its checksum is not that of its contents" if kept else "it holds no checksum")
        )


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `write` put into `path`.

    Raises:
        FileContentError: there is no such file, it holds something else, or one of its bits has changed.
    """
    path = Path(path)
    check(path)
    with safe_open(path, framework="pt") as file:
        held = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    if held["kind"] != kind:
        raise FileContentError(f"{path} holds {held['kind']}, not {kind}")
    tensors |= {name: torch.view_as_complex(tensors[name]) for name in json.loads(held["complex"])}
    return tensors, json.loads(held["meta"])


def about_of(path: str | Path, kind: str) -> dict[str, Any]:
    """What `write` was given as `about`, from the header alone: the tensors are neither read nor checked.

    Raises:
        FileContentError: there is no such file, it is cut short, or it holds something else.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            held = file.metadata() or {}
        if held.get("kind") != kind or "about" not in held:
            raise FileContentError(f"{path} holds {held.get('kind')}, and says nothing about it")
        about: dict[str, Any] = json.loads(held["about"])
    except (SafetensorError, OSError, ValueError) as failure:
        if isinstance(failure, FileContentError):
            raise
        raise FileContentError(f"{path} is damaged, or not a safetensors file: {failure}") from None
    return about


def _checksum(file: BinaryIO) -> tuple[bytes, bytes | None, int]:
    """The checksum of a file, the one that it holds, None where it has no place for it, and that place."""
    prefix = file.read(8)
    header = file.read(min(int.from_bytes(prefix, "little"), os.fstat(file.fileno()).st_size))
    place = header.find(_MARK) + len(_MARK)
    end = place + len(_BLANK)
    if place < len(_MARK) or header[end : end + 1] != b'"':
        return b"", None, 0
    found = hashlib.sha256(prefix + header[:place] + _BLANK + header[end:])
    while piece := file.read(_PIECE):
        found.update(piece)
    return found.hexdigest().encode(), header[place:end], len(prefix) + place


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with copies of those that share memory with one before, which safetensors refuses."""
    seen: set[int] = set()
    held = {}
    for name, t in tensors.items():
        memory = t.untyped_storage().data_ptr()
        held[name] = t.clone() if memory in seen else t
        seen.add(memory)
    return held
