"""What a product with J or J' costs, in forward passes and in memory, beside torch's own ways.

    python -m benchmarks.products [--quick] [--sides 80 256 512] [--networks UNet] [--device cuda] [--write]
                                  [--rows runs/products.json] [--recording] [--reuse] [--widths]

Times are medians of interleaved runs; a forward pass is the model in eval mode, as it was built, without
gradient.  Each row is measured in a process of its own; with --rows it is kept in that file, and one that is
there is not measured again.  Memory is the most that one process holds above what it held with the model
loaded, in units of what a forward pass takes by that measure: the operator is built, and J v and J' u are
formed once.

In the same run J v and J' u are compared with torch.func in float64: a float32 program must agree to 1e-5, or
to twice what torch.func in float32 does (a unit near zero switches with the last digit of its input, and a
column of J with it), and likewise with the same program, its gates too, in float64 arithmetic; a float64
program must agree to 1e-12.  --quick takes three networks at 80 and 256 pixels, and the memory of one at 512;
all of it takes an hour on two cores.  --recording measures what recording and checking costs, and nothing
else; --reuse what it saves that large results take memory that was used before; --widths products of UNets
of widths that fill vectors and of some that do not.  --write puts the tables into docs/products.md.
"""

import functools
import gc
import json
import re
import statistics
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import denoisers
import spectral
from benchmarks.page import LAB, Page, Rows, in_a_process, records, table
from denoisers.networks import BFCNN, ConditionalUNet, UNet
from spectral.jacobians.cpu.memory import SMALL, Pool, trim
from spectral.kernels import cpu

Model = Callable[[Tensor], Tensor]

QUICK = ("photos", "UNet, 3 blocks", "BF-CNN, 21 layers")
BLOCK = 8
LARGEST = {
    "conditional UNet": 256,  # attention of every pixel to every other, in plain form
    "lab's BF-CNN": 256,  # above, the network of the same layers stands for it and the next
    "lab's bias-free DnCNN": 256,
}
BLOCKS_UP_TO = 256  # pixels a side; above, eight vectors take a minute and, by vmap, ten gigabytes
MEMORY_WAYS = ("forward", "frozen", "vjp", "linearize", "jvp")
WIDTHS = (16, 20, 24, 32, 40, 48, 60, 64)
RECORDED_AT = (80, 512)  # pixels a side


def _lively(network: nn.Module) -> nn.Module:
    """Norms of a trained size: an untrained gamma of 0.025 drives activations to denormals."""
    for name, t in network.state_dict().items():
        if "gamma" in name:
            t.copy_(0.5 + torch.rand(t.shape))
    return network


def _conditional() -> Model:
    return functools.partial(ConditionalUNet(), sigma=0.1)


NETWORKS: dict[str, Callable[[], Model]] = {
    "photos": lambda: denoisers.load("photos"),
    **{
        f"UNet, {n} block{'s' * (n > 1)}": functools.partial(lambda n: _lively(UNet(n)), n)
        for n in (1, 2, 3, 4)
    },
    "BF-CNN, 21 layers": lambda: _lively(BFCNN()),
    "conditional UNet": _conditional,
    **{
        f"lab's {name}": functools.partial(denoisers.load, LAB / file)
        for name, file in (
            ("BF-CNN", "bfcnn21_celeba160_gray.npz"),
            ("bias-free DnCNN", "bfdncnn20_bsd400_gray_0-100.npz"),
        )
        if (LAB / file).is_file()
    },
}


