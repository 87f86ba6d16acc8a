"""The trace of J by Gaussian probes, a number of them fixed beforehand.

    tr J = E z' J z,    z ~ N(0, 1).

Source: Kamkari et al., NeurIPS 2024 (FLIPD, local intrinsic dimension), and its code (dgm_geometry),
which spends thousands of probes on latents and tells the mean alone.  As there: J z by forward mode,
some at a time.
"""

import torch
from torch import Tensor

from benchmarks.peers.answer import Answer, Network, forward_mode

AT_ONCE = 4


def probes(f: Network, y: Tensor, number: int) -> Answer:
    """The mean over `number` probes."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    images = y.repeat(AT_ONCE, 1, 1, 1)
    for _ in range(number // AT_ONCE):
        z = torch.randn(images.shape, generator=generator)
        with forward_mode():
            total += (z * torch.func.jvp(f, (images,), (z,))[1]).sum().item()
    spent = number // AT_ONCE * AT_ONCE
    return Answer(torch.tensor(total / spent, dtype=torch.float64), spent)
