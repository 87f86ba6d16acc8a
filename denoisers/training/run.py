"""A run: its folder, its loop, and what of it is kept when it is stopped."""

from __future__ import annotations

import copy
import gc
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from denoisers.networks import Denoiser
from denoisers.networks.base import by_image
from denoisers.training import checkpoint, data
from denoisers.training.config import TrainConfig
from denoisers.training.engine import Engine, engine_of
from denoisers.training.log import Log
from denoisers.training.memory import kept
from denoisers.training.norms import calibrate, freeze
from denoisers.training.objective import loss_of
from denoisers.training.replay import Replay
from denoisers.training.validation import held_out, validated
from denoisers.weights import build, save, where
from denoisers.zoo import load
from spectral import storage
from spectral.errors import CheckpointError, NotFiniteError, OptionError
from spectral.options import whole
from spectral.progress import counting

COPIES = 4  # of the weights: themselves, their gradient, Adam's two moments
WRITTEN = ("config.json", "checkpoint.safetensors", "log.csv", "psnr.png", "weights.safetensors")
CALIBRATION_BATCHES = 100
TRIAL_BATCHES = 10  # for what is validated while training
WORKERS = 12  # beside a GPU, which takes a batch of 64x64 in some 3 ms, where one core makes it in 20
DEVICES = ("lr", "capturable")  # of an optimiser's groups: a GPU's graph reads the rate from its memory
LOOK = 10  # steps from one look at a GPU's loss to the next


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 200,
    validate_every: int = 500,
    device: str = "auto",
    compile: bool = False,
    tensorboard: bool = False,
    cache: str | Path | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Denoiser:
    """Train a network into a folder of its own; returned in evaluation mode.

    Every batch is drawn from generators of its own, keyed by (seed, step), so a resumed run and an
    uninterrupted one give the same bits (same machine, same number of threads).  At the end the norms, unless
    they are frozen, are calibrated (`calibrate`) on the batches that would have come next.  Under torchrun
    each process takes its share of the same batches.

    The folder holds config.json, weights.safetensors (at the end), checkpoint.safetensors (until then; every
    `checkpoint_every` steps, and at Ctrl-C or SIGTERM, after which KeyboardInterrupt is raised), and, every
    `validate_every` steps, log.csv and psnr.png: loss, images per second, PSNR at three noise levels on
    images that are not trained on.

    Args:
        config: the run.
        folder: made where it is missing.
        resume: go on from the checkpoint; a run may change its device and number of processes on the way.
        overwrite: replace weights that exist.
        checkpoint_every, validate_every: in steps.
        device: "cpu", "cuda", or "auto", a GPU where there is one.
        compile: by torch.compile.
        tensorboard: write events too.
        cache: a file that keeps the pictures of a folder, read and fitted once, for this run and others.
        workers: processes that make the batches of the next steps meanwhile; by default none on a CPU, whose
            cores the network needs, and beside a GPU up to `WORKERS`.
        console: where progress is shown.

    Raises:
        FileExistsError: a checkpoint exists and `resume` is not set, or weights exist and neither it nor
            `overwrite` is.
        FileNotFoundError: `resume` is set and there is no checkpoint; no pictures; nothing to start from.
        CheckpointError: it is of another configuration, or damaged.
        OptionError: a combination that cannot be; see `TrainConfig` and `engine_of`.
        NotFiniteError: the loss or a weight is NaN or infinite; no weights are written.
        RankError: another process, or one that makes batches, ended, or fell silent.
    """
    for name, value, least in (
        ("checkpoint_every", checkpoint_every, 1),
        ("validate_every", validate_every, 1),
        ("workers", 0 if workers is None else workers, 0),
    ):
        if whole(name, value) < least:
            raise OptionError(f"{name} must be >= {least}, got {value}")
    folder = Path(folder)
    if folder.suffix == ".safetensors" or folder.is_file():
        raise OptionError(f"a run is a folder, and its weights a file in it: name {folder.with_suffix('')}")
    if where(folder).exists() and folder.is_dir() and not (resume or overwrite):
        raise FileExistsError(
            f"{where(folder)} exists: overwrite=True trains it anew, and another folder leaves it"
        )
    engine = engine_of(config, device)
    run = Run(config, folder / "checkpoint.safetensors", engine, compile)
    run.start(resume)
    batches = data.clean_batches(config, cache)
    folder.mkdir(parents=True, exist_ok=True)  # once all that was given is known to be of use
    first = engine.rank == 0
    if first:
        for name in WRITTEN:
            storage.sweep(folder / name)
        with storage.replacing(folder / "config.json") as partial:
            partial.write_text(config.to_json())
    log = Log(folder, run.step, tensorboard) if first else None
    gpu = engine.device.type == "cuda"
    if workers is None:
        workers = min(WORKERS, (os.cpu_count() or 1) - 1) if gpu else 0
    steps = data.ahead(data.Steps(config, batches), range(run.step, config.steps), workers, pinned=gpu)
    console = console or Console(quiet=not first)
    stop_asked = _StopAsked()
    drawn = console.is_terminal or console.is_jupyter  # a log has rows in its place
    bar = counting(drawn, "training", console if drawn else None)
    memory = nullcontext() if gpu else kept()
    with bar as report, _signals(stop_asked), engine.reaching(), data.with_workers(), closing(steps), memory:
        while run.step < config.steps:
            begin = time.perf_counter()
            lost = run.advance(next(steps))
            stop = engine.any(bool(stop_asked))
            due = run.step % checkpoint_every == 0 or run.step == config.steps or stop
            shown = run.step % validate_every == 0 or run.step == config.steps
            # A GPU is steps behind, and to ask for its loss is to wait for it; what is not finite stays so.
            looked = not gpu or run.step % LOOK == 0 or due or shown
            loss = engine.mean(lost) if looked else 0.0
            run.seconds += time.perf_counter() - begin
            if not looked:
                continue
            if not math.isfinite(loss):
                raise NotFiniteError(f"the loss is {loss} at step {run.step}: lower the learning rate")
            if report is not None:
                report(run.step, config.steps, f"loss {loss:.4g}")
            failure = run.checkpoint() if due and first else None
            if shown:
                row = run.row(loss, batches)
                failure = failure or (None if log is None else log.add(row))
                if not console.is_terminal:
                    line = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
                    console.print(line, soft_wrap=True)
            if failure and not stop:
                console.print(f"could not be written, and training goes on: {failure}", soft_wrap=True)
            if stop:
                left = (
                    f"the checkpoint could not be written: {failure}" if failure else f"resume from {folder}"
                )
                raise KeyboardInterrupt(f"stopped at step {run.step}; {left}")
    model = run.finished(batches)
    if not all(t.isfinite().all() for t in model.state_dict().values()):
        raise NotFiniteError("the weights are not finite: lower the learning rate")
    if first:
        told = {
            "training": json.dumps(asdict(config)),
            "training_seconds": f"{run.seconds:.0f}",
            "device": torch.cuda.get_device_name(engine.device) if gpu else "CPU",
        }
        save(model, folder / "weights.safetensors", told)
        run.file.unlink(missing_ok=True)
    with engine.reaching():
        engine.leave()
    if engine.world > 1:
        # What averages gradients holds itself in circles, and with them the threads that connect processes:
        # one that is met by the interpreter's end may abort it.
        del run, engine
        gc.collect()
    return model


