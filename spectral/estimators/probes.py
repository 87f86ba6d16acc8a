"""Random probes: rows z with E z z' = I, so that E z' A z = tr A.

A sampler draws m new rows for an operator, float of its dtype, on its device.  Draws come from a CPU
generator, so that a seed names the same probes on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.operators import LinearOperator

Kind = Literal["rademacher", "gaussian", "sphere"]
Sampler = Callable[[int], Tensor]


def sampler(A: LinearOperator, kind: Kind = "rademacher", seed: int = 0) -> Sampler:
    """m -> the next m probes for A, rows (*batch, m, n), n = A.shape[1].

    Args:
        A: names n, batch, dtype and device.
        kind: "rademacher", entries +-1; "gaussian", N(0, 1); "sphere", uniform on |z|^2 = n.
        seed: of the generator.

    Variance of z' A z, S = (A + A')/2: 2 (|S|_F^2 - sum S_ii^2), 2 |S|_F^2, and
    2n/(n + 2) (|S|_F^2 - (tr A)^2/n).  Rows orthogonal to each other would take the share m/n off the
    variance of a mean of m, like draws without replacement: nothing for images, where m << n.

    Raises:
        OptionError: kind is none of these.
    """
    if kind not in _KINDS:
        raise OptionError(f"probes are one of {', '.join(_KINDS)}; got {kind!r}")
    generator = torch.Generator().manual_seed(seed)
    n = A.shape[1]

    def draw(m: int) -> Tensor:
        return _KINDS[kind]((*A.batch, m, n), generator).to(A.device, A.dtype)

    return draw


def _rademacher(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)


def _gaussian(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _sphere(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    z = _gaussian(shape, generator)
    return z * (math.sqrt(shape[-1]) / torch.linalg.vector_norm(z, dim=-1, keepdim=True))


_KINDS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "rademacher": _rademacher,
    "gaussian": _gaussian,
    "sphere": _sphere,
}
