"""What all results of a survey's folder have been asked by, in words that JSON holds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from spectral.eigs import METHODS as OF_EIGS
from spectral.eigs import top_eigs
from spectral.errors import CheckpointError, OptionError
from spectral.jacobians.fingerprint import fingerprint
from spectral.options import choice
from spectral.solvers import Control, Method, Target
from spectral.survey.folder import Folder
from spectral.svd import METHODS as OF_SVD
from spectral.svd import top_svd
from spectral.words import in_words as words_of

PARTS: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    "symmetric": (top_eigs, OF_EIGS),
    "svd": (top_svd, OF_SVD),
}
# Keywords of the solvers that are the same for all images; `above` finds another number in each.
OPTIONS = ("which", "tol", "method", "confidence", "mask", "output_mask", "max_products", "precision")


def checked(part: str, k: int, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The solver's options with its defaults, before any image is read.

    Raises:
        OptionError: one is out of range.
        TypeError: the solver of that part has no such option, or none that a survey could hand it.
    """
    choice("part", part, PARTS)
    solver, methods = PARTS[part]
    known = inspect.signature(solver).parameters
    for name in options:
        if name not in OPTIONS or name not in known:
            raise TypeError(f"survey() of part {part!r} got an unexpected keyword argument {name!r}")
    full = {name: options.get(name, known[name].default) for name in OPTIONS if name in known}
    if k < 1:
        raise OptionError(f"k must be at least 1, got {k}")
    Target.of(k, full.get("which", "largest"), None)
    plain = {name: full[name] for name in ("tol", "max_products", "confidence")}
    Control.of((), 1, **plain, seed=seed, start=None, checkpoint=None)
    if not isinstance(full["method"], Method):
        choice("method", full["method"], ("auto", *methods))
    return full


def in_words(
    model: Callable[..., Any],
    part: str,
    k: int,
    seed: int,
    options: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The request as JSON: the model by a digest, tensors by theirs."""
    told = {"model": fingerprint(model), "part": part, "k": k, "seed": seed, **options, **more}
    words: dict[str, Any] = json.loads(json.dumps(words_of(told)))
    return words


def keep(folder: Folder, words: dict[str, Any]) -> None:
    """Make the folder one of this request, or see that it is.

    Raises:
        CheckpointError: its results belong to another request.
        FileContentError: its request cannot be read.
        OSError: it cannot be made.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    if not folder.request.exists():
        folder.write(folder.request, words, first=True)
    held = folder.read(folder.request)
    apart = [name for name in {**held, **words} if held.get(name) != words.get(name)]
    if not apart:
        return
    if apart == ["model"]:
        raise CheckpointError(
            f"{folder.root} holds a survey of another model, or of other weights: give another folder"
        )
    here, there = (
        ", ".join(f"{name} = {one.get(name)}" if name != "model" else "another model" for name in apart)
        for one in (words, held)
    )
    raise CheckpointError(
        f"{folder.root} holds a survey with {there}, and this one has {here}: ask for the same, or give "
        "another folder"
    )
