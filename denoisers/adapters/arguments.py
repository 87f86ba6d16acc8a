"""A model as a function of one of its keywords: the prompt, a class embedding, the noise level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from spectral.errors import OptionError


def with_respect_to(
    name: str, model: Callable[..., Any], y: Tensor, **keywords: Any
) -> Callable[[Tensor], Any]:
    """p -> model(y, name=p, **keywords), y fixed: J is output by p.

    `spectral.top_svd(with_respect_to("prompt", f.at(timestep=500), y), prompt, k=3)`: right singular vectors
    are directions of the prompt, left ones what they change in the image.

    Raises:
        OptionError: `name` is also among the keywords.
    """
    if name in keywords:
        raise OptionError(f"{name!r} is the variable, and cannot be fixed as well")

    def output(value: Tensor) -> Any:
        return model(y, **{name: value}, **keywords)

    output.__name__ = f"{getattr(model, '__name__', type(model).__name__)}({name})"
    return output
