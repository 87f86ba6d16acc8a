"""What a solver is to the front doors: one object, its settings, and how it solves.

A new one is a class here or elsewhere, and one line in the table of the front door that offers it by name;
an instance of it can be passed without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

from spectral.errors import OptionError
from spectral.operators.base import LinearOperator
from spectral.operators.subspace import Subspace
from spectral.options import whole
from spectral.solvers.control import Control
from spectral.solvers.target import Target

FoundT = TypeVar("FoundT")


@dataclass(frozen=True, eq=False)
class Method(ABC, Generic[FoundT]):
    """A solver with its settings, all whole numbers of them at least 1.

    Attributes:
        name: what it is called, in tables and results.
        keeps: whether a checkpoint can hold its search.
        inside: whether it finds what lies in an interval.
        finds: `RitzPairs`, `RitzTriplets` or `SchurPairs`, by which front doors know it.

    Raises:
        OptionError: a setting is no whole number, or below 1, or the class lacks a name or what it finds.
    """

    name: ClassVar[str]
    keeps: ClassVar[bool] = False
    inside: ClassVar[bool] = False
    finds: ClassVar[type]

    def __post_init__(self) -> None:
        for name in ("name", "finds"):
            if not hasattr(self, name):
                raise OptionError(f"{type(self).__name__} lacks the class attribute {name!r}: see Method")
        for name in ("block", "basis", "width", "degree"):
            value = getattr(self, name, None)
            if value is not None and whole(name, value) < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")

    @abstractmethod
    def solve(self, A: LinearOperator, target: Target, control: Control) -> FoundT:
        """What is sought of A, in float32 or float64, before certification.

        Raises:
            OptionError: the settings do not fit the problem.
            NotFiniteError: a product holds NaN or infinity.
            NotSymmetricError: products contradict the symmetry, or the transpose, that A has.
            CheckpointError: the checkpoint belongs to another problem.
        """

    def within(self, part: Subspace) -> Self:
        """The method for coordinates of a subspace; what it holds in terms of whole rows is carried there."""
        return self

    def least(self, target: Target, n: int) -> int:
        """The fewest products that a solve takes: a step, and the residuals of what is sought."""
        block = getattr(self, "block", None) or 1
        return target.k + block if target.counted else max(block, 2)
