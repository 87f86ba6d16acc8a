"""The register of an x86 thread that holds its switches, and a C function that sets one of them."""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from spectral.jacobians.cpu.simd import claim
from spectral.kernels.compiled import cfunc

_FLUSH = 0x8040
_SELF = types.ExternalFunction("pthread_self", types.int64())


@cache
def switch(on: bool) -> Any:
    """The C function, void (*)(void *kept), that sets a thread's register, or puts it back."""

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        threads = carray(address, 2, np.int64)[1]
        kept = carray(address, 3 + 2 * threads, np.int64)
        me = _SELF()
        if on:
            place = 3 + 2 * claim(address, 0)
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
