"""Arrays that are slow to make, kept on disk between runs."""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Arrays = Mapping[str, NDArray[Any]]

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
    and the same NumPy, and only while the check sum of its arrays holds; damaged ones are made again. Files
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
        return _read(*_place(name, key))
    except OSError:
        return None


def keep(name: str, arrays: Arrays, key: Mapping[str, Any]) -> None:
    """Leave arrays on disk, if there is a place for them."""
    with suppress(OSError):
        path, identity = _place(name, key)
        _write(path, arrays, identity)
        _prune(path.parent)


def _place(name: str, key: Mapping[str, Any]) -> tuple[Path, str]:
    """The file, and what it says of itself."""
    identity = json.dumps({"name": name, "numpy": np.__version__, **key}, sort_keys=True)
    return folder() / f"{name}-{sha256(identity.encode()).hexdigest()[:32]}.safetensors", identity


def _read(path: Path, identity: str) -> Arrays | None:
    """The arrays of a whole file with that identity, or None."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    whole = metadata.get("identity") == identity and metadata.get("sum") == _sum(arrays)
    return arrays if whole else None


def _write(path: Path, arrays: Arrays, identity: str) -> None:
    """Write beside, then rename over: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = save(whole, {"identity": identity, "sum": _sum(whole)})
    with NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as beside:
        try:
            beside.write(data)
            beside.close()
            Path(beside.name).replace(path)
        except OSError:
            Path(beside.name).unlink(missing_ok=True)
            raise


def _sum(arrays: Arrays) -> str:
    """CRC-32 of the arrays' bytes in the order of their names."""
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].tobytes(), total)
    return f"{total:08x}"


def _prune(where: Path) -> None:
    """Delete the oldest files until the rest take at most LIMIT bytes."""
    found = sorted(((s.st_mtime, s.st_size, p) for p in where.iterdir() if (s := p.stat())), reverse=True)
    total = 0
    for _, size, path in found:
        total += size
        if total > LIMIT:
            path.unlink(missing_ok=True)
