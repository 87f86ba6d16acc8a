"""Numba's compilers, with their code kept on disk between runs.

Numba's own cache fails at import where there is no folder to write to, fails at a damaged file, and does not
notice a change in another module whose constants and functions are part of the code.  Here code goes where
other slow things go, `cache.folder()`, and answers for one text of all the kernels, one version of Numba and
one set of the CPU's features.
"""

import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import config, sigutils
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from spectral.kernels import cpu  # noqa: F401  it limits Numba, before anything is compiled
from spectral.kernels.cache import keep, kept


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit, its code kept."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if not config.DISABLE_JIT:
            dispatcher._cache = _Kept(function)
        return dispatcher

    return compiled


def cfunc(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.cfunc, its code kept."""

    def compiled(function: Callable[..., Any]) -> Any:
        callback: Any = CFunc(function, sigutils.normalize_signature(signature), {}, {})
        callback._cache = _Kept(function)
        callback.compile()
        return callback

    return compiled


class _Kept(NullCache):
    """What Numba asks before it compiles a function, and tells after."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for a signature, or None."""
        target_context.refresh()
        try:
            found = kept("code", self._key(sig, target_context.codegen()))
        except OSError:
            return None
        return found and CompileResult._rebuild(target_context, *pickle.loads(found["code"].tobytes()))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code."""
        if data.library.has_dynamic_globals or not all(loop.can_cache for loop in data.lifted):
            return
        code = np.frombuffer(dumps(data._reduce()), np.uint8)
        with suppress(OSError):
            keep("code", {"code": code}, self._key(sig, data.codegen))

    def _key(self, sig: Any, codegen: Any) -> dict[str, Any]:
        function = self._function
        return {
            "function": f"{function.__module__}.{function.__qualname__}",
            "closed over": [_named(cell.cell_contents) for cell in function.__closure__ or ()],
            "signature": str(sig),
            "target": codegen.magic_tuple(),
            "numba": numba.__version__,
            "python": sys.version,
            "sources": sources(),
        }


def _named(value: Any) -> str:
    """A dispatcher by its function, whose text is among the `sources`; constants as they print."""
    function = getattr(value, "py_func", None)
    return repr(value) if function is None else f"{function.__module__}.{function.__qualname__}"


@cache
def sources() -> str:
    """A hash of what kernels are compiled from: the modules beside this one, and the CPU's convolutions.

    Raises OSError where they cannot be read.
    """
    total = sha256()
    here = Path(__file__).parent
    paths = sorted([*here.glob("*.py"), *(here.parent / "jacobians" / "cpu").glob("*.py")])
    if not paths:
        raise OSError("the kernels' source is not there to be read")
    for path in paths:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()
