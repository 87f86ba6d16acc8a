"""What is passed on to a user's model beside its input, and what to do where it takes something else."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from spectral.errors import OptionError, ShapeError

# torch's own words: the shape that came, the channels that are taken, those that came
_CHANNELS = re.compile(r"expected input\[([\d, ]+)\] to have (\d+) channels, but got (\d+)")
# what convolutions and batch norms say of an image without its axes of images and channels
_AXES = re.compile(r"expected .*\b4D\b.*(input of size|got \dD input)", re.IGNORECASE)


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


def signature_of(model: Callable[..., Any]) -> inspect.Signature | None:
    """What a model is called with, a module's own forward; None of functions written in C."""
    target: Any = model
    if isinstance(model, functools.partial) and isinstance(model.func, nn.Module):
        target = functools.partial(model.func.forward, *model.args, **model.keywords)
    elif isinstance(model, nn.Module):
        target = model.forward
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def advised(
    failure: Exception, model: Callable[..., Any], name: str, y: Tensor, keywords: Mapping[str, Any]
) -> Exception:
    """What a model raised when it was called on y, as an error that says what to do where that is known.

    Known are keywords that do not fit its signature, or are missed behind it, images without all four axes,
    and images of other channels than its first layer's.
    """
    signature = signature_of(model)
    if isinstance(failure, TypeError) and signature is not None:
        try:
            signature.bind(y, **keywords)
        except TypeError as reason:
            called = ", ".join(["y", *(f"{keyword}=..." for keyword in keywords)])
            return OptionError(
                f"{name} cannot be called as model({called}): {reason}; it takes {signature}. What goes with "
                'y is given by model_kwargs={"name": value}, a noise level that is asked about by '
                'sigma_keyword="name"'
            )
        left = [p.name for p in signature.parameters.values() if p.default is None and p.name not in keywords]
        if left and "NoneType" in str(failure):
            return OptionError(
                f"{name} was called with {', '.join(left)} left at None, and raised: {failure}. What goes "
                f'with y is given by model_kwargs={{"{left[0]}": value}}, a level that is asked about by '
                f'sigma_keyword="{left[0]}"'
            )
    if y.ndim in (2, 3) and _AXES.search(str(failure)):
        axes = "None, None" if y.ndim == 2 else "None"
        return ShapeError(
            f"{name} takes images (N, C, H, W), and y has the shape {tuple(y.shape)}: give y[{axes}]"
        )
    wrong = _CHANNELS.search(str(failure))
    if wrong and wrong[1] == ", ".join(map(str, y.shape)):
        takes, has = int(wrong[2]), int(wrong[3])
        advice = ""
        if takes == 1:
            advice = (
                ": average the channels, y.mean(1, keepdim=True), or take each as an image by itself, "
                "y.transpose(0, 1) with batched=True"
            )
        elif has == 1:
            advice = f": repeat the one there is, y.expand(-1, {takes}, -1, -1)"
        return ShapeError(
            f"{name} takes images of {takes} channels, and y of shape {tuple(y.shape)} has {has}{advice}"
        )
    return failure
