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
from spectral.operators.space import Space
from spectral.options import choice, seed_of

Kind = Literal["rademacher", "gaussian", "sphere", "orthogonal"]
Sampler = Callable[[int], Tensor]


def sampler(A: LinearOperator, kind: Kind = "rademacher", seed: int = 0) -> Sampler:
    """m -> the next m probes for A, rows (*batch, m, n), n = A.shape[1].

    Args:
        A: names n, batch, dtype and device.
        kind: "rademacher", entries +-1; "gaussian", N(0, 1); "sphere", uniform on |z|^2 = n; "orthogonal",
            the same with all rows of one sampler, n at most, orthogonal to each other: a random frame.
        seed: of the generator.

    Variance of z' A z, S = (A + A')/2: 2 (|S|_F^2 - sum S_ii^2), 2 |S|_F^2, and
    2n/(n + 2) (|S|_F^2 - (tr A)^2/n).  A frame's forms add up to n tr A, so that a mean of m of them varies
    like one of m draws without replacement from n: by the factor (n - m)/(n - 1) less than on the sphere.

    Raises:
        OptionError: kind is none of these, or more than n orthogonal rows are drawn.
    """
    choice("kind", kind, (*_KINDS, "orthogonal"))
    generator = torch.Generator().manual_seed(seed_of(seed))
    if kind == "orthogonal":
        return _Frame(A, generator)

    def draw(m: int) -> Tensor:
        return _KINDS[kind](A.domain, (*A.batch, m), generator).to(A.device, A.dtype)

    return draw


def _sphere(space: Space, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    z = space.normal(*size, generator=generator)
    return z * (math.sqrt(space.dimension) / space.norms(z).unsqueeze(-1))


class _Frame:
    """Rows of a random orthogonal frame, sqrt(n) long, some at a time; all are kept, m n numbers."""

    def __init__(self, A: LinearOperator, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        self.rows = torch.empty(*A.batch, 0, A.domain.n, dtype=torch.float64)

    def __call__(self, m: int) -> Tensor:
        n, held = self.A.shape[1], self.rows.shape[-2]
        if held + m > n:
            raise OptionError(f"there are {n} orthogonal rows of length {n}, and {held + m} were asked for")
        space = self.A.domain
        new = space.normal(*self.A.batch, m, generator=self.generator)
        for _ in range(2):
            new = space.qr(new - space.inner(new, self.rows) @ self.rows)[0]
        self.rows = torch.cat([self.rows, new], -2)
        return (new * math.sqrt(n)).to(self.A.device, self.A.dtype)


_KINDS: dict[str, Callable[[Space, tuple[int, ...], torch.Generator], Tensor]] = {
    "rademacher": lambda space, size, generator: space.signs(*size, generator=generator),
    "gaussian": lambda space, size, generator: space.normal(*size, generator=generator),
    "sphere": _sphere,
}
