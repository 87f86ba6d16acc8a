"""Inverse problems with `photos` as the prior.

    python -m benchmarks.sampling [--write]

Crops of the shipped photograph, which the network was not trained on,
each measured and drawn four times by `denoisers solve`, beside what is made of the same numbers without a
denoiser; a quarter of an hour on two cores.  --write puts
the table into docs/sampling.md.
"""

import json
import statistics
import sys

from typer.testing import CliRunner

from benchmarks.page import Page, table
from denoisers.commands.networks import app

CROPS = {"collar": (100, 100, 64), "hair": (60, 180, 64), "camera": (150, 260, 64)}
TASKS = {
    "4x4 averages": ("--measurement", "superres"),
    "all but 16x16 pixels": ("--measurement", "inpaint", "--hole", 16),
    "30 % of the pixels": ("--measurement", "pixels", "--keep", 0.3),
}
HEAD = [
    "crop",
    "measured",
    "without a denoiser, dB",
    "four draws, dB",
    "**their mean, dB**",
    "constraint met to",
]


def row(crop: str, task: str) -> list[str]:
    """One crop, one measurement."""
    words = ["solve", "--crop", *CROPS[crop], *TASKS[task], "--count", 4, "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exit_code not in (0, 3):
        raise RuntimeError(done.output)
    told = json.loads(done.stdout)
    draws = f"{statistics.mean(told['psnr']):.2f} ({min(told['psnr']):.2f} to {max(told['psnr']):.2f})"
    baseline = f"{told['psnr_of_baseline']:.2f} ({told['baseline']})"
    return [crop, task, baseline, draws, f"{told['psnr_of_mean']:.2f}", f"{told['constraint']:.0e}"]


if __name__ == "__main__":
    page = Page("docs/sampling.md", __doc__)
    rows = []
    for crop in CROPS:
        for task in TASKS:
            rows.append(row(crop, task))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    page.tell("solved", table(HEAD, rows))
