"""The processes that share one problem, as torchrun starts them, and all that they tell each other.

Two kinds of message go round, both by torch.distributed: small matrices, which every process gathers in the
order of ranks and adds in that order, so that all have the same bits and take the same decisions; and blocks
of rows, from one process to another.  The small ones go by Gloo on the CPU, and carry how many there were,
which tells processes that have gone apart, and whether Ctrl-C was met, so that all stop at one place.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import functional

from spectral import errors
from spectral.errors import OptionError, RankError, SpectralError
from spectral.options import variable

T = TypeVar("T")

TIMEOUT = 600.0  # seconds
TOGETHER = 1.0  # seconds: torchrun and a terminal both send an interruption, which is one


class Ranks:
    """The processes, of which this is number `rank` of `size`; one alone sends nothing.

    Attributes:
        rank, size: from 0, and how many.
        sent, received: bytes of rows exchanged so far by this process.
        gathered: bytes of small matrices that this process gave.
        lost: of a process that was lost, how; nothing is sent any more.
    """

    def __init__(self, rank: int = 0, size: int = 1, timeout: float = TIMEOUT) -> None:
        self.rank, self.size = rank, size
        self.sent = self.received = self.gathered = 0
        self._count, self.lost = 0, ""
        self._interrupted: float | None = None
        self._guards = self._calls = 0
        self._small: Any = None
        self._large: dict[str, Any] = {}
        self._timeout = timedelta(seconds=timeout)
        if size > 1:
            self._small = self._large["cpu"] = distributed.new_group(backend="gloo", timeout=self._timeout)

    @classmethod
    def of_process(cls, timeout: float = TIMEOUT) -> Ranks:
        """Those of torch.distributed, set up from torchrun's variables where nobody has; else one alone.

        Args:
            timeout: seconds without a word from another process after which it is given up.

        Raises:
            OptionError: this torch has no Gloo.
            RankError: the others could not be reached.
        """
        if not (distributed.is_available() and distributed.is_gloo_available()):
            if variable("WORLD_SIZE", 1) > 1:
                raise OptionError("several processes need torch.distributed with Gloo: this torch has none")
            return cls()
        try:
            if not distributed.is_initialized():
                if variable("WORLD_SIZE", 1) == 1:
                    return cls()
                distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout))
                atexit.register(_leave)
            rank, size = distributed.get_rank(), distributed.get_world_size()
            return cls(rank, size, timeout) if size > 1 else cls()
        except (RuntimeError, ValueError) as failure:
            raise RankError(
                f"the processes could not find each other: {first_line(failure)}; start them with torchrun"
            ) from failure

    # Small matrices

    def gather(self, *tensors: Tensor) -> list[Tensor]:
        """Each tensor of all processes in the order of ranks, (size, *its shape), float64 on the CPU.

        Shapes are the same everywhere.  In all processes at the same call, KeyboardInterrupt where one was
        interrupted.

        Raises:
            RankError: a process is lost, or does something else.
        """
        if any(t.is_complex() for t in tensors):
            pairs = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
            every = zip(tensors, self.gather(*pairs), strict=True)
            return [torch.view_as_complex(g) if t.is_complex() else g for t, g in every]
        own = [t.detach().to("cpu", torch.float64) for t in tensors]
        told = torch.tensor([self._count, self._interrupted is not None], dtype=torch.float64)
        message = torch.cat([told, *(t.reshape(-1) for t in own)])
        self._count += 1
        rows = self._all(message)
        if bool((rows[:, 0] != rows[0, 0]).any()):
            self.lost = (
                "the processes have gone apart: one of them took another decision, as different machines or "
                "versions may; start them all alike"
            )
            raise RankError(self.lost)
        if bool(rows[:, 1].any()):
            self._interrupted = None
            raise KeyboardInterrupt
        parts = rows[:, 2:].split([t.numel() for t in own], dim=1)
        return [part.reshape(self.size, *t.shape) for part, t in zip(parts, own, strict=True)]

    def _all(self, message: Tensor) -> Tensor:
        if self.size == 1:
            return message[None]
        rows = message.new_empty(self.size, len(message))
        self.gathered += message.numel() * message.element_size()
        with self._reaching("a process"):
            distributed.all_gather(list(rows.unbind()), message, group=self._small)
        return rows

    def sum(self, t: Tensor) -> Tensor:
        """The sum over the processes, added up in the order of ranks: the same bits everywhere."""
        if self.size == 1:
            return t
        return self.gather(t)[0].sum(0).to(t)

    def largest(self, number: float) -> float:
        """The largest of a number that each process has."""
        return self.gather(torch.tensor(number))[0].max().item()

    def first(self, flag: bool) -> bool:
        """What the first process says: a decision that goes by its clock, or its memory."""
        return bool(self.gather(torch.tensor(float(flag)))[0][0])

    def agree(self, work: Callable[[], T]) -> T:
        """work(), which sends nothing; where it fails in one process, it fails in all.

        Raises:
            SpectralError: it has failed elsewhere, and how; as there, or RankError.
            Exception: it has failed here.
        """
        failure: Exception | None = None
        try:
            done = work()
        except Exception as reason:
            failure = reason
        if not self.largest(float(failure is not None)):
            return done
        reasons = self.words("" if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, said in enumerate(reasons):
            if said:
                kind, _, text = said.partition(": ")
                same = getattr(errors, kind, None)
                if same is None or not issubclass(same, SpectralError):
                    raise RankError(f"process {rank} of {self.size} says: {said}")
                raise same(f"{text} (process {rank} of {self.size})")
        raise AssertionError("one of them has failed")

    def words(self, text: str) -> list[str]:
        """A text of each process, cut off after 10,000 bytes: how long they are first, then all of them."""
        held = torch.tensor(list(text.encode()[:10_000]), dtype=torch.uint8)
        lengths = [int(n) for n in self.gather(torch.tensor(len(held)))[0]]
        every = self.gather(functional.pad(held, (0, max(lengths) - len(held))))[0].to(torch.uint8)
        parts = zip(every.tolist(), lengths, strict=True)
        return [bytes(part[:n]).decode(errors="replace") for part, n in parts]

    def apart(self, asked: Mapping[str, Any]) -> dict[str, list[str]]:
        """What the processes are not asked alike: {name: what each was, in the order of ranks}.

        A digest of all of it is compared, one message of one size whatever they are asked: processes that
        are asked to send others than are waited for would wait for each other for as long as `timeout`.
        """
        text = json.dumps(asked, sort_keys=True)
        every = self.gather(torch.tensor(list(hashlib.sha256(text.encode()).digest())))[0]
        if bool((every == every[0]).all()):
            return {}
        told = [_parsed(one) for one in self.words(text)]
        names = dict.fromkeys(name for one in told for name in one)
        values = {name: [str(one.get(name, "nothing of the kind")) for one in told] for name in names}
        return {name: every for name, every in values.items() if len(set(every)) > 1}

    @contextlib.contextmanager
    def in_step(self, asked: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """A call that all processes make, the same one; Ctrl-C is met by all.  One inside of it is let be.

        Raises:
            OptionError: they are asked for different things.
        """
        self._calls += 1
        try:
            with self.interruptible():
                apart = self.apart(asked()) if self.size > 1 and self._calls == 1 else {}
                if apart:
                    apart = {"call": apart["call"]} if "call" in apart else apart
                    raise OptionError(f"the processes are asked for different things: {unlike(apart)}")
                yield
        finally:
            self._calls -= 1

    # Rows

    def exchange(self, to: dict[int, Tensor], into: dict[int, Tensor]) -> None:
        """Send a tensor to each of some processes, and fill one from each of some.

        Raises:
            RankError: a process is lost.
        """
        to, into = ({r: t for r, t in part.items() if t.numel()} for part in (to, into))
        device = next((t.device for t in (*to.values(), *into.values())), torch.device("cpu"))
        group, direct = self._group_for(device)
        landing = {r: t if direct and t.is_contiguous() else _like(t, direct) for r, t in into.items()}
        leaving = {r: t.contiguous() if direct else t.cpu().contiguous() for r, t in to.items()}
        operations = [distributed.P2POp(distributed.irecv, t, r, group) for r, t in sorted(landing.items())]
        operations += [distributed.P2POp(distributed.isend, t, r, group) for r, t in sorted(leaving.items())]
        if operations:
            peers = sorted({*to, *into})
            with self._reaching("process " + " or ".join(map(str, peers))):
                for work in distributed.batch_isend_irecv(operations):
                    work.wait()
        for r, t in landing.items():
            if t is not into[r]:
                into[r].copy_(t)
        self.sent += sum(t.numel() * t.element_size() for t in leaving.values())
        self.received += sum(t.numel() * t.element_size() for t in landing.values())

    def _group_for(self, device: torch.device) -> tuple[Any, bool]:
        """The group that carries tensors of a device, and whether it does without a copy on the CPU."""
        if device.type != "cuda" or not distributed.is_nccl_available():
            return self._large.get("cpu"), device.type == "cpu"
        if "cuda" not in self._large:
            self._large["cuda"] = distributed.new_group(backend="nccl", timeout=self._timeout)
        return self._large["cuda"], True

    @contextlib.contextmanager
    def _reaching(self, whom: str) -> Iterator[None]:
        """While others are waited for: what torch says of them, in one sentence."""
        if self.lost:
            raise RankError(self.lost)
        try:
            yield
        except SpectralError:
            raise
        except (RuntimeError, ValueError) as failure:
            self.lost = (
                f"process {self.rank} of {self.size} has lost {whom}, which ended or did not answer within "
                f"{self._timeout.total_seconds():.0f} s ({first_line(failure)}): look at what that one said "
                "last, and start all again with torchrun; a solve with checkpoint= goes on from its file, "
                "with any number of processes"
            )
            raise RankError(self.lost) from failure

    # Ctrl-C

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While a solve runs: Ctrl-C in one process is met by all at their next common call.

        Raised wherever each process stands, it would leave them waiting for each other.  A second one, while
        the first has not been met, ends the process; one that no call has met is raised at the end.
        """
        here = threading.current_thread() is threading.main_thread()
        if self.size == 1 or not here or self._guards:
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            before, self._interrupted = self._interrupted, time.monotonic()
            if before is not None and self._interrupted - before > TOGETHER:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, note)
        self._guards += 1
        try:
            yield
            if self._interrupted is not None:
                raise KeyboardInterrupt
        finally:
            self._guards -= 1
            self._interrupted = None
            signal.signal(signal.SIGINT, before)


def unlike(apart: Mapping[str, list[str]]) -> str:
    """What `Ranks.apart` found, in a sentence: the first process and one that differs from it."""
    told = []
    for name, every in apart.items():
        other = next(rank for rank, value in enumerate(every) if value != every[0])
        told.append(f"{name} = {every[0]:.80} in process 0, and {every[other]:.80} in process {other}")
    return "; ".join(told)


def _parsed(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError:  # cut off
        return {"what is asked": text}


def _leave() -> None:
    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def _like(t: Tensor, direct: bool) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device=t.device if direct else "cpu")


def first_line(failure: BaseException) -> str:
    """What torch says of a connection, without a place in Gloo's source, and its advice."""
    text = str(failure).strip().split("\n")[0]
    text = re.sub(r"^\[\S+\] ", "", text).split(". ")[0]
    return text[:300] or type(failure).__name__
