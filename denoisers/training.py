"""Training of denoisers: a run is a pure function of its configuration, stopped and resumed at will."""

import json
import math
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from denoisers.images.calpha import synthesize
from denoisers.images.folder import patches, read_folder, training_photographs
from denoisers.networks import BiasFreeNorm, NoisePredictor
from denoisers.weights import build, save
from spectral.errors import CheckpointError, NotFiniteError, OptionError

Batch = NDArray[np.float32]

CALIBRATION_BATCHES = 100


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on.

    data: "calpha" (synthetic, `released`, exponents alpha, never the same image twice), "photos" (the
        training photographs), or the path of a folder of pictures.
    network, network_config: the class and its keyword arguments.
    size, batch: side of the patches in pixels, and how many a step.
    steps, learning_rate, halvings: Adam's step is halved `halvings` times at equal distances in the run.
    noise, sigma_max: noise level sigma_max U ("uniform", as arXiv 2310.02557 says) or sigma_max U^2
        ("squared", as its code does, favouring small noise), U uniform on [0, 1], a level for each patch.
    seed: of the weights, the data and the noise.
    """

    data: str
    network: str = "UNet"
    network_config: dict[str, Any] | None = None
    alpha: float = 2.0
    size: int = 48
    batch: int = 32
    steps: int = 4000
    learning_rate: float = 1e-3
    halvings: int = 5
    noise: Literal["uniform", "squared"] = "squared"
    sigma_max: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.size, self.batch, self.steps) < 1 or self.halvings < 0:
            raise OptionError("size, batch and steps must be >= 1 and halvings >= 0")
        if self.noise not in ("uniform", "squared"):
            raise OptionError(f"noise must be 'uniform' or 'squared', got {self.noise!r}")
        if not (self.sigma_max > 0 and self.learning_rate > 0):
            raise OptionError("sigma_max and learning_rate must be positive")
        if not 0 <= self.seed < 2**31:
            raise OptionError(f"seed must lie in [0, 2^31), got {self.seed}")


RECIPES = {
    "calpha": TrainConfig(data="calpha", network_config={"blocks": 3, "width": 16}, steps=3600),
    "photos": TrainConfig(
        data="photos", network_config={"blocks": 2, "width": 32}, steps=5000, sigma_max=0.5
    ),
    # The paper's network, 7.7 M parameters: too many to ship, a quarter of an hour to a denoiser of use.
    "unet": TrainConfig(
        data="photos",
        network_config={"blocks": 3, "width": 64},
        size=40,
        batch=8,
        steps=1500,
        sigma_max=0.5,
    ),
}


def train(
    config: TrainConfig,
    path: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 200,
    console: Console | None = None,
) -> NoisePredictor:
    """Train a network and write it to `path` (.safetensors); returned in evaluation mode.

    Minimises E |f(x + sigma z) - x|^2, summed over pixels and averaged over the batch. Every batch is drawn
    from a generator of its own, keyed by (seed, step), so a resumed run and an uninterrupted one give the
    same bits (same machine, same number of threads). At the end the norms are calibrated (`calibrate`) on
    the batches that would have come next.

    A checkpoint, `path` with suffix .checkpoint, is written atomically every `checkpoint_every` steps, and at
    Ctrl-C or SIGTERM, after which KeyboardInterrupt is raised; it is deleted at the end of the run. `resume`
    goes on from it.

    Raises FileExistsError where a checkpoint exists and `resume` is not set, or weights exist and neither it
    nor `overwrite` is; FileNotFoundError where it is set and none exists; CheckpointError where it is of
    another configuration, or damaged; OptionError where `path` ends in anything but .safetensors;
    NotFiniteError, and writes no weights, where the loss or a weight is NaN or infinite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OptionError(f"weights are written to a .safetensors file, the only kind that loads; got {path}")
    if path.exists() and not (resume or overwrite):
        raise FileExistsError(f"{path} exists: overwrite it, or write elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    run = _Run(config, path.with_suffix(".checkpoint"))
    run.start(resume)
    batches = clean_batches(config)
    console = console or Console()
    stop_asked = _StopAsked()
    with _progress(console) as progress, _signals(stop_asked):
        task = progress.add_task("training", total=config.steps, completed=run.step, loss=float("nan"))
        while run.step < config.steps:
            loss = run.advance(batches)
            if not math.isfinite(loss):
                raise NotFiniteError(f"the loss is {loss} at step {run.step}: lower the learning rate")
            progress.update(task, completed=run.step, loss=loss)
            due = run.step % checkpoint_every == 0
            failure = run.checkpoint() if due or stop_asked else None
            if failure and not stop_asked:
                console.print(f"the checkpoint could not be written, and training goes on: {failure}")
            if due and not console.is_terminal:
                console.print(f"step {run.step}/{config.steps} loss {loss:.4g} seconds {run.seconds:.0f}")
            if stop_asked:
                left = (
                    f"the checkpoint could not be written: {failure}"
                    if failure
                    else f"resume from {run.file}"
                )
                raise KeyboardInterrupt(f"stopped at step {run.step}; {left}")
    model = run.model
    later = range(config.steps, config.steps + CALIBRATION_BATCHES)
    calibrate(model, (noisy_batch(config, batches(step), step)[1] for step in later))
    model.eval().requires_grad_(False)
    if not all(t.isfinite().all() for t in model.state_dict().values()):
        raise NotFiniteError("the weights are not finite: lower the learning rate")
    save(model, path, {"training": json.dumps(asdict(config)), "training_seconds": f"{run.seconds:.0f}"})
    run.file.unlink(missing_ok=True)
    return model


def clean_batches(config: TrainConfig) -> Callable[[int], Batch]:
    """The function step -> clean images of that step, float32 (batch, 1, size, size)."""
    if config.data == "calpha":

        def synthetic(step: int) -> Batch:
            # Seeds below 2^32 stay unused by training: they are free for tests.
            seed = ((config.seed + 1) << 32) + step
            return synthesize(config.batch, size=config.size, alpha=config.alpha, seed=seed)

        return synthetic
    images = training_photographs() if config.data == "photos" else read_folder(config.data)
    return lambda step: patches(images, config.size, config.batch, _generator(config.seed, step, "patches"))


def noisy_batch(config: TrainConfig, clean: Batch, step: int) -> tuple[Tensor, Tensor]:
    """(x, x + sigma z) of a step as tensors, sigma drawn by config.noise, one a patch."""
    rng = _generator(config.seed, step, "noise")
    u = rng.random((len(clean), 1, 1, 1), dtype=np.float32)
    sigma = config.sigma_max * (u if config.noise == "uniform" else u**2)
    noisy = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return torch.from_numpy(clean), torch.from_numpy(noisy)


@torch.no_grad()
def calibrate(model: NoisePredictor, noisy: Iterable[Tensor]) -> None:
    """Set each norm's running_sd to the mean, over the batches, of the standard deviation it divides by.

    The moving average of training follows the noise levels of its last ten batches. In the shipped networks
    evaluation mode lost 0.3 to 3 dB by it at sigma = 0.05 early in training, and less than 0.1 dB at the end.
    Leaves the model in training mode.
    """
    norms = [module for module in model.modules() if isinstance(module, BiasFreeNorm)]
    momenta = [norm.momentum for norm in norms]
    model.train()
    for count, batch in enumerate(noisy, 1):
        for norm in norms:
            norm.momentum = 1 / count
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def learning_rate(config: TrainConfig, step: int) -> float:
    """Adam's step size at a step: halved `halvings` times at equal distances."""
    return config.learning_rate * 0.5 ** ((config.halvings + 1) * step // config.steps)


class _Run:
    """The state of a run: network, optimiser, step, seconds; and its checkpoint file."""

    def __init__(self, config: TrainConfig, file: Path) -> None:
        self.config, self.file = config, file
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build(config.network, config.network_config or {}).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.step = 0
        self.seconds = 0.0

    def start(self, resume: bool) -> None:
        """Load the checkpoint if asked to, and refuse what would lose one."""
        if not resume and self.file.exists():
            raise FileExistsError(f"{self.file} holds an unfinished run: resume it, or delete it")
        if not resume:
            return
        if not self.file.exists():
            raise FileNotFoundError(f"no checkpoint at {self.file}: start without resume")
        state = self._read()
        if state["config"] != asdict(self.config):
            raise CheckpointError(f"{self.file} was written by another configuration: {state['config']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def advance(self, batches: Callable[[int], Batch]) -> float:
        """One step of Adam; returns the loss."""
        begin = time.perf_counter()
        clean, noisy = noisy_batch(self.config, batches(self.step), self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(noisy), clean, reduction="sum") / len(clean)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return float(loss.detach())

    def _read(self) -> dict[str, Any]:
        """The checkpoint, whose checksums torch itself does not look at."""
        try:
            with zipfile.ZipFile(self.file) as parts:
                damaged = parts.testzip()
            if damaged is None:
                return torch.load(self.file, weights_only=True)
        except Exception as failure:  # of damaged archives and pickles: types of all kinds
            damaged = str(failure)
        raise CheckpointError(f"{self.file} is damaged ({damaged}): delete it, and start again")

    def checkpoint(self) -> str | None:
        """Write the state beside the file, then move it into place; why not, where it cannot be written."""
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        unfinished = self.file.with_name(f".{self.file.name}.{os.getpid()}.unfinished")
        try:
            torch.save(state, unfinished)
            unfinished.replace(self.file)
        except (OSError, RuntimeError) as failure:  # torch's own of a full disk
            unfinished.unlink(missing_ok=True)
            return " ".join(str(failure).split())
        return None


def _generator(seed: int, step: int, purpose: Literal["patches", "noise"]) -> np.random.Generator:
    stream = 2 * step + (purpose == "noise")
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


class _StopAsked:
    """False until a signal arrives."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def _signals(handler: _StopAsked) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask for a stop between steps, where the state is whole."""
    # Python gives signals to the main thread alone.
    numbers = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
