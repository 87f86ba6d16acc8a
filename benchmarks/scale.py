"""How large an image can be: memory, traffic and operations by formula, measured where they can be here.

    python -m benchmarks.scale [--write] [--pixels 256 64] [--ranks 1 2 4] [--tflops 30]

What a network keeps of a pixel is told by its recorded program at two small sizes; how many rows a Krylov
basis takes, by the rule of the code.  At --pixels, over each number of processes (Gloo, a thread each), a
solve of 48 products is made by torchrun: bytes kept and sent as the operator tells them beside the formula,
the eigenvalues of all compared, and the peak of each process's resident memory.  The plan for GPUs is the
formula alone: none was run.  --tflops is what a GPU is taken to sustain.  --write puts the tables into
docs/scale.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spectral
from benchmarks.page import Page, records
from benchmarks.products import mark_memory, resident
from denoisers.networks.bfcnn import BFCNN
from denoisers.networks.layers import BiasFreeNorm
from denoisers.networks.unet import UNet
from spectral.jacobians.program import Program
from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.program import parts_of
from spectral.jacobians.program.reach import Reach
from spectral.jacobians.program.slopes import shape_of
from spectral.linalg.blocks import room_for

NETWORKS = {"BF-CNN, 21 layers of 64": (BFCNN, (21, 64)), "UNet, 3 blocks of 64": (UNet, (3, 64))}
K, PRODUCTS = 20, 250  # of a solve that is planned; docs/whole.md has such ones
TRIED = 48  # products of a solve that is measured
VERIFIED = 8  # rows a pair while pairs are verified, in float64, and the basis is gone
VECTORS = 12  # rows beside the basis: what is multiplied, and what is made of it
GB, MB = 1e9, 1e6


def network(name: str) -> nn.Module:
    """The network with weights at random, scales such that a map keeps its size; the same in each process."""
    torch.manual_seed(0)
    kind, sizes = NETWORKS[name]
    model = kind(*sizes)
    for part in model.modules():
        if isinstance(part, BiasFreeNorm):
            part.gamma.data.fill_(1.0)
    return model.eval()


def image(rows: int, columns: int) -> Tensor:
    """An image of noise."""
    return torch.rand(1, 1, rows, columns, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Cost:
    """What a network takes, a pixel of its input.

    Attributes:
        gates: entries of gates and slopes.
        kept: bytes that the program keeps of them on this machine; `weights`, what it keeps besides, in all.
        live: entries that a product of one vector holds at once.
        operations: of J v, twice the multiplications.
        reach: rows of the halo.
    """

    gates: float
    kept: float
    weights: float
    live: float
    operations: float
    reach: Reach

    @classmethod
    def of(cls, name: str) -> "Cost":
        """From programs at 64x64 and 128x128 pixels."""
        _in_one_layout()
        told = []
        for side in (64, 128):
            J = spectral.jacobian(network(name), image(side, side))
            assert J._program is not None
            told.append((side**2, J._program))
        (few, small), (many, large) = told
        slopes = {
            id(slope): shape_of(slope).numel()
            for part in parts_of(large.steps)
            for key in ("slope", "slope_in")
            if isinstance(slope := getattr(part, key, None), Tensor)
        }
        operations = sum(
            2 * part.weight.numel() * (part.input_size if part.transposed else part.output_size)[2:].numel()
            for part in parts_of(large.steps)
            if isinstance(part, Convolution)
        )
        kept = (large.bytes - small.bytes) / (many - few)
        weights = large.bytes - kept * many
        return cls(
            sum(slopes.values()) / many,
            kept,
            weights,
            large.live_entries / many,
            operations / many,
            large.reach(),
        )


def _in_one_layout() -> None:
    """Which layout of gates is faster goes by a clock: here all keep the same."""
    Program.in_faster_layout = lambda self: self  # type: ignore[method-assign]


def basis_rows(k: int, products: int, basis: int | None = None) -> int:
    """The most rows that a Krylov basis has room for at once, while it is copied as it grows or compressed.

    `spectral.solvers.search` restarts at max(4 k, k + 200) rows, or at `basis`.
    """
    limit, size, room, most = max(basis or max(4 * k, k + 200), k + 5), 0, 0, 0
    for _ in range(products):
        if size + 1 > room:
            larger = room_for(size + 1, room, limit)
            room, most = larger, max(most, room + larger)
        size += 1
        if size + 1 > limit:
            size = k + (limit - k - 1) // 2
            most = max(most, room + size)
    return most


@dataclass(frozen=True)
class Plan:
    """One process's share of a solve, in bytes but for `flops`, the operations of J v.

    Attributes:
        rows: of its strip and halo.
        program, product, basis, vectors: what is kept of the network, held by a product, and by the solver.
        sent: with each product, at most, to both sides.
    """

    rows: int
    program: float
    product: float
    basis: float
    vectors: float
    sent: float
    flops: float

    @classmethod
    def of(
        cls,
        cost: Cost,
        pixels: tuple[int, int],
        ranks: int,
        k: int,
        products: int,
        basis: int | None = None,
        gate: float | None = None,
    ) -> "Plan":
        """The formula of docs/scale.md; `gate` bytes an entry of a gate, by default as kept here."""
        halo = sum(cost.reach.halo) if ranks > 2 else cost.reach.halo[0] if ranks > 1 else 0
        height, side = pixels
        own, rows = height / ranks, height / ranks + halo
        kept = cost.kept if gate is None else cost.gates * gate
        return cls(
            rows=int(rows),
            program=cost.weights + kept * rows * side,
            product=4 * cost.live * rows * side,
            basis=4 * max(basis_rows(k, products, basis), VERIFIED * k) * own * side,
            vectors=4 * VECTORS * rows * side,
            sent=4 * halo * side,
            flops=cost.operations * rows * side,
        )

    @property
    def all(self) -> float:
        """Bytes in all."""
        return self.program + self.product + self.basis + self.vectors


# Measured here


def worker(name: str, pixels: tuple[int, int]) -> None:
    """One process's part of a solve; what it took, as a line of JSON in the file that is named."""
    torch.set_num_threads(1)
    _in_one_layout()
    model, y = network(name), image(*pixels)
    A = spectral.sharded(model, y)
    made = mark_memory()
    sent, received, count = A.ranks.sent, A.ranks.received, A.count
    v = A.domain.normal(1, generator=torch.Generator().manual_seed(2)).float()
    A.apply(v)
    traffic = [A.ranks.sent - sent, A.ranks.received - received]
    pairs = spectral.top_eigs(A, k=6, max_products=TRIED, confidence=0.0)
    told = {
        "program": A.local.program_bytes,
        "rows": len(A.halo.rows),
        "traffic": traffic,
        "formula": list(A.bytes_per_product),
        "values": pairs.values.tolist(),
        "products": pairs.products,
        "count": A.count - count,
        "made": made,
        "peak": resident("VmHWM"),
        "gathered": A.ranks.gathered,
    }
    rank = int(os.environ.get("RANK", "0"))
    Path(os.environ["SCALE_FOLDER"], f"{rank}.json").write_text(json.dumps(told))


