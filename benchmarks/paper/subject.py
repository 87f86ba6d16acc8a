"""What the figures of finite training sets are of: C^alpha images, or pictures that somebody has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.paper.need import Need
from benchmarks.paper.networks import (
    BRIEF,
    FINITE_SIDES,
    LAW,
    Changes,
    Scale,
    blind,
    finite,
    sharper,
)
from denoisers.images import Shuffled, Source, disjoint, pictures_at
from denoisers.images.calpha import CAlpha
from denoisers.images.source import Images
from denoisers.images.subsets import order
from denoisers.training.data import source_of
from spectral.errors import OptionError

COUNTS: dict[Scale, tuple[int, ...]] = {
    "small": (1, 10, 100, 1000, 10_000),
    "gpu": (1, 10, 100, 1000, 10_000),
    "paper": (1, 10, 100, 1000, 10_000, 100_000),
}
LOOKED = 128  # images of each set
SEED = 7  # of held-out C^alpha images
FEWEST = 10  # of a set of pictures

# 192,000 images: 12,800, as of C^alpha images, leave 10 faces of 16x16 half learned.
LONGER: Changes = {
    "small": {**LAW, **FINITE_SIDES["small"], "batch": 64, "steps": 3000},
    "gpu": {**BRIEF["gpu"], **FINITE_SIDES["gpu"]},
}

HeldOut = Callable[[int, int], Tensor]
"""(n, side) -> n images that no network of a figure was trained on, (n, 1, side, side)."""


class Subject(ABC):
    """The images of a figure, and the networks that are trained on them.

    name: of pictures, in the names of files; "" for images that are made.
    drawn: samples of each network, by scale.
    """

    name = ""
    drawn: ClassVar[dict[Scale, int]]

    @abstractmethod
    def counts(self, scale: Scale) -> tuple[int, ...]:
        """Numbers N of training images, rising."""

    @abstractmethod
    def finite(self, scale: Scale, images: int, half: Literal["first", "second"] = "first") -> Need:
        """The network on N images again and again, of one of two disjoint sets."""

    @abstractmethod
    def orders(self, scale: Scale) -> tuple[Need, Need]:
        """The same network on images as they are, and on the same ones shuffled."""

    @abstractmethod
    def held_out(self, need: Need) -> HeldOut:
        """Images that a network was not trained on; shuffled where its own are."""

    @abstractmethod
    def words(self, need: Need) -> str:
        """What the images are."""

    def training(self, need: Need) -> Images:
        """The images that a network was trained on, (N, 1, size, size)."""
        c = need.config
        source = Shuffled(self.source(need)) if c.shuffled else self.source(need)
        return getattr(disjoint(source, c.images, c.data_seed + 1), c.half)

    def source(self, need: Need) -> Source:
        """What these are from, in order."""
        return source_of(need.config)


class Contours(Subject):
    """C^alpha images, of which there are as many as are asked for."""

    drawn: ClassVar[dict[Scale, int]] = {"small": 24, "gpu": 24, "paper": 100}
    emphasis = 1.25

    def counts(self, scale: Scale) -> tuple[int, ...]:
        """Powers of 10."""
        return COUNTS[scale]

    def finite(self, scale: Scale, images: int, half: Literal["first", "second"] = "first") -> Need:
        """Of alpha = 2."""
        return finite(scale, images, half)

    def orders(self, scale: Scale) -> tuple[Need, Need]:
        """Of alpha = 3, without end."""
        plain, moved = (blind(scale, "calpha", alpha=3.0, shuffled=shuffled) for shuffled in (False, True))
        if scale == "gpu":  # the first is then that of the slopes
            return sharper(scale, plain, self.emphasis), sharper(scale, moved, self.emphasis)
        return plain, moved

    def held_out(self, need: Need) -> HeldOut:
        """Those of a seed that no network is trained on."""
        alpha, shuffled = need.config.alpha, need.config.shuffled

        def images(n: int, side: int) -> Tensor:
            source: Source = CAlpha(side, alpha)
            return torch.from_numpy((Shuffled(source) if shuffled else source)(n, seed=SEED))

        return images

    def words(self, need: Need) -> str:
        """With their alpha."""
        return f"C^alpha images, alpha = {need.config.alpha:g} (the paper has faces and bedrooms)"


class Pictures(Subject):
    """Pictures of an .npz file or a folder, in grey, their squares averaged to the side of the scale.

    N = 10, 100, ..., and at last the most with one digit that is not 0, of which there are two disjoint sets
    and LOOKED pictures besides, which no network sees.

    Args:
        path: of `images` (n, H, W) uint8 in an .npz file, or of a folder of pictures.
        runs: folder of the networks, where a folder's pictures are kept, read and averaged once.

    Raises:
        FileNotFoundError: nothing is there.
        FileContentError: it holds no pictures that can be read.
        OptionError: there are too few.
    """

    drawn: ClassVar[dict[Scale, int]] = {"small": 100, "gpu": 100, "paper": 100}

    def __init__(self, path: Path, runs: Path) -> None:
        self.path, self.runs = path.resolve(), runs
        self.name = self.path.stem
        enough = 2 * FEWEST + LOOKED
        if self.available < enough:
            raise OptionError(
                f"{path} has {self.available} pictures: two disjoint sets of {FEWEST}, and {LOOKED} that no "
                f"network is trained on, take {enough}"
            )

    @cached_property
    def available(self) -> int:
        """How many pictures there are."""
        return pictures_at(self.path, 2).count

    def counts(self, scale: Scale) -> tuple[int, ...]:
        """Powers of 10, and the most."""
        most = min(COUNTS[scale][-1], (self.available - LOOKED) // 2)
        powers = [n for n in COUNTS[scale] if FEWEST <= n <= most]
        return tuple(sorted({*powers, most // powers[-1] * powers[-1]}))

    def finite(
        self,
        scale: Scale,
        images: int,
        half: Literal["first", "second"] = "first",
        shuffled: bool = False,
    ) -> Need:
        """The pictures whole."""
        return blind(scale, str(self.path), LONGER, images=images, half=half, shuffled=shuffled)

    def orders(self, scale: Scale) -> tuple[Need, Need]:
        """Of the most pictures."""
        most = self.counts(scale)[-1]
        return self.finite(scale, most), self.finite(scale, most, shuffled=True)

    def source(self, need: Need) -> Source:
        """A folder's from what is kept of it."""
        return source_of(need.config, need.cache(self.runs))

    def held_out(self, need: Need) -> HeldOut:
        """The same for all networks; colour in grey."""
        c = need.config

        def images(n: int, side: int) -> Tensor:
            source: Source = pictures_at(self.path, side)
            source = Shuffled(source) if c.shuffled else source
            last = order(self.available, c.data_seed + 1)[-LOOKED:][:n]
            return torch.from_numpy(np.concatenate([source(1, first=int(i)) for i in last]))

        return images

    def words(self, need: Need) -> str:
        """Where they are from."""
        return f"{self.available:,} pictures of `{self.path.name}`, in grey, which are not passed on"


CONTOURS = Contours()
