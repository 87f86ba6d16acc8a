"""A stand-in for CuPy that runs NumPy and, as CuPy does, refuses NumPy arrays among its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.special


class Guarded:
    """An array of the stand-in. It has CuPy's methods and no way to become a NumPy array by itself."""

    __array_ufunc__ = None  # NumPy's own arrays must not take it for an operand

    def __init__(self, held: Any) -> None:
        self.held = held

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.held, name)
        return wrapped(found) if callable(found) and not isinstance(found, np.dtype) else guard(found)

    def __getitem__(self, key: Any) -> Any:
        return guard(self.held[bare(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.held[bare(key)] = bare(value)

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Any]:
        return (guard(x) for x in self.held)

    def __bool__(self) -> bool:
        return bool(self.held)


OPERATIONS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "abs"),
    *("xor", "and", "or", "lshift", "rshift", "lt", "le", "gt", "ge", "eq", "ne"),
    *("radd", "rsub", "rmul", "rtruediv", "rpow", "iadd", "isub", "imul", "itruediv"),
)
for _name in OPERATIONS:

    def _operate(self: Guarded, *others: Any, name: str = f"__{_name}__") -> Any:
        found = getattr(self.held, name)(*map(bare, others))
        if name.startswith("__i") and found is self.held:
            return self
        return guard(found)

    setattr(Guarded, f"__{_name}__", _operate)
Guarded.__module__ = "cupy"


def bare(x: Any) -> Any:
    """What the stand-in computes with; NumPy arrays are refused."""
    if isinstance(x, Guarded):
        return x.held
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(map(bare, x)) if isinstance(x, list | tuple) else x


def guard(x: Any) -> Any:
    """x as the stand-in returns it: even what NumPy makes a scalar stays an array."""
    if isinstance(x, list | tuple) and any(isinstance(y, np.ndarray) for y in x):
        return type(x)(map(guard, x))
    return Guarded(x) if isinstance(x, np.ndarray | np.generic) else x


def wrapped(function: Any) -> Any:
    """A function of NumPy for the stand-in's arrays."""
    return lambda *args, **kwargs: guard(
        function(*map(bare, args), **{key: bare(value) for key, value in kwargs.items()})
    )


class _Library(ModuleType):
    """A module whose functions are another's, for the stand-in's arrays."""

    def __init__(self, name: str, behind: ModuleType) -> None:
        super().__init__(name)
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.behind, name)
        return wrapped(found) if callable(found) and not isinstance(found, type) else found


@contextmanager
def stand_in() -> Iterator[Any]:
    """`import cupy` gives the stand-in, with cupyx.scipy's fft and special."""
    cupy = _Library("cupy", np)
    cupy.asarray = lambda x: Guarded(np.array(x.held if isinstance(x, Guarded) else x))
    cupy.asnumpy = lambda x: np.array(x.held)
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.is_available = lambda: True
    modules = {
        "cupy": cupy,
        "cupyx": ModuleType("cupyx"),
        "cupyx.scipy": ModuleType("cupyx.scipy"),
        "cupyx.scipy.fft": _Library("cupyx.scipy.fft", scipy.fft),
        "cupyx.scipy.special": _Library("cupyx.scipy.special", scipy.special),
    }
    # Not by patch.dict(sys.modules), which forgets what was imported meanwhile: Numba's parts, imported
    # again, refuse to register what they have registered.
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield cupy
