"""Options that are numbers or words: what is none, or out of range, is told in one sentence."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection
from typing import Any

from spectral.errors import OptionError

SEEDS = 2**63


def whole(name: str, value: Any) -> int:
    """`value` as a Python int.

    Raises:
        OptionError: it is no whole number; True and False are none.
    """
    try:
        if _of_truth(value):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise OptionError(f"{name} is a whole number, got {value!r}") from None


def number(name: str, value: Any) -> float:
    """`value` as a Python float, finite.

    Raises:
        OptionError: it is no number, as True and False are none, or not finite.
    """
    try:
        converted = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        converted = math.nan
    if isinstance(value, str) or _of_truth(value) or not math.isfinite(converted):
        raise OptionError(f"{name} is a finite number, got {value!r}")
    return converted


def _of_truth(value: Any) -> bool:
    """Whether it is True or False, Python's, NumPy's or torch's, which else are taken for 1 and 0."""
    return isinstance(value, bool) or str(getattr(value, "dtype", None)).endswith("bool")


def variable(name: str, default: int) -> int:
    """An environment variable of torchrun's as an int; the default where it is empty, or not set.

    Raises:
        OptionError: it is no whole number.
    """
    value = os.environ.get(name) or default
    try:
        return int(value)
    except ValueError:
        raise OptionError(f"the environment variable {name} is a whole number, got {value!r}") from None


def choice(name: str, value: Any, among: Collection[str]) -> None:
    """That `value` is one of the words that an option takes.

    Raises:
        OptionError: it is none of them.
    """
    if not isinstance(value, str) or value not in among:
        raise OptionError(f"{name} is one of {', '.join(among)}; got {value!r}")


def seed_of(value: Any) -> int:
    """A seed of torch's generators.

    Raises:
        OptionError: it is no whole number from 0 to 2^63 - 1.
    """
    seed = whole("seed", value)
    if not 0 <= seed < SEEDS:
        raise OptionError(f"seed must lie in [0, 2^63), got {seed}")
    return seed
