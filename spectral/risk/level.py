"""How a denoiser is told the noise level."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from spectral.errors import OptionError
from spectral.jacobians.keywords import keywords_of, signature_of


def with_level(
    model: Callable[..., Any],
    sigma: float | Tensor,
    sigma_keyword: str | None,
    model_kwargs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The model's keywords, with sigma under the name `sigma_keyword` where there is one.

    Raises:
        OptionError: `sigma_keyword` is no name, or `model_kwargs` sets it too; or the model has a parameter
            `sigma` and nothing sets it, so that it would denoise for its default level instead of the one in
            question.
    """
    keywords = keywords_of(model_kwargs)
    if sigma_keyword is None:
        if "sigma" not in keywords and takes_sigma(model):
            raise OptionError(
                'the model has a parameter sigma, which nothing sets: pass sigma_keyword="sigma" to have it '
                'told the noise level given here, or model_kwargs={"sigma": ...} for another'
            )
        return keywords
    if not isinstance(sigma_keyword, str):
        raise OptionError(f"sigma_keyword is the name of a keyword of the model's, got {sigma_keyword!r}")
    if sigma_keyword in keywords:
        raise OptionError(f"sigma_keyword and model_kwargs both set {sigma_keyword!r}: leave one of them out")
    return keywords | {sigma_keyword: sigma}


def takes_sigma(model: Callable[..., Any]) -> bool:
    """Whether a parameter beside the input is called sigma, and is not bound by functools.partial."""
    if isinstance(model, functools.partial) and "sigma" in model.keywords:
        return False
    signature = signature_of(model)
    return signature is not None and "sigma" in list(signature.parameters)[1:]
