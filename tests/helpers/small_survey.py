"""A small network, pictures, and a program that surveys them, which tests stop and share out.

    python tests/helpers/small_survey.py FOLDER LOG COUNT SIDE [BROKEN]

writes a line to LOG for every image solved; of the COUNT pictures of SIDE x SIDE, BROKEN cannot be read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import spectral
from spectral.survey.solver import Solver

SIGMAS = [0.2, 0.1]
SIDE = 12


class Network(nn.Module):
    """W' relu(W y) and a little of another convolution: nearly symmetric, as a denoiser, and not linear."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(6, 1, 5, 5) / 12)
        self.other = nn.Conv2d(1, 1, 5, padding=2, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        kept = functional.conv2d(y, self.weight, padding=2).relu()
        return functional.conv_transpose2d(kept, self.weight, padding=2) + 0.1 * self.other(y)


def network(seed: int = 0) -> nn.Module:
    """With the weights of a seed."""
    return Network(seed).requires_grad_(False).eval()


def picture(i: int, side: int = SIDE) -> Tensor:
    """A smooth wave in [0, 1], (1, side, side)."""
    t = torch.linspace(0, 1, side)
    return 0.5 + 0.5 * torch.sin(3 * t[:, None] * (1 + i % 7) + 5 * t * (1 + i % 11) + i)[None]


def unreadable() -> Tensor:
    """What a corrupt picture does."""
    raise OSError("image file is truncated")


def pictures(count: int, broken: int | None = None, side: int = SIDE) -> dict[str, Callable[[], Tensor]]:
    """Pictures by name, made when they are read."""
    return {f"{i:03d}": unreadable if i == broken else partial(picture, i, side) for i in range(count)}


def main(folder: str, log: str, count: str, side: str, broken: str = "-1") -> None:
    """Survey, telling of every image solved before anything is written."""
    solve = Solver.__call__

    def told(
        self: Solver, names: list[str], images: list[Tensor], sigma: float, start: Tensor | None
    ) -> object:
        found = solve(self, names, images, sigma, start)
        with Path(log).open("a") as file:
            file.write("".join(f"{os.environ.get('RANK', '0')} {name} {sigma!r}\n" for name in names))
        return found

    Solver.__call__ = told  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    spectral.survey(network(), pictures(int(count), int(broken), int(side)), SIGMAS, 4, out=folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
