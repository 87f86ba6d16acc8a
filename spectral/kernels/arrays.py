"""Which library an array belongs to: NumPy on the CPU, CuPy on a GPU."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral.errors import OptionError

_CUDA = 2  # DLPack's number of the device


def namespace(x: Any) -> ModuleType:
    """`numpy`, or `cupy` where x is one of its arrays."""
    return sys.modules["cupy"] if type(x).__module__.partition(".")[0] == "cupy" else np


def device_module(device: str) -> ModuleType:
    """`numpy` for "cpu", `cupy` for "cuda".

    Raises OptionError for another name, or for "cuda" where CuPy or a GPU is missing.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise OptionError(f"device must be 'cpu' or 'cuda', got {device!r}")
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        raise OptionError('device "cuda" needs CuPy: pip install "jacobian-spectra[gpu]"') from error
    if not cupy.cuda.is_available():
        raise OptionError('device "cuda" needs an NVIDIA GPU and CuPy finds none: use device="cpu"')
    return cupy


def as_array(x: Any) -> Any:
    """x as a NumPy or CuPy array, on the device where it lies, without a copy where that can be.

    Tensors of torch share their memory: by DLPack on a GPU. `torch.as_tensor` is the way back, also without a
    copy.
    """
    if isinstance(x, np.ndarray) or namespace(x) is not np:
        return x
    if hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] == _CUDA:
        return device_module("cuda").from_dlpack(x)
    return np.asarray(x)


def on_host(x: Any) -> NDArray[Any]:
    """x as a NumPy array, copied from the GPU if need be."""
    return np.asarray(x) if namespace(x) is np else namespace(x).asnumpy(x)


def companion(xp: ModuleType, name: str) -> ModuleType:
    """The SciPy module `name`, such as "fft", for arrays of xp: SciPy's own or CuPy's."""
    return import_module(f"scipy.{name}" if xp is np else f"{xp.__name__}x.scipy.{name}")
