"""A stand-in for a GPU: tensors that claim its side, compute on the CPU, and count the waits of the host.

    with StandIn() as gpu:
        spectral.top_eigs(M.to(DEVICE), k=3)
    gpu.waits, gpu.uploads

As on a GPU, an operation on tensors of both sides is refused, but for those without dimensions and for
indices, which CUDA takes from the host.  The host waits where it needs a value from the device, and in copies
to the device that are not `non_blocking`, as torch's do.  What a vendor's library waits for is not seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from spectral.jacobians.program.steps import Operation
from tests.helpers.waiting import WAITING

DEVICE = torch.device("meta")  # torch indexes tensors of "cuda" itself, and fails without its hardware

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class OnDevice(Tensor):
    """A tensor of the stand-in, `held` on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        tensor = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **layout)
        tensor.held = held
        return tensor

    def __repr__(self) -> str:
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{op} outside of the stand-in's context")


class StandIn(TorchDispatchMode):
    """The context in which the stand-in computes.

    waits: how often the host waited for the device, by reason; uploads: copies to the device that it did not
    wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, structure = tree_flatten((args, kwargs or {}))
        ours = {id(x.held): x for x in flat if isinstance(x, OnDevice)}
        device = (kwargs or {}).get("device")
        there = bool(ours) if device is None else torch.device(device).type == DEVICE.type
        if op is aten._to_copy.default:
            self._copy(args[0], there, bool((kwargs or {}).get("non_blocking")))
        elif op is aten.copy_.default:
            there = isinstance(args[0], OnDevice)
            self._copy(args[1], there, len(args) > 2 and args[2])
        elif ours:
            self._enter(op, args, [x for x in flat if isinstance(x, Tensor)])

        def bare(x: Any) -> Any:
            if isinstance(x, OnDevice):
                return x.held
            return torch.device("cpu") if isinstance(x, torch.device) else x

        def dressed(x: Any) -> Any:
            if not isinstance(x, Tensor) or not there:
                return x
            return ours[id(x)] if id(x) in ours else OnDevice(x)

        args, kwargs = tree_unflatten([bare(x) for x in flat], structure)
        return tree_map(dressed, op(*args, **kwargs))

    def _copy(self, source: Tensor, there: bool, non_blocking: bool) -> None:
        """Count a copy from one side to the other."""
        if isinstance(source, OnDevice) and not there:
            self.waits["copy to the host"] += 1
        elif there and not isinstance(source, OnDevice):
            if non_blocking:
                self.uploads += 1
            else:
                self.waits["copy to the device"] += 1

    def _enter(self, op: Any, args: Any, tensors: list[Tensor]) -> None:
        """Refuse tensors of both sides, and count what waits."""
        indices = [x for x in args[1] if x is not None] if op in INDEXING else []
        taken = {id(x) for x in indices} if isinstance(args[0], OnDevice) else set()
        for x in tensors:
            if not isinstance(x, OnDevice) and (x.ndim or x.is_meta) and id(x) not in taken:
                raise RuntimeError(f"{op}: all tensors must be on the same device, one of {x.shape} is not")
        self.waits.update("copy to the device" for x in indices if not isinstance(x, OnDevice))
        if op.overloadpacket in WAITING or any(x.dtype == torch.bool for x in indices):
            self.waits[str(op.overloadpacket)] += 1


def moved(x: Any) -> Any:
    """A frozen program, or a part of one, with its constants on the stand-in."""
    if isinstance(x, Tensor):
        return x.to(DEVICE)
    if isinstance(x, list | tuple) and not isinstance(x, torch.Size):
        return type(x)(map(moved, x))
    if isinstance(x, Operation):
        return x._holding(moved)
    if not is_dataclass(x):
        return x
    # Kernels, which are chosen by device, are made anew.
    return replace(x, **{f.name: moved(getattr(x, f.name)) for f in fields(x) if f.init})
