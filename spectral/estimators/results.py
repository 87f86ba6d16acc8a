"""Results of sampling: a value with a standard error that can be turned into an interval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import scipy.stats
import torch
from torch import Tensor

from spectral import storage
from spectral.errors import OptionError

Number = float | Tensor


@dataclass(frozen=True, repr=False)
class Estimate:
    """A mean of samples and how far it may be from the truth.

    Attributes:
        value: the estimate; a float, or a float64 tensor with one entry a problem, pixel or threshold.
        stderr: its standard error, of the same shape; 0 where the value is exact.
        samples: independent samples (probes) averaged.
        products: products with A and A' that were spent, for each problem.
        method: the estimator's name.
        dof: degrees of freedom of `stderr`, for Student's t.
    """

    value: Number
    stderr: Number
    samples: int
    products: int
    method: str
    dof: float

    def halfwidth(self, level: float = 0.95) -> Number:
        """t stderr, where t is the (1 + level)/2 quantile of Student's law with `dof` degrees of freedom.

        Raises:
            OptionError: level is not inside (0, 1).
        """
        return student_t(level, self.dof) * self.stderr

    def interval(self, level: float = 0.95) -> tuple[Number, Number]:
        """(value - h, value + h), h = halfwidth(level): it covers the truth with probability `level`."""
        h = self.halfwidth(level)
        return self.value - h, self.value + h

    def save(self, path: str | Path) -> Path:
        """Write to `path` as safetensors, the scalars as JSON in its metadata; returns the path."""
        tensors = {"value": torch.as_tensor(self.value), "stderr": torch.as_tensor(self.stderr)}
        scalars = {"samples": self.samples, "products": self.products, "method": self.method, "dof": self.dof}
        return storage.write(path, "Estimate", tensors, scalars)

    @classmethod
    def load(cls, path: str | Path) -> Estimate:
        """Read what `save` wrote.

        Raises:
            ResultFileError: the file holds something else.
        """
        tensors, scalars = storage.read(path, "Estimate")
        return cls(plain(tensors["value"]), plain(tensors["stderr"]), **scalars)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        spent = f"95 %, {self.method}, {self.samples} samples, {self.products} products"
        if isinstance(self.value, Tensor):
            v = self.value
            shape = "x".join(map(str, v.shape))
            error = torch.as_tensor(self.halfwidth())
            return (
                f"Estimate({shape}: mean {v.mean():.5g}, from {v.min():.5g} to {v.max():.5g}, each +- "
                f"{error.mean():.2g} on average; {spent})"
            )
        return f"Estimate({with_error(self.value, float(self.halfwidth()))}; {spent})"


def student_t(level: float, dof: float) -> float:
    """The t with P(|T| <= t) = level for T of Student's law with `dof` degrees of freedom.

    Raises:
        OptionError: level is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise OptionError(f"level is a probability inside (0, 1), got {level}")
    return float(scipy.stats.t.ppf((1 + level) / 2, dof))


def with_error(value: float, error: float) -> str:
    """`value +- error`, the value to the error's second digit."""
    if not 0 < error < float("inf"):
        return f"{value:.10g} +- {error:.2g}"
    exponent = int(f"{error:e}".split("e")[1])
    return (
        f"{value:.{max(0, 1 - exponent)}f} +- {error:.2g}"
        if exponent > -8
        else f"{value:.12g} +- {error:.1e}"
    )


def plain(x: Tensor) -> Number:
    """A float for a tensor without axes, else the tensor itself."""
    return x.item() if x.ndim == 0 else x
