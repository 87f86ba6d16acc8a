"""Arrays that are slow to make, kept on disk between runs."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectral import storage
from spectral.errors import FileContentError

Arrays = Mapping[str, NDArray[Any]]

KIND = "arrays of the cache"
LIMIT = 2**29  # bytes that the folder may hold


def folder() -> Path:
    """$XDG_CACHE_HOME/jacobian-spectra, or ~/.cache/jacobian-spectra where that is not set to a full path.

    Raises OSError where there is no home either.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        try:
            root = Path.home() / ".cache"
        except RuntimeError as error:
            raise OSError("no home to keep a cache in") from error
    return root / "jacobian-spectra"


def cached(name: str, make: Callable[[], Arrays], **key: Any) -> Arrays:
    """What make() returns: read from disk if an earlier call left it there, else made, and left there.

    A file answers only for the same name, the same key (what json can hold), the same source file of `make`
    and the same NumPy, and only while its checksum holds; damaged ones are made again. Files
    appear whole or not at all, so any number of processes may share the folder; beyond LIMIT bytes the oldest
    go. Where the folder or the source cannot be read everything works, only slower. Deleting it is always
    safe.
    """
    try:
        code = sha256(Path(make.__code__.co_filename).read_bytes()).hexdigest()
    except OSError:
        return make()
    found = kept(name, {"code": code, **key})
    if found is None:
        found = make()
        keep(name, found, {"code": code, **key})
    return found


def kept(name: str, key: Mapping[str, Any]) -> Arrays | None:
    """What `keep` left for that name and key (what json can hold), if it is there and whole."""
    try:
        path, identity = _place(name, key)
        tensors, held = storage.read(path, KIND)
    except (OSError, FileContentError):
        return None
    return {each: t.numpy() for each, t in tensors.items()} if held == {"identity": identity} else None


def keep(name: str, arrays: Arrays, key: Mapping[str, Any]) -> None:
    """Leave arrays on disk, if there is a place for them."""
    with suppress(OSError):
        path, identity = _place(name, key)
        tensors = {each: torch.from_numpy(np.array(array)) for each, array in arrays.items()}
        storage.write(path, KIND, tensors, {"identity": identity})
        _prune(path.parent)


def _place(name: str, key: Mapping[str, Any]) -> tuple[Path, str]:
    """The file, and what it says of itself."""
    identity = json.dumps({"name": name, "numpy": np.__version__, **key}, sort_keys=True)
    return folder() / f"{name}-{sha256(identity.encode()).hexdigest()[:32]}.safetensors", identity


def _prune(where: Path) -> None:
    """Delete the oldest files until the rest take at most LIMIT bytes."""
    found = sorted(((s.st_mtime, s.st_size, p) for p in where.iterdir() if (s := p.stat())), reverse=True)
    total = 0
    for _, size, path in found:
        total += size
        if total > LIMIT:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
