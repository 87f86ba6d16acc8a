"""What all results have in common: they are saved, loaded, and shown in notebooks."""

from __future__ import annotations

import html
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from spectral import storage
from spectral.errors import FileContentError, OptionError

# Names of files of other kinds.
OTHERS = {".npz", ".npy", ".pt", ".pth", ".pkl", ".json", ".csv", ".mat", ".h5", ".png", ".pdf"}


class Result:
    """A frozen dataclass of tensors, numbers, words, lists, tuples, dicts and other results.

    With eq=False: == is identity, since tensors compare entry by entry.
    """

    kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls) -> None:
        Result.kinds[cls.__name__] = cls

    def save(self, path: str | Path, about: dict[str, Any] | None = None) -> Path:
        """Write every field to one safetensors file, what is no tensor as JSON in its header; the path.

        about: JSON values kept beside the result, which `spectral.storage.about_of` reads alone.

        Raises:
            OptionError: the file's name says that it is of another kind.
            OSError: it could not be written.
        """
        if Path(path).suffix.lower() in OTHERS:
            raise OptionError(f"{path} would hold a safetensors file: name it {Path(path).stem}.safetensors")
        tensors: dict[str, Tensor] = {}
        meta = {name: _packed(value, name, tensors) for name, value in _parts(self).items()}
        return storage.write(path, type(self).__name__, tensors, meta, about)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileContentError: the file is missing, damaged, or holds something else.
        """
        tensors, meta = storage.read(path, cls.__name__)
        try:
            return cls(**{name: _unpacked(value, tensors) for name, value in meta.items()})
        except (TypeError, KeyError) as failure:
            raise FileContentError(
                f"{path} was written by another version, whose {cls.__name__} has other fields: {failure}"
            ) from None

    def image(self, i: int) -> Self:
        """The result of y[i] of a batch, whose tensors all have a leading axis; `spent` stays the mean."""
        parts: dict[str, Any] = {}
        for name, value in _parts(self).items():
            if isinstance(value, Tensor):
                parts[name] = self._entry(value[i])
            elif isinstance(value, Result):
                parts[name] = value.image(i)
        return replace(self, **parts)  # type: ignore[type-var]

    @staticmethod
    def _entry(value: Tensor) -> Any:
        """A tensor of one image, as the class holds it where there is no batch."""
        return value

    def _repr_html_(self) -> str:
        title, rows = self._table()
        cells = "".join(
            f'<tr><th style="text-align: left">{html.escape(name)}</th>'
            f'<td style="text-align: left; white-space: pre-wrap">{html.escape(text)}</td></tr>'
            for name, text in rows
        )
        return f"<table><caption>{html.escape(title)}</caption>{cells}</table>{self._picture()}"

    def _picture(self) -> str:
        """HTML below the table: what can be seen at a glance; see `spectral.plots.inline`."""
        return ""

    def _table(self) -> tuple[str, list[tuple[str, str]]]:
        """A title, and rows of a name and a text."""
        return type(self).__name__, [(name, _in_words(value)) for name, value in _parts(self).items()]


def _parts(result: Result) -> dict[str, Any]:
    return {f.name: getattr(result, f.name) for f in fields(result)}  # type: ignore[arg-type]


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON that says what it was; tensors are put aside under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Result):
        parts = {key: _packed(part, f"{name}.{key}", tensors) for key, part in _parts(value).items()}
        return {type(value).__name__: parts}
    if isinstance(value, dict):
        return {"dict": {key: _packed(part, f"{name}.{key}", tensors) for key, part in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_packed(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_packed` made JSON of."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "float":
        return float(held)
    if kind in ("list", "tuple"):
        parts = [_unpacked(part, tensors) for part in held]
        return parts if kind == "list" else tuple(parts)
    named = {key: _unpacked(part, tensors) for key, part in held.items()}
    return named if kind == "dict" else Result.kinds[kind](**named)


def _in_words(value: Any) -> str:
    """A value as a line: of a short vector its entries, of another tensor its shape and range."""
    if isinstance(value, Tensor):
        if value.ndim < 2 and 0 < value.numel() <= 6:
            return ", ".join(f"{v:.5g}" for v in value.flatten().tolist())
        shape = "x".join(map(str, value.shape))
        if value.is_complex() or not value.numel():
            return f"{shape} tensor"
        return f"{shape} tensor, from {value.min():.5g} to {value.max():.5g}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
