"""Devices, precision and processes.

One process on a CPU in float32 needs nothing but torch.  Everything else (GPUs, bfloat16, torchrun) goes by
Lightning Fabric, an optional install: pip install 'jacobian-spectra[training]'.  It was taken over
accelerate since it leaves the loop as it is, reads torchrun's variables by itself, and needs neither
huggingface_hub nor a configuration file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from denoisers.training.config import TrainConfig
from spectral.errors import OptionError, RankError
from spectral.operators.ranks import first_line
from spectral.options import variable


class Engine(Protocol):
    """Where and how a network is trained."""

    device: torch.device
    rank: int
    world: int

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The network as it is called, and its optimiser, on the device."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, the mean over processes."""

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""

    def mean(self, value: Tensor) -> float:
        """The mean over processes."""

    def reaching(self) -> AbstractContextManager[None]:
        """While others are waited for: one that is lost is told in one sentence.

        Raises:
            RankError: one was.
        """

    def leave(self) -> None:
        """Wait until all are here, and end what connects them: a process that ended in the midst of it might
        crash, or be taken for lost.
        """


class Plain:
    """One process, float32, on the CPU."""

    device, rank, world = torch.device("cpu"), 0, 1

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Both as they are."""
        return network, optimizer

    def backward(self, loss: Tensor) -> None:
        """loss.backward()."""
        loss.backward()

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def mean(self, value: Tensor) -> float:
        """The value."""
        return float(value)

    def reaching(self) -> AbstractContextManager[None]:
        """There are none."""
        return nullcontext()

    def leave(self) -> None:
        """There are none."""


class ByFabric:
    """Processes of torchrun, GPUs, and bfloat16, by Lightning Fabric."""

    def __init__(self, config: TrainConfig, device: str) -> None:
        try:
            from lightning_fabric import Fabric  # noqa: PLC0415  an optional install
        except ImportError as error:
            raise OptionError(
                "GPUs, bfloat16 and several processes need Lightning Fabric: "
                "pip install 'jacobian-spectra[training]'"
            ) from error
        processes = variable("LOCAL_WORLD_SIZE", 1)
        nodes = variable("WORLD_SIZE", 1) // processes
        self._fabric = Fabric(
            accelerator=device,
            devices=processes,
            num_nodes=nodes,
            strategy="ddp" if processes * nodes > 1 else "auto",
            precision="bf16-mixed" if config.precision == "bfloat16" else "32-true",
        )
        self._connects = not (distributed.is_available() and distributed.is_initialized())
        with _without_hint():
            self._fabric.launch()
        self.device = self._fabric.device
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Both on the device; gradients are averaged over the processes."""
        grouped = any(isinstance(part, nn.GroupNorm) for part in network.modules())
        if self.device.type == "cuda" and not grouped:
            # As tensor cores read convolutions; group norm's kernels would turn each map round and back.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._fabric.setup(network, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, the mean over processes."""
        self._fabric.backward(loss)

    def any(self, flag: bool) -> bool:
        """Whether it is set in some process: all leave the loop at one step."""
        return self.mean(torch.tensor(float(flag))) > 0

    def mean(self, value: Tensor) -> float:
        """The mean over processes."""
        if self.world == 1:
            return float(value)
        total = value.detach().to(self.device, torch.float64).clone()
        distributed.all_reduce(total)
        return float(total) / self.world

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """See `Engine`."""
        try:
            yield
        except RuntimeError as failure:
            if self.world == 1 or not re.search("gloo|nccl", str(failure), re.IGNORECASE):
                raise
            raise RankError(
                f"process {self.rank} of {self.world} has lost another, which ended or did not answer "
                f"({first_line(failure)}): look at what that one said last, and start all again with "
                "torchrun and resume=True, which goes on from the checkpoint, with any number of processes"
            ) from failure

    def leave(self) -> None:
        """See `Engine`; processes that were connected before stay so."""
        if self.world > 1:
            distributed.barrier()
            if self._connects:
                distributed.destroy_process_group()


@contextmanager
def _without_hint() -> Iterator[None]:
    """Fabric advises TensorFloat-32 for matrices: these networks convolve, where torch has it by default."""

    def others(record: logging.LogRecord) -> bool:
        return "set_float32_matmul_precision" not in record.getMessage()

    log = logging.getLogger("lightning_fabric.utilities.rank_zero")
    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


def engine_of(config: TrainConfig, device: str) -> Engine:
    """The engine for a device: "cpu", "cuda", or "auto", a GPU where there is one.

    Raises:
        OptionError: there is no such device, Lightning Fabric is needed and missing, or the batch cannot be
            shared out evenly.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device is 'auto', 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("no GPU is to be seen by torch: train on the CPU, or install torch's CUDA build")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    world = variable("WORLD_SIZE", 1)
    if config.batch % world:
        raise OptionError(f"a batch of {config.batch} cannot be shared out evenly over {world} processes")
    plain = device == "cpu" and world == 1 and config.precision == "float32"
    return Plain() if plain else ByFabric(config, device)
