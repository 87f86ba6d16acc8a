"""The published ways to a denoiser's spectrum beside this library, on the same network at the same image.

    python -m benchmarks.peers [--write] [--networks photos unet] [--kinds triplets ...] [--probes 3500]

One file a way, each as its authors use it, in a process of its own: products, seconds, peak memory above
the loaded network.  What it returns is then measured by float64 autograd, in the same run: the true
residual, and the largest principal angle to the subspace that a solve in float64 certified.  Seconds
include everything (this library's recording, probes and checks), but for kernels, which are compiled by
the float64 solves before.
--write puts the tables into docs/peers.md, and a short one of what that page then holds into README.md;
`--write --networks` alone does the latter.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import spectral
from benchmarks.page import ROOT, Page, in_a_process, insert, rows, table
from benchmarks.peers import ours
from benchmarks.peers.answer import Answer, Network
from benchmarks.peers.arnoldi import arnoldi
from benchmarks.peers.differences import differences
from benchmarks.peers.measure import Truth
from benchmarks.peers.networks import KEPT, network
from benchmarks.peers.probes import probes
from benchmarks.peers.pullback import pullback
from benchmarks.peers.svds import by_svds
from benchmarks.products import mark_memory, resident
from denoisers.commands.console import forward_seconds

Way = Callable[[Network, Tensor, int], Answer]

TRIPLETS: dict[str, Way] = {
    "subspace iteration (Diffusion-Pullback, LOCO-Edit)": pullback,
    "SciPy `svds` over differences": by_svds,
    "`top_svd`": ours.triplets,
}
PAIRS: dict[str, Way] = {
    "differences, c = 1e-6, float32 (Manor and Michaeli)": lambda f, y, k: differences(f, y, k, 1e-6),
    "the same, c = 1e-3": lambda f, y, k: differences(f, y, k, 1e-3),
    "the same, c = 1e-6, float64": lambda f, y, k: differences(f, y, k, 1e-6),
    "one-pass Arnoldi, 60 steps (Jeon et al.)": arnoldi,
    "`top_eigs_full`": ours.full,
    "`top_eigs`": ours.symmetric,
}
TRACES: dict[str, Way] = {
    "Gaussian probes (FLIPD)": probes,
    "`trace`, rtol 1 %": lambda f, y, number: ours.trace(f, y),
}
COST, SAYS = ["products", "seconds", "forward passes", "memory, MB"], "says of its accuracy"
WAYS = TRIPLETS | PAIRS | TRACES


PAGE = ROOT / "docs/peers.md"


def one(way: str, name: str, size: int, path: Path) -> dict[str, float]:
    """Answer by one way, here, and write it; seconds, memory in MB."""
    double = way.endswith("float64")
    f, y, _ = network(name, torch.float64 if double else torch.float32)
    if isinstance(f, torch.nn.Module):
        f.requires_grad_(False)
    unit = forward_seconds(f, y, 3)
    loaded, began = mark_memory(), time.perf_counter()
    answer = WAYS[way](f, y, size)
    seconds = time.perf_counter() - began
    told = {"seconds": seconds, "passes": seconds / unit, "memory": resident("VmHWM") - loaded}
    answer.save(path)
    return told


def asked(way: str, name: str, size: int) -> tuple[Answer, list[str]]:
    """The answer of a process of its own, and its cells: products, seconds, forward passes, memory.

    It is kept in runs/peers until the table is done, so that an interrupted run goes on.
    """
    path = kept(way, name, size)
    costs = path.with_suffix(".json")
    if not (path.is_file() and costs.is_file()):
        path.parent.mkdir(parents=True, exist_ok=True)
        told = in_a_process("benchmarks.peers", "--one", way, name, str(size), str(path))
        costs.write_text(json.dumps(told))
    answer, told = Answer.load(path), json.loads(costs.read_text())
    print(way, told, file=sys.stderr)
    return answer, [
        str(answer.products),
        f"{told['seconds']:.1f}",
        f"{told['passes']:.0f}",
        f"{told['memory']:.0f}",
    ]


def kept(way: str, name: str, size: int) -> Path:
    """Where an answer is until its table is done."""
    return KEPT / "answers" / f"{name} {re.sub('[^A-Za-z0-9]+', ' ', way)} {size}.pt"


def residual(value: float) -> str:
    """A relative residual; of zeros there is none."""
    return "-" if math.isnan(value) else f"{value:.0e}" if value < 0.01 else f"{value:.2f}"


def degrees(value: float) -> str:
    """An angle with two digits, or as many as it has."""
    return "-" if math.isnan(value) else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def triplets(truth: Truth, name: str, k: int) -> str:
    """Singular triplets of J."""
    rows = []
    for way in TRIPLETS:
        answer, cells = asked(way, name, k)
        off, apart = truth.of_triplets(answer)
        rows.append([way, *cells, residual(off), degrees(apart), answer.says])
    return (
        f"{table(['way', *COST, 'true residual', 'angle', SAYS], rows)}\n\n"
        f"{truth.told}; {truth.gaps('sigma', truth.svd.values)}."
    )


def pairs(truth: Truth, name: str, k: int) -> str:
    """Eigenpairs of J, and of S = (J + J')/2."""
    rows = []
    for way in PAIRS:
        answer, cells = asked(way, name, k)
        found = truth.of_pairs(answer)
        measured = [cell for off, apart in found for cell in (residual(off), degrees(apart))]
        rows.append([way, *cells, *measured, answer.says])
    head = ["way", *COST, "residual of J", "angle", "residual of S", "angle", SAYS]
    return (
        f"{table(head, rows)}\n\n{truth.told}; {truth.eigs.asymmetry_text()}; "
        f"{truth.gaps('|lambda|', truth.eigs.values.abs())} of S."
    )


def traces(truth: Truth, name: str, number: int) -> str:
    """The trace of J, the truth being exact for `photos`."""
    small = truth.y.numel() <= 5000
    exact = spectral.trace(truth.f, truth.y, **({"method": "exact"} if small else {"rtol": 0.005, "seed": 9}))
    rows = []
    for way in TRACES:
        answer, cells = asked(way, name, number)
        value = answer.values.item()
        rows.append([way, *cells, f"{value:.1f}", f"{value - exact.value:+.1f}", answer.says])
    sure = "" if small else f" +- {exact.halfwidth(0.95):.1f} at 95 %"
    return f"{table(['way', *COST, 'value', 'off by', SAYS], rows)}\n\n{truth.told}; {exact.value:.1f}{sure}."


def short() -> str:
    """README's table: the page's rows for `photos`, a column for the residual and one for the angle.

    Of eigenpairs, those of J or of its symmetric part, whichever they are nearer to.
    """
    head = ["sought", "way", "products", "seconds", "true residual", "angle, degrees", SAYS]
    lines = []
    for row in rows(PAGE, "triplets-photos"):
        measured = [row["true residual"], row["angle"]]
        lines.append(["triplets", row["way"], row["products"], row["seconds"], *measured, row[SAYS]])
    for row in rows(PAGE, "pairs-photos"):
        if row["way"].endswith("float64"):
            continue
        of_j, of_s = (row["residual of J"], row["angle"]), (row["residual of S"], row["angle 2"])
        measured = list(min(of_j, of_s, key=lambda pair: float(pair[0])))
        lines.append(["pairs", row["way"], row["products"], row["seconds"], *measured, row[SAYS]])
    for row in rows(PAGE, "traces-photos"):
        probes = f"{row['way']}, {int(row['products']):,}" if "probes" in row["way"] else row["way"]
        off = f"off by {abs(float(row['off by'])):.1f} of {float(row['value']):.0f}"
        lines.append(["trace", probes, row["products"], row["seconds"], off, "", row[SAYS]])
    said = PAGE.read_text().split("<!-- pairs-photos -->")[1].split("<!-- /pairs-photos -->")[0]
    return f"{table(head, lines)}\n\n{said.strip().splitlines()[-1]}"


if __name__ == "__main__":
    page = Page(
        "docs/peers.md",
        __doc__,
        networks=["photos", "unet"],
        kinds=["triplets", "pairs", "traces"],
        k=5,
        probes=3500,
        one=[],
    )
    options = page.options
    if options.one:
        way, name, size, path = options.one
        print(json.dumps(one(way, name, int(size), Path(path))))
        sys.exit()
    for name in options.networks:
        truth = Truth(*network(name, torch.float64), options.k)
        for kind in options.kinds:
            size = options.probes if kind == "traces" else options.k
            text = {"triplets": triplets, "pairs": pairs, "traces": traces}[kind](truth, name, size)
            page.tell(f"{kind}-{name}", text)
            for way in {"triplets": TRIPLETS, "pairs": PAIRS, "traces": TRACES}[kind]:
                for file in (kept(way, name, size), kept(way, name, size).with_suffix(".json")):
                    file.unlink()
    if options.write:
        insert(ROOT / "README.md", "peers", short())
