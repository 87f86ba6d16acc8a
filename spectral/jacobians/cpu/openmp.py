"""Work for torch's own threads: two pools side by side would take each other's cores."""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from spectral.errors import OptionError


@cache
def _start() -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP library inside torch, or None where torch brings another or none."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    if not found:
        return None
    start = ctypes.CDLL(str(found[0])).GOMP_parallel
    # Three more than it takes, of which a function in C sees nothing: see `prepared`.
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, *3 * [ctypes.py_object]]
    start.restype = None
    return start


def at_hand() -> bool:
    """Whether torch's threads can be asked: in torch's wheels for Linux they can."""
    return _start() is not None


def run(work: int, task: int, threads: int) -> None:
    """Call the function at address `work`, void (*)(void *task), on `threads` threads at once, and wait.

    Fewer may come where threads are short (inside a parallel region one comes), so the calls must share the
    work out among themselves.  The lock of the interpreter is free meanwhile.

    Raises OptionError where torch's threads are not `at_hand`.
    """
    prepared(work, ctypes.c_void_p(task), threads)(None, None, None)


def prepared(work: int, task: ctypes.c_void_p, threads: int) -> Callable[[object, object, object], None]:
    """`run` as the __exit__ of a context, in C throughout: Python takes signals between calls, none within.

    It holds on to `task`, and takes no notice of the exception.
    """
    start = _start()
    if start is None:
        raise OptionError("this torch brings no GNU OpenMP library: ask at_hand() first")
    return partial(start, work, task, threads, 0)
