"""The vectors that compiled kernels may use: the CPU's own, or narrower ones that SPECTRAL_CPU names.

    SPECTRAL_CPU=none|avx2|avx512

is read here, once, when `spectral` is imported.  Numba then generates code for that level, all of it in the
process; torch's own kernels are left alone (ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA limit those).
"""

import os

import torch

from spectral.errors import OptionError

VARIABLE = "SPECTRAL_CPU"
BYTES = {"none": 0, "avx2": 32, "avx512": 64}
"""Bytes of a vector, by level."""

_WITHOUT = {"none": "-avx", "avx2": "-avx512f", "avx512": ""}  # each takes with it all that needs it


def at_hand() -> list[str]:
    """The levels that this CPU has, the widest last."""
    has = {"avx2": torch.cpu._is_avx2_supported, "avx512": torch.cpu._is_avx512_supported}
    return ["none", *(level for level, supported in has.items() if supported())]


def chosen(name: str | None) -> str:
    """The level of that name, or the widest for None.

    Raises:
        OptionError: no such level, or this CPU has it not.
    """
    levels = at_hand()
    if name is None:
        return levels[-1]
    if name not in BYTES:
        raise OptionError(f"{VARIABLE} is one of {', '.join(BYTES)}; got {name!r}")
    if name not in levels:
        raise OptionError(f"{VARIABLE}={name}, but this CPU has no more than {levels[-1]}")
    return name


def _limit_numba(level: str) -> None:
    """Take what is beyond `level` from the code that Numba generates from now on."""
    from numba.core import codegen, config  # noqa: PLC0415  a third of a second, where a level is named alone
    from numba.core.registry import cpu_target  # noqa: PLC0415

    given = config.CPU_FEATURES
    features = [codegen.get_host_cpu_features() if given is None else given, _WITHOUT[level]]
    wanted = ",".join(filter(None, features))
    config.CPU_FEATURES = wanted
    if cpu_target.target_context.codegen().magic_tuple()[2] != wanted:  # it is made once, with the first code
        raise OptionError(
            f"Numba has compiled code already, for more than {VARIABLE}={level}: import spectral first"
        )


LEVEL = chosen(os.environ.get(VARIABLE))
"""What kernels are compiled for."""

if VARIABLE in os.environ:
    _limit_numba(LEVEL)
