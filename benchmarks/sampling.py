"""Inverse problems with `photos` as the prior.

    python -m benchmarks.sampling [--write]

Crops of the shipped photograph, which the network was not trained on, each measured and drawn four times by
`denoisers solve`, beside what is made of the same numbers without a denoiser.  And one crop with noise on
what is measured: told to `denoisers.solve`, and kept from it; the noise, the pixels kept and the draws are
others for each seed, the intervals Student's over seeds.  A quarter of an hour on one core.
--write puts the tables into docs/sampling.md.
"""

import json
import statistics
import sys

import torch
from typer.testing import CliRunner

import denoisers
from benchmarks.page import Page, records, table
from denoisers.commands.networks import app
from denoisers.commands.sampling import task_of
from denoisers.evaluation import add_noise, psnr
from denoisers.evaluation.spread import over_images, told
from denoisers.images import photograph

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


def row(crop: str, task: str) -> list[str]:
    """One crop, one measurement."""
    of = ["--measurement", KINDS[task], "--factor", FACTOR, "--hole", HOLE, "--keep", KEEP]
    words = ["solve", "--crop", *CROPS[crop], *of, "--count", 4, "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exit_code not in (0, 3):
        raise RuntimeError(done.output)
    found = json.loads(done.stdout)
    draws = f"{statistics.mean(found['psnr']):.2f} ({min(found['psnr']):.2f} to {max(found['psnr']):.2f})"
    baseline = f"{found['psnr_of_baseline']:.2f} ({found['baseline']})"
    return [crop, task, baseline, draws, f"{found['psnr_of_mean']:.2f}", f"{found['constraint']:.0e}"]


def noisy_row(task: str, tau: float) -> dict[str, str]:
    """One measurement of the crop with noise tau: PSNR of the means of the draws, and the draws' residual."""
    top, left, side = CROPS[NOISY]
    truth = torch.from_numpy(photograph())[..., top : top + side, left : left + side]
    model = denoisers.load("photos")
    columns: dict[str, list[float]] = {"plain": [], "exact": [], "told": [], "draws": [], "residual": []}
    for seed in range(SEEDS):
        asked = task_of(KINDS[task], truth.shape, FACTOR, HOLE, KEEP, seed)
        measurement = asked.measurement
        clean = measurement.measure(truth)
        values = add_noise(clean, tau, seed) if tau else clean
        columns["plain"].append(psnr(truth, asked.baseline(values)).item())
        for name, noise in (("exact", 0.0), ("told", tau)) if tau else (("exact", 0.0),):
            many = values.expand(DRAWS, *values.shape[1:])
            images = denoisers.solve(model, measurement, many, noise=noise, seed=seed).images
            columns[name].append(psnr(truth, images.mean(0, keepdim=True)).item())
        if tau:
            columns["draws"].append(psnr(truth.expand_as(images), images).mean().item())
            columns["residual"].append(
                (measurement.measure(images) - values).square().mean().sqrt().item() / tau
            )
    shown = {k: told(over_images(torch.tensor(v))) if v else "" for k, v in columns.items()}
    return {
        "measured": task,
        "tau": f"{tau:g}",
        "without a denoiser, dB": shown["plain"],
        "taken as exact, dB": shown["exact"],
        "**noise told, dB**": shown["told"],
        "a draw of these, dB": shown["draws"],
        "its residual over tau": shown["residual"],
    }


if __name__ == "__main__":
    page = Page("docs/sampling.md", __doc__)
    rows = []
    for crop in CROPS:
        for task in KINDS:
            rows.append(row(crop, task))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    page.tell("solved", table(HEAD, rows))
    noisy = []
    for task in KINDS:
        for tau in NOISES:
            noisy.append(noisy_row(task, tau))
            print(" | ".join(noisy[-1].values()), file=sys.stderr, flush=True)
    page.tell("noisy", records(noisy))