def build(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Model, int]:
    """A network in eval mode, laid out as torch lays out a new one, and its parameters."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    module = model.func if isinstance(model, functools.partial) else model
    assert isinstance(module, nn.Module)
    module.eval().requires_grad_(False).to(device, dtype)
    for weight in module.parameters():
        weight.data = weight.contiguous()
    return model, sum(p.numel() for p in module.parameters())


def fits(name: str, side: int) -> bool:
    """Whether a network is meant to be taken at a side."""
    return side <= LARGEST.get(name, side)


def image(side: int, device: str = "cpu") -> Tensor:
    """What the products are taken at."""
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def medians(calls: list[Callable[[], Tensor]], seconds: float) -> list[float]:
    """Seconds of each call, in 3 to 25 rounds: interleaved, so that all meet the same machine."""
    taken: list[list[float]] = [[] for _ in calls]
    start = time.perf_counter()
    while len(taken[0]) < 4 or (len(taken[0]) < 26 and time.perf_counter() - start < seconds):
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            if call().is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[1:]) for times in taken]  # the first warms up


def errors(name: str, side: int, device: str) -> tuple[float, float, float, float]:
    """Largest relative errors of J v and J' u in float32, by the program and by torch.func.

    First against torch.func in float64, then against the program in float64 at the gates of float32.

    Raises:
        ArithmeticError: the program errs by over 1e-5 and twice as much as torch.func, at its own gates by
            over 1e-5 and four times as much, or in float64 by over 1e-12.
    """
    y = image(side, device)
    v, u = torch.randn(2, *y.shape, generator=torch.Generator().manual_seed(1)).to(device)
    (model, _), (exact, _) = build(name, device=device), build(name, torch.float64, device)

    def by_program(J: spectral.jacobians.Jacobian) -> list[Tensor]:
        return [J.apply(v.to(J.dtype).view(1, -1)), J.apply_transpose(u.to(J.dtype).view(1, -1))]

    def by_torch(model: Model, dtype: torch.dtype) -> list[Tensor]:
        forward = torch.func.jvp(model, (y.to(dtype),), (v.to(dtype),))[1]
        return [forward.view(1, -1), torch.func.vjp(model, y.to(dtype))[1](u.to(dtype))[0].view(1, -1)]

    truth = by_torch(exact, torch.float64)

    def worst(products: list[Tensor], truth: list[Tensor]) -> float:
        return max(((p - t).norm() / t.norm()).item() for p, t in zip(products, truth, strict=True))

    single = spectral.jacobian(model, y, method="frozen")
    products = by_program(single)
    others = by_torch(model, torch.float32)
    ours, theirs = worst(products, truth), worst(others, truth)
    same_gates = by_program(single.at_precision("float64"))
    rounding, usual = worst(products, same_gates), worst(others, same_gates)
    twice = worst(by_program(spectral.jacobian(exact, y.double(), method="frozen")), truth)
    if ours > max(1e-5, 2 * theirs) or rounding > max(1e-5, 4 * usual) or twice > 1e-12:
        raise ArithmeticError(
            f"{name} at {side}: in float32 the program errs by {ours:.1e}, {rounding:.1e} at its own gates, "
            f"torch.func by {theirs:.1e}, {usual:.1e}; the program in float64 by {twice:.1e}"
        )
    return ours, theirs, rounding, usual


TIMES = (
    *("jvp J v", "vmap of jvp, 8", "linearize J v", "kept vjp J' u"),
    *("**J v**", "**J' u**", "**(J + J') / 2**", "**J v, 8**", "**J' u, 8**", "J v by torch's kernels"),
)


def times(name: str, side: int, device: str, seconds: float) -> list[str]:
    """A row: the forward pass in milliseconds, then each of TIMES in forward passes a vector."""
    ours, theirs, rounding, usual = errors(name, side, device)
    gc.collect()  # traced functions hold themselves, and with them gigabytes
    model, parameters = build(name, device=device)
    y = image(side, device)
    V = torch.randn(BLOCK, y.numel(), generator=torch.Generator().manual_seed(1)).to(device)
    v, images = V[:1], V.view(BLOCK, *y.shape)
    J = spectral.jacobian(model, y, method="frozen")
    S, plain = J.symmetric_part(), without_kernels(model, y, V)
    replay, pullback = torch.func.linearize(model, y)[1], torch.func.vjp(model, y)[1]

    def jvp(v: Tensor) -> Tensor:
        return torch.func.jvp(model, (y,), (v,))[1]

    products: list[tuple[int, Callable[[], Tensor]]] = [
        (1, lambda: jvp(images[0])),
        (BLOCK, lambda: torch.vmap(jvp)(images)),
        (1, lambda: replay(images[0])),
        (1, lambda: pullback(images[0])[0]),
        (1, lambda: J.apply(v)),
        (1, lambda: J.apply_transpose(v)),
        (1, lambda: S.apply(v)),
        (BLOCK, lambda: J.apply(V)),
        (BLOCK, lambda: J.apply_transpose(V)),
        (1, lambda: plain.apply(v)),
    ]
    most = BLOCK if side <= BLOCKS_UP_TO else 1
    with torch.no_grad():
        forward, *taken = medians([lambda: model(y), *(call for m, call in products if m <= most)], seconds)
    left = iter(taken)
    ratios = [f"{next(left) / m / forward:.2f}" if m <= most else "" for m, _ in products]
    size = f"{name}, {parameters / 1e6:.2g} M"
    return [
        size,
        f"{1e3 * forward:.1f}",
        *ratios,
        f"{ours:.0e} ({theirs:.0e})",
        f"{rounding:.0e} ({usual:.0e})",
    ]


def without_kernels(model: Model, y: Tensor, V: Tensor) -> spectral.jacobians.Jacobian:
    """J whose convolutions are torch's own, as on a CPU without AVX2."""
    level, cpu.LEVEL = cpu.LEVEL, "none"
    try:
        J = spectral.jacobian(model, y, method="frozen")
        J.apply(V[:1])  # kernels are made when they are first needed
        return J
    finally:
        cpu.LEVEL = level


