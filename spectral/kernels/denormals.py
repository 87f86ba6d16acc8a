"""Denormal numbers taken for zero: a processor that meets one takes a hundred cycles where one would do.

The switch belongs to a thread (flush-to-zero and denormals-are-zero in the MXCSR register of an x86), so it
is set in each of torch's, and put back as it was.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from spectral.kernels import lanes, team

_FLUSH = 0x8040
_SELF = types.ExternalFunction("pthread_self", types.int64())


def at_hand() -> bool:
    """Whether `flushed` does anything: on x86 CPUs of the last ten years, with torch's threads at hand."""
    return lanes.BYTES > 0 and team.at_hand()


def flushed() -> contextlib.AbstractContextManager[None]:
    """Denormals are zero in torch's threads, of this caller, for as long as this lasts."""
    return _Flushed() if at_hand() else contextlib.nullcontext()


class _Flushed:
    """The switch as a context, which no interruption leaves half-way.

    Python takes signals between calls and where its own functions begin.  So the way back is a single call in
    C, and is itself the __exit__; where no way there was taken it finds nothing kept, and does nothing.
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        # How many threads came and may come, the caller; each thread and its register.
        kept = np.zeros(3 + 2 * threads, np.int64)
        kept[1:3] = threads, threading.get_ident()
        task = kept.ctypes.data_as(ctypes.c_void_p)
        self._on, self._off = (team.prepared(_switch(on).address, task, threads) for on in (True, False))

    def __enter__(self) -> None:
        try:
            self._on(None, None, None)
        except BaseException:
            self._off(None, None, None)
            raise

    @property
    def __exit__(self) -> Callable[[object, object, object], None]:  # noqa: PLE0302  with the arguments
        return self._off


@cache
def _switch(on: bool) -> Any:
    """The C function, void (*)(void *kept), that sets a thread's register, or puts it back."""

    @numba.cfunc(types.void(types.voidptr), cache=True)
    def work(address):  # type: ignore[no-untyped-def]
        threads = carray(address, 2, np.int64)[1]
        kept = carray(address, 3 + 2 * threads, np.int64)
        me = _SELF()
        if on:
            place = 3 + 2 * lanes.claim(address, 0)
            kept[place], kept[place + 1] = me, _register()
            _set_register(kept[place + 1] | _FLUSH)
        else:
            # A thread that was made meanwhile has what its maker, the caller, had then.
            for owner in (kept[2], me):
                for place in range(3, 3 + 2 * kept[0], 2):
                    if kept[place] == owner:
                        _set_register(kept[place + 1])

    return work


@intrinsic
def _register(context):  # type: ignore[no-untyped-def]
    """The MXCSR register."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        place = cgutils.alloca_once(builder, ir.IntType(32))
        _call(builder, "stmxcsr", place)
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.int64(), generate


@intrinsic
def _set_register(context, value):  # type: ignore[no-untyped-def]
    """Write the MXCSR register."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        place = cgutils.alloca_once_value(builder, builder.trunc(args[0], ir.IntType(32)))
        _call(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.none(types.int64), generate


def _call(builder: Any, name: str, place: Any) -> None:
    address = ir.IntType(8).as_pointer()
    function = builder.module.declare_intrinsic(
        f"llvm.x86.sse.{name}", fnty=ir.FunctionType(ir.VoidType(), [address])
    )
    builder.call(function, [builder.bitcast(place, address)])
