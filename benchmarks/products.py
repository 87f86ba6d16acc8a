"""What a product with J or J' costs, in forward passes, beside torch's own ways.

    python -m benchmarks.products [--write] [--side 80]

Medians of interleaved runs; a forward pass is the model in eval mode, as it was built, without gradient.
Each way's product is compared with torch.func in the same run.  --write puts the table into docs/products.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import denoisers
import spectral
from benchmarks.page import ROOT, insert, table
from denoisers.networks import UNet

WAYS = ("frozen", "linearize", "jvp")
TOLERANCE = 5e-5  # rounding of float32 over 21 layers, between two memory layouts
LAB = ROOT / "../shared/data/lab/bfcnn21_celeba160_gray.npz"


def networks() -> dict[str, nn.Module]:
    """The shipped network, the paper's UNet with random weights, and a lab's BF-CNN where it is at hand."""
    torch.manual_seed(0)
    unet = UNet(3)
    for name, t in unet.state_dict().items():
        if "gamma" in name:
            t.copy_(0.5 + torch.rand(t.shape))  # an untrained gamma of 0.025 drives activations to denormals
    found = {"`photos`, 0.46 M": denoisers.load("photos"), "UNet, 3 blocks, 7.7 M": unet.eval()}
    if Path(LAB).is_file():
        found["BF-CNN, 21 layers, 0.7 M"] = denoisers.load(LAB)
    return {name: model.to(memory_format=torch.contiguous_format) for name, model in found.items()}


def medians(calls: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Seconds of each call, interleaved so that all meet the same machine."""
    for call in calls:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds]


def row(name: str, model: nn.Module, side: int, rounds: int) -> list[str]:
    """Forward pass in milliseconds, and J v and J' v in forward passes for each way."""
    model.requires_grad_(False)
    y = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    v = torch.randn(1, side**2, generator=torch.Generator().manual_seed(1))
    jacobians = [spectral.jacobian(model, y, method=way) for way in WAYS]
    exact, back = jacobians[-1].apply(v), jacobians[-1].apply_transpose(v)
    for J in jacobians:
        for ours, theirs in ((J.apply(v), exact), (J.apply_transpose(v), back)):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            if error > TOLERANCE:
                raise ArithmeticError(f"{J!r} differs from torch.func by {error:.1e}")
    calls: list[Callable[[], Tensor]] = [lambda: model(y)]
    for J in jacobians[:2]:
        calls += [lambda J=J: J.apply(v), lambda J=J: J.apply_transpose(v)]  # type: ignore[misc]
    calls.append(lambda: jacobians[2].apply(v))
    with torch.no_grad():
        forward, *products = medians(calls, rounds)
    return [name, f"{1e3 * forward:.1f}", *(f"{seconds / forward:.2f}" for seconds in products)]


def measured(side: int, rounds: int = 15) -> str:
    """The table as Markdown."""
    head = [
        "network",
        "forward, ms",
        "frozen J v",
        "frozen J' v",
        "linearize J v",
        "kept vjp J' v",
        "jvp J v",
    ]
    rows = [row(name, model, side, rounds) for name, model in networks().items()]
    threads = torch.get_num_threads()
    return (
        f"{table(head, rows)}\n\n"
        f"{side}x{side} pixels, float32, torch {torch.__version__}, {threads} threads; "
        "products in forward passes."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/products.md")
    parser.add_argument("--side", type=int, default=80, help="of the image, a multiple of 8")
    options = parser.parse_args()
    text = measured(options.side)
    print(text)
    if options.write:
        insert(ROOT / "docs/products.md", "products", text)