def memory(name: str, side: int) -> list[str]:
    """A row: the forward pass in MB, then each of the other MEMORY_WAYS in its units; each in a process."""
    forward, *others = (alone(name, side, "--peak", way) for way in MEMORY_WAYS)
    return [name, f"{forward:.0f}", *(f"{other / forward:.2f}" for other in others)]


def alone(name: str, side: int, *options: str) -> Any:
    """What this command tells of one network and side, in a process of its own."""
    return in_a_process("benchmarks.products", "--networks", name, "--sides", str(side), *options)


def recording(name: str, side: int) -> list[str]:
    """The row of what recording and checking costs: forward passes in time, and in memory."""
    model, _ = build(name)
    y = image(side)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(y)

    def record() -> Tensor:
        return spectral.jacobian(model, y, method="frozen").output

    passes, seconds = medians([forward, record], 20)
    forward_mb, most, kept = (alone(name, side, "--peak", way) for way in ("forward", "record", "kept"))
    return [
        f"{name}, {side}x{side}",
        f"{1e3 * passes:.1f}",
        f"{seconds / passes:.1f}",
        f"{forward_mb:.0f}",
        f"{most:.0f} ({most / forward_mb:.2f})",
        f"{kept:.0f}",
        f"{(most - kept) / forward_mb:.2f}",
    ]


def reused(name: str, side: int = 512) -> dict[str, str]:
    """Processor seconds of J v and J' u with results in memory used again, and in fresh memory, by turns."""
    J, v = spectral.jacobian(build(name)[0], image(side), method="frozen"), torch.randn(1, side**2)
    ways = {"used again": Pool.empty, "fresh": lambda pool, size, dtype: torch.empty(size, dtype=dtype)}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(8):
        for way, empty in ways.items():
            with unittest.mock.patch.object(Pool, "empty", empty):
                began = time.process_time()
                J.apply(v), J.apply_transpose(v)
                taken[way].append(time.process_time() - began)
    again, fresh = (statistics.median(times[1:]) for times in taken.values())  # the first warms up
    size = f"{name}, {side}x{side}"
    return {
        "network": size,
        "used again, s": f"{again:.2f}",
        "fresh, s": f"{fresh:.2f}",
        "ratio": f"{fresh / again:.2f}",
    }


def of_width(width: int, side: int = 80) -> dict[str, str]:
    """Products of a UNet of two blocks in forward passes, by all kernels and by torch's, interleaved."""
    torch.manual_seed(0)
    model = _lively(UNet(2, width)).eval().requires_grad_(False)
    y = image(side)
    V = torch.randn(BLOCK, y.numel(), generator=torch.Generator().manual_seed(1))
    J, plain = spectral.jacobian(model, y, method="frozen"), without_kernels(model, y, V)
    theirs = plain.apply(V)
    error = (J.apply(V) - theirs).norm() / theirs.norm()
    products: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "**J v**": (1, lambda: J.apply(V[:1])),
        "J v by torch's kernels": (1, lambda: plain.apply(V[:1])),
        "**J' u**": (1, lambda: J.apply_transpose(V[:1])),
        "J' u by torch's kernels": (1, lambda: plain.apply_transpose(V[:1])),
        "**J v, 8**": (BLOCK, lambda: J.apply(V)),
        "J v, 8, by torch's kernels": (BLOCK, lambda: plain.apply(V)),
    }
    with torch.no_grad():
        forward, *taken = medians([lambda: model(y), *(call for _, call in products.values())], 20)
    told = zip(products.items(), taken, strict=True)
    return (
        {"UNet, 2 blocks, width": str(width), "forward, ms": f"{1e3 * forward:.1f}"}
        | {name: f"{seconds / count / forward:.2f}" for (name, (count, _)), seconds in told}
        | {"difference": f"{error:.0e}"}
    )


