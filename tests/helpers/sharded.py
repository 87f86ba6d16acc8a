"""What the processes of the tests of `spectral.sharded` do; each function is run in all of them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import spectral
from denoisers.networks.bfcnn import BFCNN
from denoisers.networks.layers import BiasFreeNorm
from denoisers.networks.unet import UNet
from spectral.errors import RankError
from spectral.jacobians.program import Program
from spectral.jacobians.program.reach import Reach
from spectral.jacobians.sharded import ShardedJacobian
from spectral.operators.base import LinearOperator
from spectral.operators.ranks import Ranks
from spectral.operators.sharded import Cuts, ShardedSpace
from spectral.solvers import Lanczos


def network(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network whose J is far from trivial, the same in each process."""
    torch.manual_seed(0)
    name, *sizes = kind.split("-")
    model = {"bfcnn": BFCNN, "unet": UNet}[name](*map(int, sizes))
    for part in model.modules():
        if isinstance(part, BiasFreeNorm):
            part.gamma.data.fill_(1.0)
    return model.eval().to(dtype)


def image(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same image in each process."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def spectra(kind: str, shape: tuple[int, ...], k: int, dtype: torch.dtype) -> dict[str, Any]:
    """Eigenvalues, and all that is told of the way there."""
    A = spectral.sharded(network(kind, dtype), image(*shape, dtype=dtype))
    pairs = spectral.top_eigs(A, k=k)
    whole = A.gather(pairs)
    return told(A) | {
        "values": pairs.values,
        "products": pairs.products,
        "residuals": pairs.residuals,
        "spent": pairs.spent,
        "complete": bool(pairs.complete),
        "vectors": None if whole is None else whole.vectors,
        "strip": pairs.vectors.shape,
    }


def told(A: ShardedJacobian) -> dict[str, Any]:
    """What the operator tells of itself, with products of one random vector on the way."""
    generator = torch.Generator().manual_seed(3)
    v = A.domain.normal(1, generator=generator).to(A.dtype)
    u = A.codomain.normal(1, generator=generator).to(A.dtype)
    sent, received = A.ranks.sent, A.ranks.received
    Av = A.apply(v)
    ahead = A.ranks.sent - sent, A.ranks.received - received
    sent, received = A.ranks.sent, A.ranks.received
    Au = A.apply_transpose(u)
    behind = A.ranks.received - received, A.ranks.sent - sent
    left, right = A.codomain.dots(u, Av).item(), A.domain.dots(v, Au).item()
    return {
        "adjoint": abs(left - right) / (A.codomain.norms(u) * A.codomain.norms(Av)).item(),
        "ahead": ahead,
        "behind": behind,
        "formula": A.bytes_per_product,
        "program": A.local.program_bytes,
        "rows": (len(A.cuts.of(A.ranks.rank)), len(A.halo.rows)),
        "repr": repr(A),
    }


def matrices(cases: list[tuple[str, tuple[int, ...]]]) -> list[dict[str, Any]]:
    """The whole matrix of each network, and of its transpose."""
    found = []
    for kind, shape in cases:
        A = spectral.sharded(network(kind), image(*shape))
        found.append(told(A) | {"matrix": A.dense(), "transposed": A.T.dense()})
    return found


def answers(A: LinearOperator) -> dict[str, Any]:
    """What every front door says of an operator, but vectors."""
    return {
        "eigs": spectral.top_eigs(A, k=3).values,
        "magnitude": spectral.top_eigs(A, k=3, which="magnitude", method="lobpcg").values,
        "inside": spectral.top_eigs(A, between=(0.9, 1.0)).values,
        "dense": spectral.top_eigs(A, k=3, method="dense").values,
        "triplets": spectral.top_svd(A, k=3).values,
        "triplets, dense": spectral.top_svd(A, k=3, method="dense").values,
        "full": spectral.top_eigs_full(A, k=3, which="magnitude", left=True).condition,
        "full, dense": spectral.top_eigs_full(A, k=3, which="magnitude", method="dense").values,
        "trace": spectral.trace(A, products=24).value,
        "hutch++": spectral.trace(A, products=24, method="hutch++").stderr,
        "orthogonal": spectral.trace(A, products=12, method="orthogonal").value,
        "xnystrace": spectral.trace(A.gram(), products=12, method="xnystrace").value,
        "norm": spectral.frobenius_norm(A, products=16).value,
        "schatten": spectral.schatten_norm(A, probes=2, steps=10).value,
        "spectral norm": spectral.schatten_norm(A, p=float("inf")).value,
        "rank": spectral.effective_rank(A, products=16).value,
        "precision": spectral.top_eigs(A, k=3, precision="float32").values,
        "asymmetry": spectral.asymmetry(A).value,
        "density": spectral.spectral_density(A, probes=2, steps=10).nodes,
        "density, exact": spectral.spectral_density(A, method="exact").nodes,
        "kpm": spectral.spectral_density(A, probes=2, steps=10, method="kpm").weights,
    }


def doors(kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """`answers` of a network, and its diagonals."""
    A = spectral.sharded(network(kind), image(*shape))
    diagonals = {
        method: A.gather(spectral.diagonal(A, products=16, method=method).value)
        for method in ("exact", "hutchinson", "xdiag")
    }
    risks = {
        "sure": spectral.sure(A, A.y, 0.1).value,
        "its error": spectral.sure(A, A.y, 0.1).stderr,
        "xtrace's": spectral.sure(A, A.y, 0.1, method="xtrace", products=20).value,
    }
    return answers(A) | diagonals | risks | {"refused": not_shared(A)}


def not_shared(A: ShardedJacobian) -> dict[str, str]:
    """What is said of what is not for several processes, or is given wrongly in one of them."""
    first = A.ranks.rank == 0
    asked: dict[str, Callable[[], Any]] = {
        "median": lambda: spectral.sure(A, A.y, "median"),
        "y": lambda: spectral.sure(A, A.y + first, 0.1),
        "probing": lambda: spectral.diagonal(A, method="probing", products=16),
        "posterior": lambda: spectral.posterior(A, A.y, 0.1),
        "batched": lambda: spectral.top_eigs(A, batched=True),
        "scipy": A.to_scipy,
    }
    found = {}
    for name, work in asked.items():
        try:
            work()
            found[name] = ""
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {failure}"
    return found


def restrictions(shape: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """Masks and constraints of an image, by name: a disk, rows of one strip alone, few pixels, and vectors,
    one of which depends on others, one of which lies outside of the mask."""
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape[-2:]), indexing="ij")
    disk = (rows**2 + columns**2 < 0.7).expand(shape[-3:])
    low = (rows > 0.6).expand(shape[-3:])
    generator = torch.Generator().manual_seed(9)
    C = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    C = torch.cat([C, C[:1] - 2 * C[1:2], (~disk) * C[:1]])
    return {
        "mask": {"mask": disk},
        "mask of one strip": {"mask": low},
        "orthogonal": {"orthogonal_to": C},
        "both": {"mask": disk, "orthogonal_to": C},
        "one strip, orthogonal": {"mask": low, "orthogonal_to": C[:2].flatten(1)},
        "all": {"mask": torch.ones(shape)},
    }


def cut(A: LinearOperator, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What lies here of masks and vectors."""
    whole = getattr(A, "whole_shape", A.input_shape)
    first, last, _ = getattr(A, "strip", None) or (0, whole[-2], whole[-2])

    def own(t: Tensor) -> Tensor:
        flat = t.shape[-1:] == (math.prod(whole),)
        t = t.reshape(-1, *whole) if flat else t
        t = t[..., first:last, :]
        return t.flatten(1) if flat else t

    return {name: own(t) for name, t in given.items()}


def restricted(kind: str, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """What solvers say under masks and constraints, with a start and a checkpoint too."""
    A = spectral.sharded(network(kind), image(*shape))
    found: dict[str, Any] = {}
    for name, given in restrictions(shape).items():
        own = cut(A, given)
        pairs = spectral.top_eigs(A, k=2, method="lanczos", **own)
        found[name] = {
            "values": pairs.values,
            "vectors": A.gather(pairs.vectors),
            "products": pairs.products,
            "restriction": pairs.restriction,
            "complete": bool(pairs.complete),
            "lobpcg": spectral.top_eigs(A, k=2, method="lobpcg", **own).values,
            "dense": spectral.top_eigs(A, k=2, method="dense", **own).values,
            "again": spectral.top_eigs(A, k=2, method="lobpcg", start=pairs.vectors, **own).products,
        }
    own = cut(A, restrictions(shape)["both"])
    triplets = {"mask": own["mask"], "output_mask": cut(A, restrictions(shape)["mask of one strip"])["mask"]}
    found["triplets"] = spectral.top_svd(A, k=2, **triplets).values
    found["full"] = spectral.top_eigs_full(A, k=2, **own).values
    path = folder / "solve.safetensors"
    found["first"] = spectral.top_eigs(A, k=2, max_products=9, checkpoint=path, confidence=0.0, **own).spent
    found["then"] = spectral.top_eigs(A, k=2, checkpoint=path, confidence=0.0, **own).values
    path = folder / "triplets.safetensors"
    found["both sides"] = [
        spectral.top_svd(A, k=2, max_products=most, checkpoint=path, confidence=0.0, **triplets).values
        for most in (12, None)
    ][-1]

    def refused(**options: Any) -> str:
        try:
            spectral.top_eigs(A, k=2, **options)
        except Exception as failure:
            return f"{type(failure).__name__}: {failure}"
        return ""

    first = A.strip is None or A.strip[0] == 0
    wrong = own["mask"].double() / (2 if first else 1)
    others = own["orthogonal_to"][:3] * torch.arange(1, shape[-1] + 1)
    found["refused"] = {
        "other": refused(mask=own["mask"], orthogonal_to=others, checkpoint=folder / "solve.safetensors"),
        "none": refused(checkpoint=folder / "solve.safetensors"),
        "halves": refused(mask=wrong),
        "empty": refused(mask=torch.zeros(A.input_shape)),
        "shape": refused(mask=torch.ones(1, 7, 7, dtype=torch.bool) if first else own["mask"]),
        "start": refused(start=torch.full((1, *A.input_shape), math.nan if first else 1.0)),
    }
    return found


def program_bytes(kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """What the program of a strip holds, and the rows that it is of."""
    # Which layout is faster is told by a clock.
    Program.in_faster_layout = lambda self: self  # type: ignore[method-assign]
    A = spectral.sharded(network(kind, torch.float32), image(*shape, dtype=torch.float32))
    return A.local.program_bytes, len(A.halo.rows)


def spaces(sizes: list[tuple[int, int, int]]) -> list[dict[str, Tensor]]:
    """Blocks of rows, orthonormalised and drawn, whole in each process."""
    ranks, found = Ranks.of_process(), []
    for planes, rows, width in sizes:
        if rows < ranks.size:
            found.append({})
            continue
        space = ShardedSpace.of_images(ranks, Cuts.even(rows, ranks.size, 1), planes, width)
        generator = torch.Generator().manual_seed(5)
        V = space.normal(2, 5, generator=generator)
        dependent = torch.cat([V, V[:, :1] + 1e-13 * space.normal(2, 1, generator=generator)], 1)
        Q, R = space.qr(dependent)
        found.append(
            {
                "normal": space.whole(V),
                "signs": space.whole(space.signs(3, generator=generator)),
                "given": space.whole(dependent),
                "Q": space.whole(Q),
                "R": R,
                "inner": space.inner(V, dependent),
                "dots": space.dots(V, V),
                "norms": space.norms(V),
                "largest": space.largest(V),
                "own": space.whole(space.own(space.whole(V))),
                "lengths": space.lengths(1e200 * V),
                "units": space.whole(space.units(range(space.dimension)).double()),
            }
        )
    return found


class Of(nn.Module):
    """A model from a function of layers and y."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, y: Tensor) -> Tensor:
        """function(self, y)."""
        return self.function(self, y)


def _attended(m: Any, y: Tensor) -> Tensor:
    x = m.first(y).flatten(2).mT
    return m.last(m.mix(x, x, x, need_weights=False)[0].mT.unflatten(2, y.shape[-2:]))


def _tabled(m: Any, y: Tensor) -> Tensor:
    return y * m.table[: y.shape[-2], None]


def _switching(m: Any, y: Tensor) -> Tensor:
    return m.first(y).sum(1, keepdim=True) * (2.0 if y.shape[-2] > 40 else 1.0)


def models() -> dict[str, nn.Module]:
    """Models that look further than their strips, or at where they are, by name."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
    tabled = Of(_tabled)
    tabled.table = nn.Parameter(torch.linspace(1, 2, 4096))
    made = {
        "attention": Of(_attended, first=first, last=last, mix=nn.MultiheadAttention(8, 2, batch_first=True)),
        "group norm": Of(
            lambda m, y: m.last(m.mid(m.first(y))), first=first, last=last, mid=nn.GroupNorm(2, 8)
        ),
        "layer norm": Of(lambda m, y: functional.layer_norm(y, y.shape)),
        "pooling": Of(lambda m, y: y * m.first(y).mean((1, 2, 3), keepdim=True), first=first),
        "circular": nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        "ramp": Of(lambda m, y: y * torch.linspace(0, 1, y.shape[-2])[:, None]),
        "table": tabled,
        "by jumps": Of(lambda m, y: torch.where(y > y.mean(), m.last(m.first(y)), y), first=first, last=last),
        "by size": Of(_switching, first=first),
        "linear": nn.Conv2d(1, 1, 3, padding=1, bias=False),
        "linear, by size": Of(_switching, first=nn.Conv2d(1, 8, 3, padding=1, bias=False)),
        "resized": Of(lambda m, y: functional.interpolate(y, (2 * y.shape[-2], y.shape[-1]))),
    }
    return {name: model.eval() for name, model in made.items()}


def refusals(names: list[str], shape: tuple[int, ...]) -> dict[str, str]:
    """What each model is refused with; "" where it is not.  Of "x at zero" it is x, at an image of zeros."""
    found = {}
    for name in names:
        y, kind = image(*shape, dtype=torch.float32), name.removesuffix(" at zero")
        try:
            spectral.sharded(models()[kind], y if kind == name else 0 * y)
            found[name] = ""
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {failure}"
    return found


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tol": ({}, {"tol": 1e-3}),
    "k": ({"k": 3}, {"k": 4}),
    "method": ({}, {"method": "lobpcg"}),
    "a method's block": ({"method": Lanczos(block=2)}, {"method": Lanczos(block=4)}),
    "max_products": ({}, {"max_products": 30}),
    "seed": ({}, {"seed": 1}),
    "above": ({}, {"above": 0.9}),
    "start": ({}, {"start": torch.ones(1, 1, 1, 16, 8)}),
    "checkpoint": ({}, {"checkpoint": "solve.safetensors"}),
}


def differing() -> dict[str, tuple[str, float]]:
    """What is said, and after how many seconds, where the last process asks for something else."""
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    y, found = image(1, 1, 32, 8), {}
    A = spectral.sharded(network("bfcnn-3-8"), y)

    def tried(name: str, work: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            work()
            said = ""
        except Exception as failure:
            said = f"{type(failure).__name__}: {failure}"
        found[name] = said, time.monotonic() - began

    for name, both in ASKED.items():
        tried(name, lambda both=both: spectral.top_eigs(A, **both[last]))
    tried("door", lambda: spectral.trace(A) if last else spectral.top_eigs(A))
    tried("misspelt", lambda: spectral.top_eigs(A, **({"tool": 1e-3} if last else {})))
    tried("progress", lambda: spectral.top_eigs(A, k=2, progress=not last))
    other = network("bfcnn-3-8")
    next(iter(other.parameters())).data[0, 0, 0, 0] += 1e-6
    tried("weights", lambda: spectral.sharded(other if last else network("bfcnn-3-8"), y))
    tried("width", lambda: spectral.sharded(network("bfcnn-3-8"), y[..., : 8 - last]))
    tried("given", lambda: spectral.sharded(network("bfcnn-3-8"), y, given="strip" if last else "whole"))
    scaled = Of(lambda m, y: m.layer(y), layer=network("bfcnn-3-8"))
    scaled.forward = lambda y, level: scaled.layer(y) * level  # type: ignore[method-assign]
    for name, level in (("keyword", 1.0 + last), ("keywords alike", 2.0)):
        told = {"level": torch.tensor(level)}
        tried(name, lambda told=told: spectral.sharded(scaled, y, model_kwargs=told))
    # What is wrong in one process alone, before or beside anything that is sent
    model, own = network("bfcnn-3-8"), torch.ones(2, *A.input_shape, dtype=A.dtype)
    spoiled = y[..., :16, :].clone()
    spoiled[0, 0, 5, 2] = math.nan if last else 1.0
    tried("no image", lambda: spectral.sharded(model, None if last else y))  # type: ignore[arg-type]
    tried("no model", lambda: spectral.sharded(3 if last else model, y))  # type: ignore[arg-type]
    tried("integers", lambda: spectral.sharded(model, y.to(torch.uint8)))
    tried("no rows", lambda: spectral.sharded(model, y[..., : 16 * (1 - last), :], given="strip"))
    tried("not finite", lambda: spectral.sharded(model, spoiled, given="strip"))
    tried("starts", lambda: spectral.top_eigs(A, k=2, start=own[last:]))
    tried("directions", lambda: spectral.top_eigs(A, k=2, orthogonal_to=own[last:].flatten(1)))
    tried("vectors", lambda: A.apply(own[last:].flatten(1)))
    tried("length", lambda: A.apply(own.flatten(1)[:, last:]))
    tried("product", lambda: (A.T if last else A) @ own[0].flatten())
    tried("product, door", lambda: A @ own[0].flatten() if last else spectral.trace(A))
    tried("gathered", lambda: A.gather(own[last:]))
    narrow = Of(lambda m, y: m.layer(y)[..., : 8 - last], layer=model)
    tried("outputs", lambda: spectral.sharded(narrow, y))
    tried("after all", lambda: spectral.top_eigs(A, k=2))
    return found


def half_refusals(names: list[str], shape: tuple[int, ...]) -> dict[str, str]:
    """The same, of models and images in bfloat16; and of an image that another process has mirrored."""
    found = {}
    for name in names:
        try:
            spectral.sharded(models()[name].bfloat16(), image(*shape, dtype=torch.bfloat16))
            found[name] = ""
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {failure}"
    y = image(*shape)
    try:
        spectral.sharded(network("bfcnn-3-8"), y.flip(-1) if int(os.environ["RANK"]) else y)
        found["mirrored"] = ""
    except Exception as failure:
        found["mirrored"] = f"{type(failure).__name__}: {failure}"
    return found


def shortened(kinds: list[str], shape: tuple[int, ...]) -> dict[str, str]:
    """What is said where a program tells a row less, above or below, than it looks."""
    told, found = Program.reach, {}
    for kind in kinds:
        for side in ("above", "below"):

            def less(program: Program, side: str = side) -> Reach:
                whole = told(program)
                return replace(whole, **{side: getattr(whole, side) - 1})

            Program.reach = less  # type: ignore[method-assign]
            try:
                spectral.sharded(network(kind), image(*shape))
                found[f"{kind} {side}"] = ""
            except Exception as failure:
                found[f"{kind} {side}"] = f"{type(failure).__name__}: {failure}"
            finally:
                Program.reach = told  # type: ignore[method-assign]
    return found


def strips(kind: str, heights: list[int], width: int) -> dict[str, Any]:
    """An image that is given in strips."""
    rank = int(os.environ["RANK"])
    y = image(1, 1, sum(heights), width)
    own = y[..., sum(heights[:rank]) : sum(heights[: rank + 1]), :]
    try:
        A = spectral.sharded(network(kind), own, given="strip")
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {failure}"}
    return told(A) | {"matrix": A.dense(), "output": A.gather(A.output)}


def kept(
    path: Path, k: int, most: int | None, kind: str, shape: tuple[int, ...], door: str
) -> dict[str, Any]:
    """A solve that is kept in a file."""
    A = spectral.sharded(network(kind), image(*shape))
    found = getattr(spectral, door)(A, k=k, max_products=most, checkpoint=path, confidence=0.0)
    return {"values": found.values, "spent": found.spent, "notes": found.notes, "converged": found.converged}


def lost(path: Path, how: str, timeout: float) -> dict[str, Any]:
    """A solve in the middle of which the last process ends, or stops, or is interrupted."""
    A = spectral.sharded(network("bfcnn-4-8"), image(1, 1, 96, 96), timeout=timeout)
    last = A.ranks.rank == A.ranks.size - 1
    product, count = A._apply, 0

    def counted(V: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if last and count == 40:
            os.kill(
                os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "ctrl-c": signal.SIGINT}[how]
            )
        return product(V)

    A._apply = counted  # type: ignore[method-assign]
    began = time.monotonic()
    try:
        pairs = spectral.top_eigs(A, k=20, checkpoint=path)
    except RankError as failure:
        return {"failure": str(failure), "seconds": time.monotonic() - began}
    return {"notes": pairs.notes, "products": pairs.products, "k": pairs.k}


def several(works: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """Some of these functions, one after the other: processes take seconds to start."""
    return [globals()[name](*arguments) for name, arguments in works]
