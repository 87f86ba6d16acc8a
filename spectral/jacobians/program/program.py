"""The recorded program: its steps in order, forwards for J v and backwards for J' u, on chunks of vectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.free_memory import free_bytes, out_of_memory
from spectral.jacobians.program.convolution import Convolution, Joint
from spectral.jacobians.program.reach import Reach, reach_of
from spectral.jacobians.program.rules.attention import Attention
from spectral.jacobians.program.rules.norms import Norm
from spectral.jacobians.program.rules.pointwise import Diagonal, Pointwise
from spectral.jacobians.program.rules.products import Matmul
from spectral.jacobians.program.slopes import laid_out
from spectral.jacobians.program.steps import Cut, Local, Step, counts, some

Product = Callable[[Tensor], Tensor]
"""Of blocks of vectors, (c, ...) -> (c, ...)."""

LITTLE = 1 << 24  # multiplications: a millisecond of them
GAIN = 0.95  # another layout, or twice as many vectors at once, must take less than this share of the time
FRESH = (Convolution, Joint, Norm)  # steps whose results are new tensors, which nobody else holds
FRESH_BACK = (*FRESH, Cut)  # those whose transposes are


@dataclass(repr=False)
class Program:
    """Steps in the order of the network; slot 0 is the input, `result` the output's slot (None: constant).

    A block of c vectors has the shape (c, *input_size), or (c, *output.shape) on the other side.

    Attributes:
        output: of the function at y.
        entries: of each slot, for the memory that a product takes.
    """

    steps: list[Step]
    result: int | None
    input_size: torch.Size
    output: Tensor
    entries: dict[int, int]

    def __post_init__(self) -> None:
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            last.update(dict.fromkeys(step.inputs, at))
        self._dead = [
            [i for i in set(step.inputs) if last[i] == at and i != self.result]
            for at, step in enumerate(self.steps)
        ]
        self._own()

    def _own(self) -> None:
        """Let gates work in place on what a step has just made for them alone, cuts fill what is theirs."""
        makers = {step.output: step for step in self.steps}
        users = users_of(self.steps, self.result)
        for after in users.values():
            cuts = [user for user in after if isinstance(user, Cut)]
            for cut in cuts:
                cut.fills = len(cuts) == len(after) and cut.shares_out(cuts)
        for step in self.steps:
            after = users[step.output]
            if isinstance(step, (Convolution, Diagonal)):
                step.owns_cotangent = len(after) == 1 and isinstance(after[0], FRESH)
            if isinstance(step, Diagonal) and step.keeps_size:
                (before,) = step.inputs
                step.owns_tangent = len(users[before]) == 1 and isinstance(makers.get(before), FRESH)

    def apply(self, V: Tensor) -> Tensor:
        """J v for each v of V (c, *input_size)."""
        if self.result is None:
            return V.new_zeros(len(V), *self.output.shape)
        single = len(V) == 1
        slots = {0: V[0] if single else V}
        for step, dead in zip(self.steps, self._dead, strict=True):
            tangents = [slots[i] for i in step.inputs]
            for i in dead:
                del slots[i]
            slots[step.output] = step.apply(*tangents) if single else _apply(step, tangents)
            del tangents
        return slots[self.result].unsqueeze(0) if single else slots[self.result]

    def transpose(self, U: Tensor) -> Tensor:
        """J' u for each u of U (c, *output.shape)."""
        single = len(U) == 1
        slots = {} if self.result is None else {self.result: U[0] if single else U}
        owned: set[int] = set()  # slots whose tensor nobody else holds
        for step in reversed(self.steps):
            if step.output not in slots:
                continue
            g = slots.pop(step.output)
            if isinstance(step, Cut) and step.inputs[0] in owned:
                step.add_back(g, slots[step.inputs[0]])
                continue
            parts = step.transpose(g) if single else _transpose(step, g)
            del g
            for i, h in zip(step.inputs, parts, strict=True):
                if i in owned:
                    slots[i] += h
                    continue
                if i in slots or isinstance(step, FRESH_BACK):
                    owned.add(i)
                slots[i] = slots[i] + h if i in slots else h
            del parts, h
        if 0 not in slots:
            return U.new_zeros(len(U), *self.input_size)
        return slots[0].unsqueeze(0) if single else slots[0]

    def __repr__(self) -> str:
        kinds = [type(step).__name__.lower() for step in self.steps]
        return f"Program({', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))})"

    def to(self, dtype: torch.dtype) -> Program:
        """The program with its constants in another precision."""
        return replace(self, steps=[step.to(dtype) for step in self.steps])

    def in_layout(self, channels_last: bool) -> Program:
        """The program with images and gates channels last, or in torch's own layout."""
        return replace(self, steps=[_in_layout(step, channels_last) for step in self.steps])

    def in_faster_layout(self) -> Program:
        """Itself, or the program in torch's own layout, whose J v and J' u must be faster by 1 - GAIN.

        Kernels that need channels last are faster than any that would do without; and where products of
        matrices are most of the work, as behind the patches of a transformer, there is nothing to gain.  Nor
        is there in a millisecond, where a busy machine would decide, another way and other last digits each
        time.
        """
        parts = parts_of(self.steps)
        convolutions = [part for part in parts if isinstance(part, Convolution)]
        if not convolutions or any(part.by_winograd for part in convolutions):
            return self
        work = {Convolution: 0, Matmul: 0}
        for part in parts:
            if isinstance(part, (Convolution, Matmul)):
                work[type(part)] += part.depth * self.entries[part.output]
        if work[Convolution] < max(work[Matmul], LITTLE):
            return self
        other = self.in_layout(False)
        return other if other.seconds() < GAIN * self.seconds() else self

    @property
    def leaves_room_to_gain(self) -> bool:
        """Whether there is more than convolutions and slopes: of that a graph's way back may be faster."""
        return any(isinstance(part, (Matmul, Attention, Pointwise, Local)) for part in self.steps)

    def seconds(self) -> float:
        """What J v and J' u take together, once they have been formed before."""
        V, U = (self.output.new_ones(1, *size) for size in (self.input_size, self.output.shape))
        for _ in range(2):
            began = time.perf_counter()
            self.apply(V), self.transpose(U)
            if V.is_cuda:
                torch.cuda.synchronize(V.device)
            taken = time.perf_counter() - began
        return taken

    def select(self, index: Tensor) -> Program | None:
        """The program for some of the inputs that the first axis counts, where every step can tell."""
        n = self.input_size[0]
        steps = [step.select(index, n) for step in self.steps]
        kept = [step for step in steps if step is not None]
        if len(kept) < len(steps) or not counts(self.output.shape, n):
            return None
        entries = {slot: count * len(index) // n for slot, count in self.entries.items()}
        return Program(kept, self.result, some(self.input_size, index), self.output[index], entries)

    def reach(self) -> Reach:
        """How far along an image's rows it looks; see `reach_of`."""
        return reach_of(self.steps, self.result, self.input_size, self.output.shape)

    @property
    def bytes(self) -> int:
        """What its steps hold: gates, slopes and kernels, each storage once."""
        return sum(storages(self.steps).values())

    @property
    def live_entries(self) -> int:
        """The most entries that one vector's product with J holds at once."""
        live, most = {0}, 0
        for step, dead in zip(self.steps, self._dead, strict=True):
            live.add(step.output)
            most = max(most, sum(self.entries[i] for i in live))
            live.difference_update(dead)
        return most


class Chunks:
    """A product of blocks, in chunks of the size that is fastest, fewer where memory runs out.

    Sizes 1, 2, 4, ... are timed on the blocks that come, as long as that gains and there is room; on a CPU
    one image often keeps every core busy.  Rounding may differ between sizes, in the last digits.

    Attributes:
        size: vectors at once.
        growing: whether twice as many are still to be tried.
    """

    def __init__(self, vector_bytes: int) -> None:
        self.vector_bytes = vector_bytes
        self.size, self.growing = 1, True
        self._taken: dict[int, list[float]] = {}

    def __call__(self, product: Product, V: Tensor) -> Tensor:
        """product(V) for V (m, ...), chunk by chunk."""
        done: list[Tensor] = []
        at = 0
        while at < len(V):
            size = self._next(len(V) - at, V.device)
            timed = self._undecided(size, len(V))
            began = time.perf_counter()
            try:
                done.append(product(V[at : at + size]))
            except RuntimeError as failure:
                if size == 1 or not out_of_memory(failure):
                    raise
                self.size, self.growing = size // 2, False
                continue
            at += size
            if timed:
                if V.is_cuda:
                    torch.cuda.synchronize(V.device)
                self._learn(size, time.perf_counter() - began)
        return done[0] if len(done) == 1 else torch.cat(done)

    def _next(self, left: int, device: torch.device) -> int:
        """The size in use; once it was timed, twice that."""
        twice = 2 * self.size
        if self.growing and twice <= left and len(self._taken.get(self.size, ())) > 1:
            room = free_bytes(device) // (2 * max(self.vector_bytes, 1))
            if twice <= room:
                return twice
        return min(self.size, left)

    def _undecided(self, size: int, block: int) -> bool:
        """Whether the time of a chunk is of use, as it makes the host wait for a GPU: two of each size are,
        in blocks that could go in larger chunks."""
        return self.growing and 2 * self.size <= block and len(self._taken.get(size, ())) < 2

    def _learn(self, size: int, seconds: float) -> None:
        """Two timings of a size decide, the first being the dearer for what it sets up."""
        taken = self._taken.setdefault(size, [])
        taken.append(seconds / size)
        if size > self.size and len(taken) > 1:
            if min(taken) < GAIN * min(self._taken[self.size]):
                self.size = size
            else:
                self.growing = False


def _in_layout(step: Step, channels_last: bool) -> Step:
    if isinstance(step, (Convolution, Joint, Norm)):
        return step.in_layout(channels_last)
    return replace(step, slope=laid_out(step.slope, channels_last)) if isinstance(step, Diagonal) else step


def storages(thing: Any) -> dict[int, int]:
    """The bytes of each storage that steps, and what they are made of, hold at any depth, by its address."""
    held: dict[int, int] = {}
    pending, visited = [thing], set[int]()
    while pending:
        one = pending.pop()
        if id(one) in visited:
            continue
        visited.add(id(one))
        if isinstance(one, Tensor):
            if one.layout is torch.strided:
                held[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
            else:  # packed weights
                held[id(one)] = one.numel() * one.element_size()
        elif isinstance(one, (list, tuple)):
            pending += one
        elif isinstance(one, dict):
            pending += one.values()
        elif type(one).__module__.startswith("spectral.") and hasattr(one, "__dict__"):
            pending += vars(one).values()
    return held


def parts_of(steps: list[Step]) -> list[Step]:
    """The steps, with its convolutions in place of each that joins several."""
    return [part for step in steps for part in (step.parts if isinstance(step, Joint) else [step])]


def users_of(steps: list[Step], result: int | None) -> dict[int | None, list[Step | None]]:
    """The steps that look at each slot; None stands for the caller, who looks at the result."""
    users: dict[int | None, list[Step | None]] = {result: [None]}
    for step in steps:
        for i in step.inputs:
            users.setdefault(i, []).append(step)
    return users


def _apply(step: Step, blocks: list[Tensor]) -> Tensor:
    """`step.apply` on blocks with a leading axis."""
    if step.leading == "free":
        return step.apply(*blocks)
    if step.leading == "merged":
        return step.apply(*(t.flatten(0, 1) for t in blocks)).unflatten(0, (len(blocks[0]), -1))
    return _mapped(step.apply, *blocks)


def _transpose(step: Step, g: Tensor) -> tuple[Tensor, ...]:
    """`step.transpose` on a block with a leading axis."""
    if step.leading == "free":
        return step.transpose(g)
    if step.leading == "merged":
        return tuple(h.unflatten(0, (len(g), -1)) for h in step.transpose(g.flatten(0, 1)))
    return _mapped(step.transpose, g)


def _mapped(product: Callable[..., Any], *blocks: Tensor) -> Any:
    """A product of each vector of a block: at once where torch.vmap can, or one by one."""
    try:
        return torch.vmap(product)(*blocks)
    except RuntimeError as failure:
        if out_of_memory(failure):
            raise
    each = [product(*vectors) for vectors in zip(*blocks, strict=True)]
    if isinstance(each[0], Tensor):
        return torch.stack(each)
    return tuple(torch.stack(part) for part in zip(*each, strict=True))
