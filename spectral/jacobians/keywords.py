"""What is passed on to a user's model beside its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectral.errors import OptionError


def keywords_of(model_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """`model_kwargs` as a dict of its own, empty for None.

    Raises:
        OptionError: it is no mapping from names to values.
    """
    if model_kwargs is None:
        return {}
    if not isinstance(model_kwargs, Mapping) or not all(isinstance(name, str) for name in model_kwargs):
        raise OptionError(
            'model_kwargs maps the names of the model\'s keywords to their values, as in {"label": 3}; got '
            f"{model_kwargs!r:.60}"
        )
    return dict(model_kwargs)
