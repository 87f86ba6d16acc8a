"""Inverse problems with `photos` as the prior.

    python -m benchmarks.sampling [--write] [--rows runs/sampling.json]

Crops of the shipped photograph, which the network was not trained on, each measured and drawn four times by
`denoisers solve`, beside what is made of the same numbers without a denoiser.  And one crop with noise on
what is measured: told to `denoisers.solve`, and kept from it; the noise, the pixels kept and the draws are
others for each seed, the intervals Student's over seeds.  A quarter of an hour on one core; with --rows FILE
what is measured is kept there, and a command that was stopped goes on.
--write puts the tables into docs/sampling.md.
"""

import functools
import itertools
import json
import statistics
import sys

import torch
from typer.testing import CliRunner

import denoisers
from benchmarks.page import Page, Rows, records, table
from denoisers.commands.console import INTERRUPTED
from denoisers.commands.networks import app
from denoisers.commands.sampling import task_of
from denoisers.evaluation import add_noise, psnr
from denoisers.evaluation.spread import over_images, told
from denoisers.images import photograph
from spectral.solvers.search import interrupted

CROPS = {"collar": (100, 100, 64), "hair": (60, 180, 64), "camera": (150, 260, 64)}
KINDS = {"4x4 averages": "superres", "all but 16x16 pixels": "inpaint", "30 % of the pixels": "pixels"}
FACTOR, HOLE, KEEP = 4, 16, 0.3
HEAD = [
    "crop",
    "measured",
    "without a denoiser, dB",
    "four draws, dB",
    "**their mean, dB**",
    "constraint met to",
]
NOISY, NOISES, SEEDS, DRAWS = "camera", (0.0, 0.02, 0.1), 5, 4
MADE = [
    "without a denoiser, dB",
    "taken as exact, dB",
    "**noise told, dB**",
    "a draw of these, dB",
    "its residual over tau",
]


def row(crop: str, task: str) -> list[str]:
    """One crop, one measurement."""
    of = ["--measurement", KINDS[task], "--factor", FACTOR, "--hole", HOLE, "--keep", KEEP]
    words = ["solve", "--crop", *CROPS[crop], *of, "--count", 4, "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exit_code == INTERRUPTED:
        raise KeyboardInterrupt
    if done.exit_code not in (0, 3):
        raise RuntimeError(done.output)
    found = json.loads(done.stdout)
    draws = f"{statistics.mean(found['psnr']):.2f} ({min(found['psnr']):.2f} to {max(found['psnr']):.2f})"
    baseline = f"{found['psnr_of_baseline']:.2f} ({found['baseline']})"
    return [crop, task, baseline, draws, f"{found['psnr_of_mean']:.2f}", f"{found['constraint']:.0e}"]


def noisy(task: str, tau: float, seed: int) -> list[float]:
    """One measurement of the crop with noise tau: PSNR of what is made of it, as MADE names them."""
    top, left, side = CROPS[NOISY]
    truth = torch.from_numpy(photograph())[..., top : top + side, left : left + side]
    model = denoisers.load("photos")
    asked = task_of(KINDS[task], truth.shape, FACTOR, HOLE, KEEP, seed)
    measurement = asked.measurement
    clean = measurement.measure(truth)
    values = add_noise(clean, tau, seed) if tau else clean
    found = [psnr(truth, asked.baseline(values)).item()]
    for noise in (0.0, tau) if tau else (0.0,):
        many = values.expand(DRAWS, *values.shape[1:])
        solved = denoisers.solve(model, measurement, many, noise=noise, seed=seed)
        if interrupted(solved.notes):  # it keeps what there is
            raise KeyboardInterrupt
        images = solved.images
        found.append(psnr(truth, images.mean(0, keepdim=True)).item())
    if tau:
        off = measurement.measure(images) - values
        found += [
            psnr(truth.expand_as(images), images).mean().item(),
            off.square().mean().sqrt().item() / tau,
        ]
    return found


def over_seeds(task: str, tau: float, each: list[list[float]]) -> dict[str, str]:
    """A row of the second table: means over the seeds, with their intervals."""
    cells = [told(over_images(torch.tensor(values))) for values in zip(*each, strict=True)]
    shown = dict(zip(MADE, cells + [""] * (len(MADE) - len(cells)), strict=True))
    return {"measured": task, "tau": f"{tau:g}", **shown}


def main(page: Page, kept: Rows) -> None:
    """Both tables; each is written when it is whole."""
    rows = [
        kept.row(f"{crop}, {task}", functools.partial(row, crop, task)) for crop in CROPS for task in KINDS
    ]
    page.tell("solved", table(HEAD, rows))
    means = []
    for task, tau in itertools.product(KINDS, NOISES):
        each = [
            kept.row(f"{task}, tau {tau:g}, seed {seed}", functools.partial(noisy, task, tau, seed))
            for seed in range(SEEDS)
        ]
        means.append(over_seeds(task, tau, each))
    page.tell("noisy", records(means))


if __name__ == "__main__":
    page = Page("docs/sampling.md", __doc__, rows="")
    kept = Rows(page.options.rows, len(KINDS) * (len(CROPS) + len(NOISES) * SEEDS))
    try:
        main(page, kept)
    except KeyboardInterrupt:
        print("stopped; with --rows FILE the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