def learning_rate(config: TrainConfig, step: int) -> float:
    """Adam's step size at a step."""
    rate = config.learning_rate * (min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0)
    if config.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * step / config.steps)) / 2
    if config.schedule == "halvings":
        return rate * 0.5 ** ((config.halvings + 1) * step // config.steps)
    return rate


class Run:
    """The state of a run: network, mean of its weights, optimiser, step, seconds; and its checkpoint file."""

    def __init__(self, config: TrainConfig, file: Path, engine: Engine, compile: bool) -> None:
        self.config, self.file, self.engine = config, file, engine
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build(config.network, config.network_config or {}, COPIES).train()
        self.model.check_side("size", config.size)
        if config.frozen:
            freeze(self.model)
        self.loss = loss_of(config, self.model)
        # The loss of consistency training changes with the step, and a graph is what it was.
        replayed = engine.device.type == "cuda" and engine.world == 1 and config.objective == "denoise"
        replayed = replayed and not compile
        rate = torch.tensor(config.learning_rate, device=engine.device) if replayed else config.learning_rate
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True, capturable=replayed)
        called, self._steps = engine.setup(self.model, self.optimizer)
        self.called = torch.compile(called) if compile else called
        self._blend = get_ema_multi_avg_fn(config.ema) if config.ema else None
        self.mean = self._blend and AveragedModel(self.model, multi_avg_fn=self._blend, use_buffers=True)
        self._updated = Replay(self._update, engine.device) if replayed else self._update
        self.step = 0
        self.seconds = 0.0
        self._clock = 0, 0.0  # step and seconds of the last row

    def start(self, resume: bool) -> None:
        """Load the checkpoint if asked to, else the weights to start from, and refuse what would lose one."""
        if not resume and self.file.exists():
            raise FileExistsError(f"{self.file} holds an unfinished run: resume=True goes on, or delete it")
        if not resume:
            if self.config.start:
                _start_from(self.config.start, self.model)
            return
        if not self.file.exists():
            ended = where(self.file.parent).exists()
            way = "the run has ended" if ended else "start without resume=True"
            raise FileNotFoundError(f"no checkpoint at {self.file}: {way}")
        state = checkpoint.read(self.file)
        # What a later version can be told besides is as it was.
        begun = asdict(TrainConfig.from_json(json.dumps(state["config"]), str(self.file)))
        asked = asdict(self.config)
        others = [
            f"{name}={begun[name]!r}, not {asked[name]!r}" for name in asked if begun[name] != asked[name]
        ]
        if others:
            raise CheckpointError(f"{self.file} was written by another configuration: {'; '.join(others)}")
        self.model.load_state_dict(state["model"])
        own = [{name: group[name] for name in DEVICES} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, here in zip(self.optimizer.param_groups, own, strict=True):
            group.update(here)
        for weight, moments in self.optimizer.state.items():
            for name, t in moments.items():
                if t.shape == weight.shape:  # as weights lie in memory: Adam's kernel goes through both alike
                    moments[name] = torch.empty_like(weight).copy_(t)
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._clock = self.step, self.seconds

    def advance(self, whole: data.Share) -> Tensor:
        """One step of Adam on a batch, of which this process takes its share; returns the share's loss."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        loss = self._updated(*self._share(whole))
        self.step += 1
        return loss

    def _update(self, *batch: Tensor) -> Tensor:
        x, sigma, z = (part.to(self.engine.device, non_blocking=True) for part in batch)
        self.optimizer.zero_grad()
        loss = self.loss(self.called, x, sigma, z, self.step)
        self.engine.backward(loss)
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._steps.step()
        self._average()
        return loss.detach()

    def _average(self) -> None:
        """`mean.update_parameters`, which would copy a count to the device each time, and wait for it."""
        if self.mean is None or self._blend is None:
            return
        if self.mean.n_averaged == 0:
            self.mean.update_parameters(self.model)
            return
        means: list[Tensor] = []
        weights: list[Tensor] = []
        both = ((*model.parameters(), *model.buffers()) for model in (self.mean.module, self.model))
        for averaged, current in zip(*both, strict=True):
            if averaged.is_floating_point():
                means.append(averaged.detach())
                weights.append(current.detach())
            else:  # batch norm's count of steps
                averaged.copy_(current)
        self._blend(means, weights, self.mean.n_averaged)

    def row(self, loss: float, batches: Callable[[int], data.Batch]) -> dict[str, float]:
        """What the log tells at this step."""
        steps, seconds = self.step - self._clock[0], self.seconds - self._clock[1]
        self._clock = self.step, self.seconds
        row = {"step": float(self.step), "seconds": self.seconds, "loss": loss}
        row["learning_rate"] = learning_rate(self.config, self.step - 1)
        row["images_per_second"] = steps * self.config.batch / max(seconds, 1e-9)
        network = self._calibrated(batches, self.step, TRIAL_BATCHES)
        if self.engine.rank == 0:
            row |= validated(network, self._held_out)
        return row

    def finished(self, batches: Callable[[int], data.Batch]) -> Denoiser:
        """The network as it is written, on the CPU in float32."""
        model = self._calibrated(batches, self.config.steps, CALIBRATION_BATCHES)
        return model.cpu().eval().requires_grad_(False)

    def checkpoint(self) -> str | None:
        """Write the state; why not, where it cannot be written."""
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": _portable(self.optimizer.state_dict()),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        return checkpoint.write(self.file, state)

    @cached_property
    def _held_out(self) -> Tensor:
        return held_out(self.config, self.model.channels)[0]

    def _calibrated(self, batches: Callable[[int], data.Batch], step: int, count: int) -> Denoiser:
        """A copy of the network, or of the mean of its weights, its norms set on batches from a step on.

        Frozen norms are as they were.
        """
        trained = self.model if self.mean is None else self.mean.module
        model = cast(Denoiser, copy.deepcopy(trained))
        if self.config.frozen:
            return model
        later = (data.noisy_batch(self.config, batches(s), s) for s in range(step, step + count))
        device = self.engine.device
        calibrate(model, ((x + by_image(sigma) * z).to(device) for x, sigma, z in later))
        return model

    def _share(self, whole: data.Share) -> data.Share:
        """This process's part of a batch."""
        count = self.config.batch // self.engine.world
        some = slice(self.engine.rank * count, (self.engine.rank + 1) * count)
        x, sigma, z = (part[some] for part in whole)
        return x, sigma, z


def _portable(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state without what belongs to a device."""
    groups = [group | {"lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return state | {"param_groups": groups}


def _start_from(path: str, model: Denoiser) -> None:
    """Copy weights: of a network of the same class, or the body F of another that is told the level."""
    other = load(path)
    try:
        if type(other) is type(model):
            model.load_state_dict(other.state_dict())
        else:
            model.body.load_state_dict(other.body.state_dict())  # type: ignore[union-attr]
    except (AttributeError, RuntimeError) as error:  # which names each tensor
        raise OptionError(
            f"the weights of {path} are of {other.in_words()}, and do not fit {model.in_words()}: ask for "
            "the first by network= and network_config=, or start from others"
        ) from error


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