def measured(name: str, pixels: tuple[int, int], ranks: int, folder: Path) -> list[dict[str, Any]]:
    """What each of some processes took."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "benchmarks.scale", "--one", name, "--pixels", *map(str, pixels)]
    around = os.environ | {"OMP_NUM_THREADS": "1", "SCALE_FOLDER": str(folder)}
    subprocess.run(command, check=True, env=around, stderr=subprocess.DEVNULL)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def beside(costs: dict[str, Cost], pixels: tuple[int, int], every: list[int], folder: Path) -> str:
    """The formula beside what was measured."""
    rows = []
    for name, cost in costs.items():
        alone: list[float] = []
        for ranks in every:
            told = measured(name, pixels, ranks, folder)
            plan = Plan.of(cost, pixels, ranks, 6, TRIED)
            values = [one["values"] for one in told]
            alone = alone or values[0]
            apart = max(abs(a - b) for one in values for a, b in zip(one, alone, strict=True)) / alone[0]
            if apart > 1e-5:
                raise ArithmeticError(f"{name}: eigenvalues over {ranks} processes differ by {apart:.1e}")
            if any(one["traffic"] != one["formula"] for one in told):
                raise ArithmeticError(
                    f"{name}: bytes sent over {ranks} processes are not those of the formula"
                )
            most = max(told, key=lambda one: one["rows"])
            made, peak = (max(one[key] for one in told) for key in ("made", "peak"))
            sent = max(max(one["traffic"]) for one in told) / 1e3
            rows.append(
                {
                    "network": name,
                    "pixels": "{}x{}".format(*pixels),
                    "processes": str(ranks),
                    "rows with halo": str(most["rows"]),
                    "program, MB: told, formula": f"{most['program'] / MB:.1f}, {plan.program / MB:.1f}",
                    "a product sends at most, kB: counted, formula": f"{sent:.1f}, {plan.sent / 1e3:.1f}",
                    "formula in all, MB": f"{plan.all / MB:.0f}",
                    "resident, MB: once made, peak": f"{made:.0f}, {peak:.0f}",
                    "products": f"{told[0]['products']}",
                    "eigenvalues differ, relative": f"{apart:.0e}",
                }
            )
            print(*rows[-1].values(), sep=" | ", flush=True)
    return records(rows)


def plans(costs: dict[str, Cost], tflops: float) -> str:
    """What GPUs of 80 GB would be asked for."""
    rows = []
    for side, ranks in ((2048, 1), (4096, 1), (8192, 4), (16384, 8), (16384, 32)):
        for name, cost in costs.items():
            for basis in (None, 60):
                plan = Plan.of(cost, (side, side), ranks, K, PRODUCTS, basis, 1.0)
                seconds = 2 * PRODUCTS * plan.flops / (tflops * 1e12)
                rows.append(
                    {
                        "network": name,
                        "pixels": f"{side}x{side}",
                        "GPUs": str(ranks),
                        "basis": "default" if basis is None else f"{basis} rows",
                        "program, GB": f"{plan.program / GB:.1f}",
                        "product, GB": f"{plan.product / GB:.1f}",
                        "basis, GB": f"{plan.basis / GB:.1f}",
                        "vectors, GB": f"{plan.vectors / GB:.1f}",
                        "all, GB": f"{plan.all / GB:.1f}",
                        "below 72 GB": "yes" if plan.all < 0.9 * 80 * GB else "no",
                        "a product sends, MB": f"{plan.sent / MB:.1f}",
                        f"minutes at {tflops:g} TFLOP/s": f"{seconds / 60:.0f}",
                    }
                )
    return records(rows)


def costs_table(costs: dict[str, Cost]) -> str:
    """What a pixel takes."""
    return records(
        [
            {
                "network": name,
                "gates, entries a pixel": f"{c.gates:.0f}",
                "kept here, bytes a pixel": f"{c.kept:.0f}",
                "weights, MB": f"{c.weights / MB:.0f}",
                "live, entries a pixel": f"{c.live:.0f}",
                "J v, kFLOP a pixel": f"{c.operations / 1e3:.0f}",
                "reach, rows": str(max(c.reach.above, c.reach.below)),
                "cuts at multiples of": str(c.reach.multiple),
            }
            for name, c in costs.items()
        ]
    )


if __name__ == "__main__":
    page = Page("docs/scale.md", __doc__, pixels=[256, 64], ranks=[1, 2, 4], tflops=30.0, one="")
    options = page.options
    if options.one:
        worker(options.one, tuple(options.pixels))
        sys.exit()
    known = {name: Cost.of(name) for name in NETWORKS}
    page.tell("costs", costs_table(known))
    page.tell("plans", plans(known, options.tflops))
    if options.ranks:
        with tempfile.TemporaryDirectory() as place:
            page.tell("measured", beside(known, tuple(options.pixels), options.ranks, Path(place)))
