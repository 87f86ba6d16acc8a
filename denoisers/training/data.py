"""Clean images and noise of each step, by (seed, step): a resumed run sees what an uninterrupted one does."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denoisers.images import Disks, Mixture, Patches, Ray, Shuffled, Source, Waves, disjoint, pictures_at
from denoisers.images.calpha import CAlpha
from denoisers.images.folder import training_photographs
from denoisers.training.config import MIXED, TrainConfig
from spectral.errors import OptionError, RankError

Batch = NDArray[np.float32]
Batches = Callable[[int], Batch]
Share = tuple[Tensor, Tensor, Tensor]


def clean_batches(config: TrainConfig, cache: str | Path | None = None) -> Batches:
    """The function step -> clean images of that step, float32 (batch, C, size, size).

    Args:
        config: the run.
        cache: a file for a finite set's folder of pictures, as `denoisers.images.Folder` keeps them.

    Raises:
        FileNotFoundError: a folder holds no pictures, or there is no .npz file.
        FileContentError: a picture, or such a file, cannot be read.
        ShapeError: one is smaller than the patches.
        OptionError: a finite set is asked for of more images than there are; grey images for a network of
            several channels; a cache for images that are made, or drawn without end; no data named.
    """
    source = source_of(config, cache)
    if config.shuffled:
        source = Shuffled(source)
    if config.images:
        return _finite(config, source)
    # Validation has the images of seed 0.
    return lambda step: source(config.batch, seed=config.data_seed + 1, first=step * config.batch)


def source_of(config: TrainConfig, cache: str | Path | None = None) -> Source:
    """The images that a configuration names, in the order of the file that makes them."""
    colour, size = config.channels > 1, config.size
    made: dict[str, Callable[[], Source]] = {
        "calpha": lambda: CAlpha(size, config.alpha, config.beta or None),
        "calpha-mixed": lambda: Mixture([CAlpha(size, alpha) for alpha in MIXED]),
        "disks": lambda: Disks(size),
        "waves": lambda: Waves(size),
        "sines": lambda: Waves(size, offset=0.0),
        "ray": lambda: Ray(CAlpha(size, config.alpha)(1)[0]),
        "photos": lambda: Patches(training_photographs(colour), size, zoom=config.zoom),
    }
    beside = config.data.removeprefix("photos+")
    both = beside != config.data
    if not beside:  # which as a path would be the folder at hand
        raise OptionError(f"data names no pictures, {config.data!r}: photos, a folder, or photos+FOLDER")
    if cache is not None and (config.data in made or both or not config.images):
        raise OptionError("cache= is for a folder of pictures, of which images= are trained on")
    if config.data in made:
        if colour and config.data != "photos":
            raise OptionError(
                f"{config.data} are grey images, and the network takes {config.channels} channels"
            )
        return made[config.data]()
    if both:
        pictures = Patches.at(beside, size, colour=colour).pictures
        return Patches([*training_photographs(colour), *pictures], size, zoom=config.zoom)
    if config.images:
        return pictures_at(config.data, size, colour=colour, cache=cache)
    return Patches.at(config.data, size, colour=colour, zoom=config.zoom)


def noisy_batch(config: TrainConfig, clean: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x, sigma, z) of a step as tensors: images, a level (N,) for each by config.noise, noise N(0, I)."""
    rng = generator(config.seed, step, "noise")
    sigma = _levels(config, rng, len(clean))
    z = rng.standard_normal(clean.shape, dtype=np.float32)
    return torch.from_numpy(clean), torch.from_numpy(sigma), torch.from_numpy(z)


class Steps(Dataset[Share]):
    """(x, sigma, z) of each step of a run, as `noisy_batch` has them."""

    def __init__(self, config: TrainConfig, batches: Batches) -> None:
        self.config, self.batches = config, batches

    def __getitem__(self, step: int) -> Share:
        """Of one step."""
        return noisy_batch(self.config, self.batches(step), step)


def ahead(steps: Steps, numbers: Iterable[int], workers: int, pinned: bool) -> Generator[Share, None, None]:
    """The steps of these numbers in turn, made by `workers` processes while a network trains; 0: by this one.

    A step depends on its number alone, so they are the same whoever makes them.

    Workers end with what this gives, or with the process that called it.

    Args:
        steps: of a run.
        numbers: of the steps.
        workers: processes, each some steps ahead.
        pinned: in memory that a GPU reads by itself.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=pinned,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_deaf,
        generator=torch.Generator(),  # the loader draws a seed, which nothing here uses
    )
    batches: Any = iter(loader)
    try:
        yield from batches
    finally:
        if workers:  # whom a traceback would let live
            batches._shutdown_workers()
            for worker in batches._workers:
                worker.kill()  # one that hangs: it is deaf to what would end it else


def _deaf(worker: int) -> None:
    """Ctrl-C and SIGTERM are for the process that trains, which ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def with_workers() -> Iterator[None]:
    """While batches are made by others: one that ended or failed is told in one sentence.

    Raises:
        RankError: one did.
    """
    try:
        yield
    except Exception as failure:
        if "DataLoader worker" not in str(failure):
            raise
        *_, last = str(failure).strip(" .").splitlines()  # of what a worker raised, below its traceback
        raise RankError(
            f"a process that makes batches ended ({last}): mostly for want of memory, or of room in "
            "/dev/shm; resume=True goes on from the checkpoint, and workers=0 makes do without"
        ) from failure


def generator(seed: int, step: int, purpose: Literal["order", "noise"]) -> np.random.Generator:
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


def _finite(config: TrainConfig, source: Source) -> Batches:
    """Images of a finite set, in an order that is another for each pass; small ones several times a batch."""
    chosen = getattr(disjoint(source, config.images, config.data_seed + 1), config.half)
    repeats = -(-config.batch // config.images)
    steps = max(1, config.images // config.batch)  # of a pass

    def batch(step: int) -> Batch:
        rng = generator(config.seed, step // steps, "order")
        order = np.concatenate([rng.permutation(config.images) for _ in range(repeats)])
        start = step % steps * config.batch
        return chosen[order[start : start + config.batch]]

    return batch
