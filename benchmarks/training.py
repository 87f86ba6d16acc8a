"""Training's rate.

    python -m benchmarks.training [--write]

A step is worth three forward passes: one forwards, and two as much backwards.  The share is three times the
time of a forward pass of the same batch, in evaluation without a graph, over the time of a step, images and
noise made and Adam's update with it; medians of interleaved rounds.
--write puts the table into docs/training.md.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.page import Page, table
from denoisers.networks.base import by_image
from denoisers.training import RECIPES, TrainConfig, clean_batches, noisy_batch
from denoisers.training.engine import engine_of
from denoisers.training.run import Run

CASES = {
    "calpha": RECIPES["calpha"],
    "photos, its network": replace(RECIPES["photos"], data="disks"),
    "unet": replace(RECIPES["unet"], data="disks"),
    "edm": RECIPES["edm"],
}
HEAD = ["recipe", "images a step", "forward passes, images/s", "training, images/s", "**share of a third**"]


def row(name: str, config: TrainConfig, rounds: int = 12) -> list[str]:
    """The row of one recipe."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder) / "checkpoint", engine_of(config, "cpu"), False)
        batches = clean_batches(config)
        x, sigma, z = noisy_batch(config, batches(0), 0)
        y = x + by_image(sigma) * z
        given = (y, sigma) if run.model.told else (y,)
        steps, passes = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            run.advance(batches)
            steps.append(time.perf_counter() - start)
            run.model.eval()
            start = time.perf_counter()
            with torch.no_grad():
                run.model(*given)
            passes.append(time.perf_counter() - start)
            run.model.train()
    step, forward = statistics.median(steps[2:]), statistics.median(passes[2:])
    rates = (f"{config.batch / seconds:.0f}" for seconds in (forward, step))
    return [name, f"{config.batch} of {config.size}x{config.size}", *rates, f"{300 * forward / step:.0f} %"]


if __name__ == "__main__":
    page = Page("docs/training.md", __doc__)
    rates = table(HEAD, [row(name, config) for name, config in CASES.items()])
    page.tell("rate", f"float32, {torch.get_num_threads()} threads.\n\n{rates}")
