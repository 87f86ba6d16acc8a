"""What is sought: which pairs, among Ritz pairs in the order of preference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.linalg.unseen import SLACK
from spectral.options import choice, number, whole

EDGE = 3.0  # Ritz values in bases that were restarted differ by as many roundings of a product

Which = Literal["largest", "smallest", "magnitude"]


@dataclass(frozen=True)
class Target:
    """Real values: the k first in an order, all beyond a threshold, or all in an interval.

    The smallest eigenvalues of A are the largest of -A, and only those are looked for: the Ritz values here
    are those of `sign` A.  Values that a product's rounding cannot tell from `above` count as beyond it.

    Attributes:
        k: how many; not used where `above` or `between` is given.
        which: the order: "largest" (algebraic), "smallest", or "magnitude".
        above: seek every value beyond this one instead: larger for "largest", smaller for "smallest", larger
            in magnitude for "magnitude".
        between: (low, high): seek every value inside instead.
    """

    k: int = 1
    which: Which = "largest"
    above: float | None = None
    between: tuple[float, float] | None = None

    @classmethod
    def of(cls, k: Any, which: Any = "largest", above: Any = None, between: Any = None, **more: Any) -> Self:
        """From what a user gave.

        Raises:
            OptionError: an entry is no number, no order, or contradicts another.
        """
        choice("which", which, ("largest", "smallest", "magnitude"))
        if above is not None and between is not None:
            raise OptionError("above= and between= exclude each other")
        if between is not None:
            if not isinstance(between, Sequence) or isinstance(between, str) or len(between) != 2:
                raise OptionError(f"between is a pair of numbers, (low, high); got {between!r}")
            between = number("between", between[0]), number("between", between[1])
            if not between[0] < between[1]:
                raise OptionError(
                    "between= takes the lower end first, then the higher; got {:g} and {:g}".format(*between)
                )
        return cls(whole("k", k), which, None if above is None else number("above", above), between, **more)

    @property
    def counted(self) -> bool:
        """Whether it is their number that is given."""
        return self.above is None and self.between is None

    @property
    def ends(self) -> tuple[float, ...]:
        """The thresholds, if any."""
        if self.between is not None:
            return self.between
        return () if self.above is None else (self.above,)

    @property
    def sign(self) -> float:
        """-1 where the smallest are sought."""
        return -1.0 if self.which == "smallest" else 1.0

    @property
    def magnitude(self) -> bool:
        """Whether the order is by magnitude."""
        return self.which == "magnitude"

    def level(self, rounding: float) -> float | None:
        """The height that every pair sought exceeds, where it is not their number that is given."""
        return None if self.above is None else self.sign * self.above - EDGE * rounding

    def wanted(self, theta: Tensor, rounding: float) -> int:
        """How many of the leading Ritz values (B, size) are sought."""
        level = self.level(rounding)
        if level is None:
            return min(self.k, theta.shape[-1])
        return int((self.height(theta) > level).sum(-1).max())

    def all_in_view(self, theta: Tensor, residual: Tensor, wanted: int, rounding: float) -> bool:
        """Whether there are k pairs; with `above`, whether the next pair is sure to stay below it."""
        level = self.level(rounding)
        if level is None:
            return wanted == self.k
        if wanted == theta.shape[-1]:
            return False
        return bool((self.height(theta[:, wanted]) + residual[:, wanted] <= level).all())

    def honest(self, unseen: Tensor, rounding: float) -> Tensor:
        """A bound (B,) that leaves open what it cannot tell from `above`, by lying beyond that."""
        level = self.level(rounding)
        if level is None:
            return unseen
        return torch.where(unseen > level, unseen.clamp(min=level + 2 * EDGE * rounding), unseen)

    def height(self, theta: Tensor) -> Tensor:
        """What the order is by: the value, or its magnitude."""
        return theta.abs() if self.magnitude else theta

    def tolerance(self, theta: Tensor, tol: float, rounding: float) -> Tensor:
        """tol max |theta| over the wanted pairs, (B, 1); not below the rounding error of a product."""
        largest = theta[:, : self.wanted(theta, rounding)].abs()
        if largest.shape[-1] == 0:
            return torch.full((len(theta), 1), math.inf, dtype=torch.float64)
        return (tol * largest.amax(-1, keepdim=True)).clamp(min=rounding)

    def threshold(self, theta: Tensor, residual: Tensor, wanted: int, rounding: float) -> Tensor:
        """What an eigenvalue must exceed to have been missed, (B,)."""
        level = self.level(rounding)
        if level is not None:
            return torch.full((len(theta),), level, dtype=torch.float64)
        return self.height(theta[:, wanted - 1]) + residual[:, wanted - 1] + rounding

    def remaining(self, theta: Tensor, rounding: float) -> Tensor:
        """A bound (B,) on the first eigenvalue not wanted; theta (B, n) are all, in order of preference."""
        wanted = self.wanted(theta, rounding)
        if wanted == theta.shape[-1]:
            return torch.full((len(theta),), 0.0 if self.magnitude else -math.inf, dtype=torch.float64)
        return self.height(theta[:, wanted]) + 4 * rounding / SLACK


@dataclass(frozen=True)
class ComplexTarget(Target):
    """The same among complex eigenvalues, by real part or by modulus; conjugate pairs are wanted whole.

    Attributes:
        left: whether the left vectors are sought too.
    """

    left: bool = False

    def height(self, theta: Tensor) -> Tensor:
        """The real part or the modulus."""
        return theta.abs() if self.magnitude else theta.real

    def wanted(self, theta: Tensor, rounding: float) -> int:
        """k of the leading values (1, size), or k + 1 where k would part a pair; with `above`, all beyond."""
        count = super().wanted(theta, rounding)
        parted = self.above is None and 0 < count < theta.shape[-1] and bool(theta[0, count - 1].imag > 0)
        return count + parted

    def all_in_view(self, theta: Tensor, residual: Tensor, wanted: int, rounding: float) -> bool:
        """Whether there are k values or more; with `above`, as for real ones."""
        if self.above is None:
            return wanted >= self.k
        return super().all_in_view(theta, residual, wanted, rounding)
