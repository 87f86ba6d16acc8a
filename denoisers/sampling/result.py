"""What samplers return: images, how they were come by, and pictures of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from denoisers.images.grid import write_grid
from spectral.base import Result
from spectral.errors import OptionError
from spectral.plots import inline


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Samples(Result):
    """Images drawn with a denoiser as the prior; tensors are on the CPU.

    Attributes:
        images: (B, C, H, W), the last denoised images, nothing clipped.
        sigmas: (B, T), the noise level of each image at each step, NaN once it has stopped.
        steps: (B,), the steps that each image took.
        converged: (B,), whether it came to `sigma_end`.
        sigma_end: the level that was asked for.
        trajectory: (B, F, C, H, W), images denoised in one shot on the way, the last ones at the end; None
            unless asked for.
        frames: the F steps that these belong to.
        method: by what.
        seed, first: image i is number first + i of the seed.
        evaluations: images that went through the model.
        seconds: of wall time.
        notes: what the user should know: images that stopped short, an interruption.
    """

    images: Tensor
    sigmas: Tensor
    steps: Tensor
    converged: Tensor
    sigma_end: float
    method: str
    seed: int
    first: int
    evaluations: int
    seconds: float
    trajectory: Tensor | None = None
    frames: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        count, *shape = self.images.shape
        low, high = int(self.steps.min()), int(self.steps.max())
        steps = f"{low}" if low == high else f"{low} to {high}"
        last = self.sigmas.nan_to_num(math.inf).amin(1)
        lines = [
            f"Samples({count} of {'x'.join(map(str, shape))}; {self.method}; seed {self.seed})",
            f"  values       from {self.images.min():.3f} to {self.images.max():.3f}",
            f"  sigma        {self.sigmas[:, 0].max():.3g} to {last.max():.3g} (asked {self.sigma_end:g}), "
            f"{int(self.converged.sum())} of {count} converged",
            f"  steps        {steps}, {self.evaluations} evaluations in {self.seconds:.2f} s",
        ]
        if self.trajectory is not None:
            lines.append(f"  trajectory   {len(self.frames)} frames")
        return "\n".join([*lines, *(f"  note         {note}" for note in self.notes)])

    def _table(self) -> tuple[str, list[tuple[str, str]]]:
        title, *lines = repr(self).splitlines()
        return title, [(line[2:14].strip(), line[15:]) for line in lines]

    def _picture(self) -> str:
        first = enumerate(self.images[: inline.MOST], self.first)
        return inline.images([(f"number {i}", x, False) for i, x in first])

    def save_png(self, path: str | Path, columns: int | None = None) -> Path:
        """Write the images as one PNG, row by row, as near a square as can be unless `columns` is given."""
        return write_grid(path, self.images, columns)

    def save_trajectory(self, path: str | Path) -> Path:
        """Write the frames as one PNG, an image's in a row.

        Raises:
            OptionError: none were kept.
        """
        if self.trajectory is None:
            raise OptionError("no frames were kept: sample with every=10, say")
        return write_grid(path, self.trajectory.flatten(0, 1), self.trajectory.shape[1])
