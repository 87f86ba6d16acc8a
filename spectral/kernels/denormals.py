"""Denormal numbers taken for zero: a processor that meets one takes a hundred cycles where one would do.

The switch belongs to a thread (flush-to-zero and denormals-are-zero in the MXCSR register of an x86), so it
is set in each of torch's, and put back as it was.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from spectral.kernels import cpu, team


def at_hand() -> bool:
    """Whether `flushed` does anything: on x86 CPUs of the last ten years, with torch's threads at hand."""
    if cpu.LEVEL == "none" or not team.at_hand():
        return False
    from spectral.kernels.lanes import BYTES  # noqa: PLC0415  Numba takes a third of a second

    return BYTES > 0


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Denormals are zero in torch's threads, of this caller, for as long as this lasts."""
    if not at_hand():
        yield
        return
    from spectral.kernels.mxcsr import switch  # noqa: PLC0415  Numba takes a third of a second

    threads = torch.get_num_threads()
    kept = np.zeros(2 + 2 * threads, np.int64)  # how many threads came, may come; each one and its register
    kept[1] = threads
    team.run(switch(True).address, kept.ctypes.data, threads)
    try:
        yield
    finally:
        team.run(switch(False).address, kept.ctypes.data, threads)
