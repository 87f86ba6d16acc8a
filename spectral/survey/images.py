"""Images by name, read when they are needed, and the noise that belongs to each."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError, ShapeError

Image = Tensor | Callable[[], Tensor]


class Images:
    """Tensors by name, one held at a time: values that are callable are called, each time one is read.

    Args:
        given: a mapping of names to tensors or callables, or pairs of both.  Of a mapping only the names are
            kept, so that its own `__getitem__` may read a file.

    Raises:
        OptionError: there are none, a name is no text, or comes twice.
    """

    def __init__(self, given: Mapping[str, Image] | Iterable[tuple[str, Image]]) -> None:
        if isinstance(given, Mapping):
            self._held: Mapping[str, Image] = given
            self.names = list(given)
        else:
            try:
                self._held = dict(pairs := list(given))
            except (TypeError, ValueError) as failure:
                raise OptionError(
                    f"images have names: {{name: tensor}}, or pairs of both; got {type(given).__name__}"
                ) from failure
            self.names = [name for name, _ in pairs]
        if not self.names:
            raise OptionError("a survey needs an image at least: {name: tensor}, or pairs of both")
        if any(not isinstance(name, str) or not name for name in self.names):
            raise OptionError("images have names, which are text: {name: tensor}, or pairs of both")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise OptionError(f"two images are called {twice!r}: results are kept by name")

    def read(self, name: str) -> Tensor:
        """The image of a name, on the CPU.

        Raises:
            ShapeError: it is no floating-point tensor with entries.
            NotFiniteError: it holds NaN or infinity.
        """
        value = self._held[name]
        image = value() if callable(value) and not isinstance(value, Tensor) else value
        if not isinstance(image, Tensor) or not image.is_floating_point() or not image.numel():
            what = (image.dtype, tuple(image.shape)) if isinstance(image, Tensor) else type(image).__name__
            raise ShapeError(f"{name} is no floating-point tensor with entries, but {what}")
        if not bool(torch.isfinite(image).all()):
            raise NotFiniteError(f"{name} holds NaN or infinity")
        return image.detach().cpu()

    def first_shapes(self) -> Iterator[torch.Size]:
        """The shapes of those of the first few images that can be read."""
        for name in self.names[:8]:
            with contextlib.suppress(Exception):  # told when it is the image's turn
                yield self.read(name).shape


def noise(name: str, seed: int, shape: torch.Size) -> Tensor:
    """Standard normal noise, float32, of the image `name` under a seed, at every noise level the same.

    The stream is NumPy's Philox under SeedSequence(seed, spawn_key=(SHA-256 of the name,)): nothing but name,
    seed and shape changes what it gives.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest())
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(key,))))
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))