def peak_here(name: str, side: int, way: str) -> float:
    """MB that this process holds at most, above those with the model loaded, to build and apply (Linux).

    "record" builds alone, and "kept" is what is held when that is done.
    """
    model, _ = build(name)

    def use(y: Tensor) -> Any:
        with torch.no_grad():
            if way == "forward":
                return model(y)
            if way == "jvp":
                return torch.func.jvp(model, (y,), (y,))
            if way == "vjp":
                return torch.func.vjp(model, y)[1](y)
            if way == "linearize":
                return torch.func.linearize(model, y)[1](y)
            J, v = spectral.jacobian(model, y, method="frozen"), y.view(1, -1)
            return J if way in ("record", "kept") else (J.apply(v), J.apply_transpose(v))

    use(image(16))  # what libraries load on their first use is no part of it
    gc.collect()
    trim(SMALL)
    before = mark_memory()
    held = use(image(side))
    if way == "kept":
        gc.collect()
        trim(SMALL)
        return resident("VmRSS") - before
    del held
    return resident("VmHWM") - before


def mark_memory() -> float:
    """MB that this process holds now, from which on the kernel's high-water mark, VmHWM, starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(line: str) -> float:
    """A line of /proc/self/status, in MB."""
    found = re.search(rf"{line}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measured(
    networks: list[str],
    sides: list[int],
    memory_of: list[tuple[str, int]],
    rows: Rows,
    device: str,
    seconds: float,
) -> str:
    """The tables as Markdown."""
    head = [
        "network, parameters",
        "forward, ms",
        *TIMES,
        "error (torch.func's)",
        "at the same gates",
    ]
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    parts = []
    for side in sides:
        of_side = [
            rows.row(
                f"{name}, {side}, {device}",
                lambda name=name, side=side: alone(  # type: ignore[misc]
                    name, side, "--row", "--device", device, "--seconds", str(seconds)
                ),
            )
            for name in networks
            if fits(name, side)
        ]
        parts += [
            f"{side}x{side} pixels, float32, torch {torch.__version__}, {where}; products in forward passes "
            "a vector, 8 being blocks of eight.",
            table(head, of_side),
        ]
    if memory_of:
        parts += [
            "Memory to build and to form J v and J' u once, above the loaded model, in forward passes.",
            table(
                ["network", "forward, MB", "**program**", "kept vjp", "linearize", "jvp, J v alone"],
                [
                    [f"{row[0]}, {side}x{side}", *row[1:]]
                    for n, side in memory_of
                    for row in [rows.row(f"{n}, {side}, memory", lambda n=n, side=side: memory(n, side))]  # type: ignore[misc]
                ],
            ),
        ]
    return "\n\n".join(parts)


def recorded(rows: Rows) -> str:
    """The table of recording as Markdown."""
    head = [
        "network",
        "forward, ms",
        "**to record, passes**",
        "forward, MB",
        "to record, at most, MB (passes)",
    ]
    head += ["kept, MB", "**beside what is kept, passes**"]
    made = [
        rows.row(f"{name}, {side}, recording", functools.partial(recording, name, side))
        for name, side in [
            *((name, side) for side in RECORDED_AT for name in QUICK),
            *(("conditional UNet", side) for side in (80, 256)),
        ]
    ]
    threads = torch.get_num_threads()
    note = f"`jacobian` alone, float32, {threads} thread{'s' * (threads > 1)}; memory above the loaded model."
    return f"{note}\n\n{table(head, made)}"


if __name__ == "__main__":
    page = Page(
        "docs/products.md",
        __doc__,
        quick=False,
        sides=[80, 256, 512],
        networks=[""],
        seconds=20.0,
        device="cpu",
        rows="",
        peak="",
        recording=False,
        reuse=False,
        widths=False,
        row=False,
    )
    options = page.options
    names = [name for name in NETWORKS if any(part in name for part in options.networks)]
    if options.peak:
        print(peak_here(names[0], options.sides[0], options.peak))
    elif options.row:
        print(json.dumps(times(names[0], options.sides[0], options.device, options.seconds)))
    elif options.recording:
        page.tell("recording", recorded(Rows(options.rows)))
    elif options.reuse:
        page.tell("reuse", records([reused(name) for name in QUICK]))
    elif options.widths:
        page.tell("widths", records([of_width(width) for width in WIDTHS]))
    else:
        sides = options.sides
        of = [(name, side) for side in sides for name in names if side > 80 and name in QUICK]
        if options.quick:
            names, sides, of = list(QUICK), [80, 256], [("UNet, 3 blocks", 512)]
        of = of if options.device == "cpu" else []
        rows = Rows(options.rows)
        page.tell("products", measured(names, sides, of, rows, options.device, options.seconds))
