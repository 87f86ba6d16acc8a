"""The spectra of images of one size at one noise level, solved together as far as memory allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spectral.estimators import effective_rank
from spectral.estimators.results import Estimate
from spectral.jacobians.free_memory import free_bytes
from spectral.jacobians.jacobian import jacobian
from spectral.jacobians.model import modules_in
from spectral.options import variable
from spectral.results import EigenPairs
from spectral.risk.level import with_level
from spectral.solvers.search import interrupted
from spectral.survey.images import noise
from spectral.survey.request import PARTS
from spectral.survey.table import Spectrum

# Entries of images solved together: more of them gain nothing on a CPU.
ENTRIES = {"cpu": 1 << 18}
ELSEWHERE = 1 << 21
MOST = 32  # images together


@dataclass(frozen=True)
class Solver:
    """How every image is solved.

    Attributes:
        model: f, from y to what is differentiated.
        part, k, seed, options: what is sought, and the solver's keywords.
        batch: images together, at most; None for as many as are of use.
        rank_products: with J and J' together, for the effective rank; 0 to do without.
        sigma_keyword, model_kwargs: how the model is told the noise level, and what else.
    """

    model: Callable[..., Any]
    part: str
    k: int
    seed: int
    options: Mapping[str, Any]
    batch: int | None
    rank_products: int
    sigma_keyword: str | None
    model_kwargs: Mapping[str, Any] | None

    def __call__(
        self, names: list[str], images: list[Tensor], sigma: float, start: Tensor | None
    ) -> list[tuple[Spectrum, Estimate | None, float]]:
        """A spectrum, an effective rank and seconds of each image.

        Args:
            names: by which their noise is drawn.
            images: of one shape.
            sigma: the noise level.
            start: (B, m, *shape), vectors that the solve starts from.

        Raises:
            KeyboardInterrupt: the solve was interrupted; what it had is no result.
        """
        began = time.perf_counter()
        y = torch.stack([self._noisy(name, x, sigma) for name, x in zip(names, images, strict=True)])
        J = jacobian(self.model, y, batched=True, model_kwargs=self.keywords(sigma))
        solve = PARTS[self.part][0]
        found = solve(J, None, self.k, seed=self.seed, start=start, **self.options)
        if interrupted(found.notes):
            raise KeyboardInterrupt
        rank = None
        if self.rank_products:
            rank = effective_rank(J, products=self.rank_products, seed=self.seed)
        share = (time.perf_counter() - began) / len(names)
        if len(names) > 1:
            together = f"of {len(names)} images solved together: "
            found = replace(found, notes=[together + note for note in found.notes])
        each = (found.image(i) for i in range(len(names)))
        return [(one, None if rank is None else rank.image(i), share) for i, one in enumerate(each)]

    def keywords(self, sigma: float) -> dict[str, Any]:
        """The model's keywords at a noise level.

        Raises:
            OptionError: the model has a parameter sigma that nothing sets, or two do.
        """
        return with_level(self.model, sigma, self.sigma_keyword, self.model_kwargs)

    def useful(self, shape: torch.Size) -> int:
        """How many images of a shape gain by being solved together."""
        entries = ENTRIES.get(self._place(torch.float32)[0].type, ELSEWHERE)
        return max(1, min(MOST, entries // max(math.prod(shape), 1)))

    def together(self, shape: torch.Size) -> int:
        """How many images of a shape are solved together: of use, and held by memory."""
        if self.batch is not None:
            return self.batch
        device, dtype = self._place(torch.float32)
        n = max(math.prod(shape), 1)
        # A Krylov basis of k + 200 rows, growing by halves; of singular triplets there are two.
        bases = 2 if self.part == "svd" else 1
        each = 1.5 * bases * (self.k + 200) * n * dtype.itemsize
        here = variable("LOCAL_WORLD_SIZE", 1) if device.type == "cpu" else 1
        return max(1, min(self.useful(shape), int(free_bytes(device) / (2 * here * each))))

    @staticmethod
    def vectors(found: Spectrum) -> Tensor:
        """Those that the next noise level starts from."""
        return found.vectors if isinstance(found, EigenPairs) else found.right

    def _noisy(self, name: str, x: Tensor, sigma: float) -> Tensor:
        device, dtype = self._place(x.dtype)
        return (x + sigma * noise(name, self.seed, x.shape).to(x.dtype)).to(device, dtype)

    def _place(self, dtype: torch.dtype) -> tuple[torch.device, torch.dtype]:
        """The device and type of the model's numbers; of what has none the CPU's, as the image's."""
        for module in modules_in(self.model):
            for t in (*module._parameters.values(), *module._buffers.values()):
                if t is not None and t.is_floating_point():
                    return t.device, t.dtype
        return torch.device("cpu"), dtype
