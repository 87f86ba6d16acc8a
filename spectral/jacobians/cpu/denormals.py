"""Denormal numbers taken for zero: a processor that meets one takes a hundred cycles where one would do.

The switch belongs to a thread (flush-to-zero and denormals-are-zero in the MXCSR register of an x86), so it
is set in each of torch's, and put back as it was.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable

import numpy as np
import torch

from spectral.jacobians.cpu import openmp


def flushed() -> contextlib.AbstractContextManager[None]:
    """Denormals are zero in torch's threads, of this caller, for as long as this lasts; on x86 CPUs alone."""
    return _Flushed() if openmp.vector_bytes() else contextlib.nullcontext()


class _Flushed:
    """The switch as a context, which no interruption leaves half-way.

    Python takes signals between calls and where its own functions begin.  So the way back is a single call in
    C, and is itself the __exit__; where no way there was taken it finds nothing kept, and does nothing.
    """

    def __init__(self) -> None:
        from spectral.jacobians.cpu.mxcsr import switch  # noqa: PLC0415  Numba takes a third of a second

        threads = torch.get_num_threads()
        # How many threads came and may come, the caller; each thread and its register.
        kept = np.zeros(3 + 2 * threads, np.int64)
        kept[1:3] = threads, threading.get_ident()
        task = kept.ctypes.data_as(ctypes.c_void_p)
        self._on, self._off = (openmp.region(switch(on).address, task, threads, 3) for on in (True, False))

    def __enter__(self) -> None:
        try:
            self._on(None, None, None)
        except BaseException:
            self._off(None, None, None)
            raise

    @property
    def __exit__(self) -> Callable[[object, object, object], None]:  # noqa: PLE0302  with the arguments
        return self._off
