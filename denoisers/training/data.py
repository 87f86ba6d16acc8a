"""Clean images and noise of each step, by (seed, step): a resumed run sees what an uninterrupted one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoisers.images import Disks, Folder, Source, Waves, disjoint
from denoisers.images.calpha import CAlpha, synthesize
from denoisers.images.folder import patches, pictures_in, read_grey, training_photographs
from denoisers.images.pictures import read_colour
from denoisers.training.config import TrainConfig
from spectral.errors import FileContentError, OptionError

Batch = NDArray[np.float32]
Batches = Callable[[int], Batch]


def clean_batches(config: TrainConfig) -> Batches:
    """The function step -> clean images of that step, float32 (batch, C, size, size).

    Raises:
        FileNotFoundError: a folder holds no pictures.
        FileContentError: a picture cannot be read, or is smaller than the patches.
        OptionError: a finite set is asked for of more images than there are, or a batch of more than it.
    """
    if config.data in ("calpha", "disks", "waves") and config.channels != 1:
        raise OptionError(f"{config.data} are grey images, and the network takes {config.channels} channels")
    if config.images:
        return _finite(config)
    if config.data == "calpha":

        def synthetic(step: int) -> Batch:
            # Seeds below 2^32 stay unused by training: they are free for tests.
            seed = ((config.seed + 1) << 32) + step
            return synthesize(config.batch, size=config.size, alpha=config.alpha, seed=seed)

        return synthetic
    source = _source(config)
    if source is not None:
        return lambda step: source(config.batch, seed=config.data_seed + 1, first=step * config.batch)
    pictures = _pictures(config)
    return lambda step: patches(pictures, config.size, config.batch, generator(config.seed, step, "patches"))


def noisy_batch(config: TrainConfig, clean: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x, sigma, z) of a step as tensors: images, a level (N,) for each by config.noise, noise N(0, I)."""
    rng = generator(config.seed, step, "noise")
    sigma = _levels(config, rng, len(clean))
    z = rng.standard_normal(clean.shape, dtype=np.float32)
    return torch.from_numpy(clean), torch.from_numpy(sigma), torch.from_numpy(z)


def generator(seed: int, step: int, purpose: Literal["patches", "noise"]) -> np.random.Generator:
    """Of one purpose at one step."""
    stream = 2 * step + (purpose == "noise")
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def _levels(config: TrainConfig, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    least, most = np.float32(config.sigma_min), np.float32(config.sigma_max)
    if config.noise == "log-normal":
        drawn = rng.standard_normal((count, 1, 1, 1), dtype=np.float32)[:, 0, 0, 0]
        return np.exp(np.float32(config.log_mean) + np.float32(config.log_sd) * drawn).clip(least, most)
    u = rng.random((count, 1, 1, 1), dtype=np.float32)[:, 0, 0, 0]
    if config.noise == "log-uniform":
        return least * (most / least) ** u
    if config.noise == "fixed":
        return np.full_like(u, most)
    return most * (u if config.noise == "uniform" else u**2)


def _source(config: TrainConfig) -> Source | None:
    """Images without end, or those of a folder one by one where they are to be a finite set."""
    if config.data == "disks":
        return Disks(config.size)
    if config.data == "waves":
        return Waves(config.size)
    if config.data == "calpha":
        return CAlpha(config.size, config.alpha)
    return None


def _pictures(config: TrainConfig) -> list[Batch]:
    """Pictures (C, H, W), each larger than a patch."""
    colour = config.channels > 1
    if config.data == "photos":
        if colour:
            raise OptionError("the training photographs are grey: give a folder of colour pictures")
        found = [("", picture[None]) for picture in training_photographs()]
    else:
        files = pictures_in(config.data)
        read = (read_colour(f) if colour else read_grey(f, convert=True) for f in files)
        found = [(str(file), picture[0]) for file, picture in zip(files, read, strict=True)]
    for name, picture in found:
        if min(picture.shape[1:]) < config.size:
            raise FileContentError(
                f"{name} is {picture.shape[1]}x{picture.shape[2]}, and patches have {config.size}: leave it "
                "out, or ask for smaller ones"
            )
    return [picture for _, picture in found]


def _finite(config: TrainConfig) -> Batches:
    """Images of a finite set, in an order that is another for each pass through it."""
    source = _source(config)
    if source is None:
        if config.data == "photos" or not Path(config.data).is_dir():
            raise OptionError("a finite set is taken of calpha, disks, waves or a folder of pictures")
        source = Folder(config.data, config.size, colour=config.channels > 1)
    chosen = getattr(disjoint(source, config.images, config.data_seed), config.half)
    if config.batch > config.images:
        raise OptionError(f"a batch of {config.batch} is larger than the data, {config.images} images")
    passes = config.images // config.batch

    def batch(step: int) -> Batch:
        order = generator(config.seed, step // passes, "patches").permutation(config.images)
        start = step % passes * config.batch
        return chosen[order[start : start + config.batch]]

    return batch
