"""A survey by one process and by two of torchrun, and what warm starts save of it.

    python -m benchmarks.survey [--write] [--images 100] [--side 24] [-k 8] [--rounds 2]

C^alpha images through the shipped `calpha` network at sigma = 0.2 and 0.1, a thread a process, one process
and two by turns; eigenvalues are compared.  Both include the start of Python and, of two, torchrun's.  Then
the same by one process without warm starts.  --write puts the tables into docs/survey.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.page import Page, table
from spectral.kernels.write import write_calpha
from spectral.survey import Survey

# The command, and the processor time of each process.
PROGRAM = """
import atexit, os, sys, time
file = os.path.join(sys.argv.pop(1), "cpu-" + os.environ.get("RANK", "0"))
atexit.register(lambda: open(file, "w").write(str(time.process_time())))
from denoisers.commands.spectra import app
app()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node"]
SIGMAS = "0.1,0.2"


def run(folder: Path, name: str, processes: int, k: int, *more: str) -> tuple[float, list[float], Survey]:
    """Seconds, seconds of processor time of each process, and what was found."""
    place = Path(tempfile.mkdtemp(dir=folder, prefix=name))
    command = [sys.executable, "-c", PROGRAM, str(place)]
    if processes > 1:
        command = [sys.executable, *TORCHRUN, str(processes), *command]
    out = place / "out"
    command += ["survey", str(folder / "images"), "--denoiser", "calpha", "--sigmas", SIGMAS]
    began = time.perf_counter()
    subprocess.run(
        [*command, "-k", str(k), "--out", str(out), *more],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - began
    return seconds, [float(path.read_text()) for path in sorted(place.glob("cpu-*"))], Survey.load(out)


def same(a: Survey, b: Survey) -> float:
    """The largest relative difference of their eigenvalues.

    Raises:
        ArithmeticError: it is more than the tolerance leaves, or something is missing.
    """
    apart = ((a.values - b.values).abs() / a.values[..., :1]).max().item()
    if not apart < 1e-5 or not a.converged or not b.converged:
        raise ArithmeticError(f"surveys differ by {apart:.1e}")
    return apart


def shared(folder: Path, k: int, rounds: int) -> tuple[str, Survey]:
    """One process against two: time, and processor time of the busier one."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    busiest: dict[int, list[float]] = {1: [], 2: []}
    load = []
    found: dict[int, Survey] = {}
    for _ in range(rounds):
        for processes in (1, 2):
            load.append(os.getloadavg()[0])
            seconds, cpu, found[processes] = run(folder, f"{processes}-", processes, k)
            taken[processes].append(seconds)
            busiest[processes].append(max(cpu))
    apart = same(found[1], found[2])
    (one, two), (alone, less) = ([min(by[processes]) for processes in (1, 2)] for by in (taken, busiest))
    rows = [["1", f"{one:.0f}", f"{alone:.0f}"], ["2", f"{two:.0f}", f"{less:.0f}"]]
    text = (
        f"{table(['processes', 'seconds', 'processor seconds of the busiest'], rows)}\n\n"
        f"{len(found[1].images)} images at {len(found[1].sigmas)} levels, k = {k}: two processes take "
        f"{two / one:.2f} of the time, the busier {less / alone:.2f} of the processor time; eigenvalues "
        f"differ by {apart:.0e} at most; best of {rounds}, load of the machine {min(load):.1f} to "
        f"{max(load):.1f} on {os.cpu_count()} processors."
    )
    return text, found[1]


def started(folder: Path, k: int, warm: Survey) -> str:
    """Products at each level, warm and cold."""
    _, _, cold = run(folder, "cold-", 1, k, "--cold")
    same(warm, cold)
    rows = []
    for a, b in list(zip(warm.levels(), cold.levels(), strict=True))[::-1]:
        rows.append([f"{a.sigma:g}", f"{b.products:.0f}", f"{a.products:.0f}"])
    return table(["sigma", "products an image, cold", "warm"], rows)


if __name__ == "__main__":
    page = Page("docs/survey.md", __doc__, images=100, side=24, k=8, rounds=2)
    options = page.options
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        write_calpha(at / "images", n=options.images, size=options.side, alpha=2.0, seed=0)
        text, one = shared(at, options.k, options.rounds)
        page.tell("shared", text)
        page.tell("warm", started(at, options.k, one))
