"""Memory for vectors that go through a network at once: how much there is, and whether it ran out."""

from __future__ import annotations

import os

import torch


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 1 << 30


def out_of_memory(failure: RuntimeError) -> bool:
    """On CPUs torch says so in the text of a plain RuntimeError."""
    return isinstance(failure, torch.OutOfMemoryError) or "not enough memory" in str(failure)
