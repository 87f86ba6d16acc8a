"""Work for torch's own threads: two pools side by side would take each other's cores."""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral.errors import OptionError, SpectralError
from spectral.kernels import cpu

REAL = {torch.float32: np.float32, torch.float64: np.float64}
"""What kernels here work on."""

_team = threading.local()
"""`process`: the one in which others worked beside this thread, or may have."""


def check_fork(threads: int | None = None) -> None:
    """That so many threads of torch's, by default all, are in this process; asked before they work.

    A forked one has none but the one that forked, and GNU's OpenMP waits for those of the parent for ever:
    here and in torch's own operations, which DataLoader's workers therefore have one thread for.

    Raises SpectralError where they are not.
    """
    if (threads or torch.get_num_threads()) == 1 or not at_hand():
        return
    process = os.getpid()
    if getattr(_team, "process", process) != process:
        raise SpectralError(
            "this process was forked from one whose torch had threads at work, which are not here: call "
            "torch.set_num_threads(1) in it first, or start processes by multiprocessing's spawn"
        )
    _team.process = process


@cache
def _start(more: int) -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP library inside torch, or None where torch brings another or none."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    if not found:
        return None
    start = ctypes.CDLL(str(found[0]))["GOMP_parallel"]
    unseen = more * [ctypes.py_object]
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, *unseen]
    start.restype = None
    return start


def at_hand() -> bool:
    """Whether torch's threads can be asked: in torch's wheels for Linux they can."""
    return _start(0) is not None


def vector_bytes() -> int:
    """Bytes of the vectors that kernels here work on, in threads of torch; 0 where none can run."""
    return 0 if cpu.LEVEL == "none" or not at_hand() else _vectors()


@cache
def _vectors() -> int:
    from spectral.jacobians.cpu.simd import BYTES  # noqa: PLC0415  Numba takes a third of a second

    return BYTES


def lanes(t: Tensor) -> int:
    """How many of t's numbers kernels here take at once; 0 on other devices, of other precisions, and where
    none can run."""
    if t.device.type != "cpu" or t.dtype not in REAL:
        return 0
    return vector_bytes() // t.itemsize


def layout(fields: str) -> np.dtype[Any]:
    """The record that compiled work reads a task as: whole numbers and addresses, 64 bits each, by name."""
    return np.dtype([(name, "i8") for name in fields.split()])


def task(*fields: int) -> "ctypes.Array[ctypes.c_int64]":
    """The fields of a task, in the order of its layout."""
    return (ctypes.c_int64 * len(fields))(*fields)


def by_pieces(work: int, pieces: int, *fields: int) -> None:
    """Have torch's threads take the pieces of a task in turn; its layout begins with `taken pieces`."""
    region(work, task(0, pieces, *fields), min(torch.get_num_threads(), pieces))()


def region(
    work: int, task: "ctypes.c_void_p | ctypes.Array[Any]", threads: int, more: int = 0
) -> Callable[..., None]:
    """A call of the function at address `work`, void (*)(void *task), on `threads` threads at once.

    It waits for them, the lock of the interpreter free meanwhile.  Fewer may come where threads are short
    (inside a parallel region one comes), so the calls must share the work out among themselves.  All of it is
    C, in which Python takes no signals, and holds on to `task`.  With `more` arguments, as of an __exit__, no
    notice is taken of them.

    Raises OptionError where torch's threads are not `at_hand`; SpectralError as `check_fork`.
    """
    start = _start(more)
    if start is None:
        raise OptionError("this torch brings no GNU OpenMP library: ask at_hand() first")
    check_fork(threads)
    return partial(start, work, task, threads, 0)
