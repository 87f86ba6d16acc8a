"""Denormal numbers taken for zero: a processor that meets one takes a hundred cycles where one would do.

The switch belongs to a thread (flush-to-zero and denormals-are-zero in the MXCSR register of an x86), so it
is set in each of torch's, and put back as it was.
"""

import contextlib
from collections.abc import Iterator
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


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Denormals are zero in torch's threads, of this caller, for as long as this lasts."""
    if not at_hand():
        yield
        return
    threads = torch.get_num_threads()
    kept = np.zeros(2 + 2 * threads, np.int64)  # how many threads came, may come; each one and its register
    kept[1] = threads
    team.run(_switch(True).address, kept.ctypes.data, threads)
    try:
        yield
    finally:
        team.run(_switch(False).address, kept.ctypes.data, threads)


@cache
def _switch(on: bool) -> Any:
    """The C function, void (*)(void *kept), that sets a thread's register, or puts it back."""

    @numba.cfunc(types.void(types.voidptr), cache=True)
    def work(address):  # type: ignore[no-untyped-def]
        threads = carray(address, 2, np.int64)[1]
        kept = carray(address, 2 + 2 * threads, np.int64)
        me = _SELF()
        if on:
            place = 2 + 2 * lanes.claim(address, 0)
            kept[place], kept[place + 1] = me, _register()
            _set_register(kept[place + 1] | _FLUSH)
        else:
            for place in range(2, 2 + 2 * kept[0], 2):
                if kept[place] == me:
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
