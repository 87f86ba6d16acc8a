"""3x3 convolutions with a gate on CPUs: oneDNN's beside spectral.jacobians.cpu.winograd.

    python -m benchmarks.convolution [--channels 64] [--sides 80 40 20 10] [--blocks 1 8] [--seconds 2]

float32, channels last; oneDNN has its weights laid out once and the gate multiplied in place.  J v has its
gate behind the convolution, J' u in front of it.  The best of interleaved runs, with one thread and with all.
GFLOP/s are those of the definition, 18 C^2 H W a vector, so that they compare; errors are against float64.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.page import table
from spectral.jacobians.cpu.winograd import Winograd, offered
from spectral.jacobians.cpu.winograd import packed as as_bits

HEAD = ["channels", "side", "block", "threads", "oneDNN, ms", "gate behind, ms", "gate in front, ms"]
HEAD += ["ratio", "GFLOP/s", "offered", "oneDNN's error", "error"]


def by_onednn(weight: Tensor, size: torch.Size) -> Callable[[Tensor, Tensor], Tensor]:
    """x, gate -> gate . (w * x) by oneDNN."""
    geometry = (1, 1), (1, 1), (1, 1), 1
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    own = reorder(weight.to_mkldnn(), *geometry, list(size))
    pointwise = torch.ops.mkldnn._convolution_pointwise
    return lambda x, gate: pointwise(x, own, None, *geometry, "none", [], "").mul_(gate)


def best(calls: list[Callable[[], Tensor]], seconds: float) -> list[float]:
    """Least seconds of each call, interleaved for `seconds`, 10 rounds at least."""
    least, rounds, began = [float("inf")] * len(calls), 0, time.perf_counter()
    while rounds < 10 or time.perf_counter() - began < seconds:
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            least[i] = min(least[i], time.perf_counter() - start)
        rounds += 1
    return least


def rows(channels: int, side: int, block: int, seconds: float) -> list[list[str]]:
    """One size, with one thread and with all of them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    x, slope = (torch.randn(m, channels, side, side, generator=generator) for m in (block, 1))
    x, gate = (t.contiguous(memory_format=torch.channels_last) for t in (x, (slope > 0).to(x.dtype)))
    bits, theirs, ours = as_bits(gate), by_onednn(weight, x.shape), Winograd(weight)
    exact = conv2d(x.double(), weight.double(), padding=1) * gate

    def error(found: Tensor) -> str:
        return f"{((found - exact).norm() / exact.norm()).item():.1e}"

    errors = [error(theirs(x, gate)), error(ours.apply(x, gate_out=bits))]
    calls = [
        lambda: theirs(x, gate),
        lambda: ours.apply(x, gate_out=bits),
        lambda: ours.apply(x, gate_in=bits),
    ]
    found, threads = [], torch.get_num_threads()
    for many in sorted({1, threads}):
        torch.set_num_threads(many)
        times = best(calls, seconds)
        rate = 18 * channels**2 * side**2 * block / times[1] / 1e9
        size = [str(n) for n in (channels, side, block, many)]
        taken = [*(f"{1e3 * t:.3f}" for t in times), f"{times[0] / times[1]:.2f}", f"{rate:.0f}"]
        found.append([*size, *taken, "yes" if offered(weight, x.shape) else "no", *errors])
    torch.set_num_threads(threads)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64])
    parser.add_argument("--sides", type=int, nargs="+", default=[80, 40, 20, 10])
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size and number of threads")
    options = parser.parse_args()
    sizes = [(c, s, m) for c in options.channels for s in options.sides for m in options.blocks]
    print(table(HEAD, [row for size in sizes for row in rows(*size, options.seconds)]))
