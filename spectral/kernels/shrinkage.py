"""Risks of diagonal estimators, fused over noise levels: each coefficient is read once."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import numba
import numpy as np
import torch
from numba.core import config
from numpy.typing import ArrayLike

from spectral.errors import OptionError
from spectral.kernels.arrays import as_array, namespace
from spectral.kernels.compiled import njit
from spectral.kernels.device.shrinkage import risks as risks_on_device

Rule = Literal["oracle", "hard", "soft"]


def risks(coefficients: Any, sigmas: ArrayLike, rule: Rule = "oracle", factor: float = 3.5) -> Any:
    """Expected squared errors (n, S) of shrinking y = c + z, z ~ N(0, sigma^2 Id), for c (n, d), sigma (S,).

    "oracle": sum c^2 sigma^2 / (c^2 + sigma^2), the least risk of any multiplication by constants.
    "hard", "soft": the exact expectation of |shrink(y) - c|^2 at threshold T = factor sigma (Donoho and
    Johnstone 1994). With m = c / sigma, a = -factor - m, b = factor - m and R = Phi(a) + Phi(-b) the chance
    to be kept, in units of sigma^2: hard is m^2 (1 - R) + R + b phi(b) - a phi(a), soft is m^2 (1 - R) + (1 +
    factor^2) R + a phi(b) - b phi(a).

    Sums are in float64 whatever the coefficients, on the device where they lie: a NumPy array gives one, and
    a CuPy array or a torch tensor on a GPU gives a CuPy array.

    Raises OptionError for a rule of another name or a sigma that is not positive.
    """
    rules = ("oracle", "hard", "soft")
    if rule not in rules:
        raise OptionError(f"rule must be one of {rules}, got {rule!r}")
    levels = np.atleast_1d(np.asarray(sigmas, np.float64))
    if not (levels > 0).all():
        raise OptionError(f"noise levels must be positive, got {levels}")
    c = as_array(coefficients).reshape(len(coefficients), -1)
    if namespace(c) is not np:
        return risks_on_device(c, levels.tolist(), rule, factor)
    c = np.ascontiguousarray(c)
    with _threads_of_torch():
        return _oracle(c, levels) if rule == "oracle" else _thresholded(c, levels, factor, rule == "hard")


@contextlib.contextmanager
def _threads_of_torch() -> Iterator[None]:
    """Numba with as many threads as torch, which has the number that it set last: both ask one OpenMP."""
    threads, before = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
        torch.set_num_threads(threads)


@njit(parallel=True, nogil=True, fastmath={"reassoc", "contract"})
def _oracle(c, sigmas):  # type: ignore[no-untyped-def]
    out = np.zeros((len(c), len(sigmas)))
    for i in numba.prange(len(c)):
        energy = np.empty(c.shape[1])
        for k in range(c.shape[1]):
            energy[k] = np.float64(c[i, k]) ** 2
        for s in range(len(sigmas)):
            level = sigmas[s] ** 2
            total = 0.0
            for k in range(c.shape[1]):
                total += energy[k] * level / (energy[k] + level)
            out[i, s] = total
    return out


@njit(parallel=True, nogil=True)
def _thresholded(c, sigmas, factor, hard):  # type: ignore[no-untyped-def]
    out = np.zeros((len(c), len(sigmas)))
    for i in numba.prange(len(c)):
        for k in range(c.shape[1]):
            for s in range(len(sigmas)):
                m = np.float64(c[i, k]) / sigmas[s]
                a, b = -factor - m, factor - m
                density_a, density_b = _density(a), _density(b)
                outside = _cumulative(a) + _cumulative(-b)
                if hard:
                    risk = m * m * (1 - outside) + outside + b * density_b - a * density_a
                else:
                    tail = (1 + factor**2) * outside + a * density_b - b * density_a
                    risk = m * m * (1 - outside) + tail
                out[i, s] += risk * sigmas[s] ** 2
    return out


@njit(nogil=True)
def _density(x):  # type: ignore[no-untyped-def]
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@njit(nogil=True)
def _cumulative(x):  # type: ignore[no-untyped-def]
    return 0.5 * math.erfc(-x / math.sqrt(2))
