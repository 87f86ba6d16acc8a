"""Training's rate.

    python -m benchmarks.training [--write] [--device cuda]

A step is worth three forward passes: one forwards, and two as much backwards.  The share is three times the
time of a forward pass of the same batch, in evaluation without a graph, over the time of a step, images and
noise made and Adam's update with it; medians of interleaved rounds.  On a CPU by one thread, in seconds of
processor time, which other work on the machine lengthens only by what it takes of caches and memory, and
both in memory that is used again (`denoisers.training.memory`).  On a GPU a round is 20 steps or passes,
other processes make the images, and both are in the precision that the row names.
--write puts the table into docs/training.md.
"""

import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.page import Page, table
from denoisers.networks.base import by_image
from denoisers.training import RECIPES, TrainConfig, clean_batches
from denoisers.training.data import Steps, ahead
from denoisers.training.engine import engine_of
from denoisers.training.memory import kept
from denoisers.training.run import WORKERS, Run

ON_CPU = {
    "calpha": RECIPES["calpha"],
    "photos, its network": replace(RECIPES["photos"], data="disks", zoom=1),
    "unet": replace(RECIPES["unet"], data="disks"),
    "edm": RECIPES["edm"],
}
ON_GPU = {
    "photos, its network": ON_CPU["photos, its network"],
    "the same, bfloat16": replace(ON_CPU["photos, its network"], precision="bfloat16"),
    "calpha, bfloat16": replace(RECIPES["calpha"], precision="bfloat16"),
    "unet, bfloat16": replace(ON_CPU["unet"], batch=128, precision="bfloat16"),
    "edm, bfloat16": replace(RECIPES["edm"], batch=256, precision="bfloat16"),
}
HEAD = ["recipe", "images a step", "forward passes, images/s", "training, images/s", "**share of a third**"]


def row(name: str, config: TrainConfig, gpu: bool, rounds: int = 12) -> list[str]:
    """The row of one recipe."""
    count = 20 if gpu else 1
    with tempfile.TemporaryDirectory() as folder, nullcontext() if gpu else kept():
        run = Run(config, Path(folder) / "checkpoint", engine_of(config, "cuda" if gpu else "cpu"), False)
        steps = Steps(config, clean_batches(config))
        x, sigma, z = (part.to(run.engine.device) for part in steps[0])
        y = x + by_image(sigma) * z
        given = (y, sigma) if run.model.told else (y,)
        batches = ahead(steps, range(count * rounds), WORKERS if gpu else 0, pinned=gpu)
        trained, passes = [], []
        for _ in range(rounds):
            start = _now(gpu)
            for _ in range(count):
                run.advance(next(batches))
            trained.append((_now(gpu) - start) / count)
            run.model.eval()
            start = _now(gpu)
            with torch.no_grad():
                for _ in range(count):
                    run.called(*given)
            passes.append((_now(gpu) - start) / count)
            run.model.train()
    step, forward = statistics.median(trained[2:]), statistics.median(passes[2:])
    rates = (f"{config.batch / seconds:.0f}" for seconds in (forward, step))
    return [name, f"{config.batch} of {config.size}x{config.size}", *rates, f"{300 * forward / step:.0f} %"]


def _now(gpu: bool) -> float:
    if not gpu:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    page = Page("docs/training.md", __doc__, device="cpu")
    gpu = page.options.device == "cuda"
    torch.set_num_threads(torch.get_num_threads() if gpu else 1)
    rates = table(HEAD, [row(name, config, gpu) for name, config in (ON_GPU if gpu else ON_CPU).items()])
    if gpu:
        page.tell("rate-gpu", f"{torch.cuda.get_device_name()}, TF32 but where bfloat16 is told.\n\n{rates}")
    else:
        page.tell("rate", f"float32, one thread; seconds are those of processor time.\n\n{rates}")
