"""Random numbers that a model draws: from which generators, and whether a seed of its own fixes them."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# An entry that is left out in one call of ten shows in four of five such models by then.
CALLS = 16


def state_of(generator: Any) -> Any:
    """The state of a generator, a copy."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def restore(generator: Any, state: Any) -> None:
    """Give a generator a state that it had."""
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def states(held: list[Any]) -> bytes:
    """The states of some generators, and of those that a process has once: others, once one has drawn."""
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    tensors = [torch.get_rng_state(), *on_gpus]
    told = [random.getstate(), np.random.get_state(), *map(state_of, held)]
    return pickle.dumps([t.numpy().tobytes() for t in tensors] + [_plain(state) for state in told])


def _plain(state: Any) -> Any:
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state
