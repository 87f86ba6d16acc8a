"""What a process does with the images that it has claimed: read, solve from level to level, write."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from spectral.errors import FileContentError
from spectral.jacobians.free_memory import out_of_memory
from spectral.survey.failures import WHOLLY, Failures
from spectral.survey.folder import Folder
from spectral.survey.images import Images
from spectral.survey.solver import Solver
from spectral.survey.table import KINDS, Row, Spectrum, check_about
from spectral.words import digest

log = logging.getLogger("spectral")


class Worker:
    """Solves images that no other process is working on.

    Args:
        solver, images: how, and where they are read.
        levels: noise levels, from the largest down.
        folder, failures: where it writes.
        warm: whether a level starts from the one before.
        tell: called with a noise level when it begins there.
    """

    def __init__(
        self,
        solver: Solver,
        images: Images,
        levels: list[float],
        folder: Folder,
        failures: Failures,
        warm: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.solver, self.images, self.levels = solver, images, levels
        self.folder, self.failures, self.warm, self.tell = folder, failures, warm, tell
        self.most: int | None = None  # images together, once memory ran out

    def missing(self, name: str) -> list[float]:
        """The noise levels at which an image has no result, and has not failed in this run."""
        failed = self.failures.of(name)
        if WHOLLY in failed:
            return []
        return [
            sigma
            for sigma in self.levels
            if repr(sigma) not in failed and not self.folder.result(name, sigma).exists()
        ]

    def solve(self, names: list[str]) -> None:
        """Solve what is missing of some images, those of one shape together."""
        by_shape: dict[torch.Size, dict[str, Tensor]] = {}
        for name in names:
            x = self._read(name)
            if x is not None:
                by_shape.setdefault(x.shape, {})[name] = x
        for shape, pictures in by_shape.items():
            size = min(self.solver.together(shape), self.most or len(pictures))
            held = list(pictures)
            for i in range(0, len(held), size):
                self._descend({name: pictures[name] for name in held[i : i + size]})

    def _read(self, name: str) -> Tensor | None:
        """An image that has something to be solved; results that are there are seen to be of it."""
        self.failures.forget(name)
        try:
            x = self.images.read(name)
            picture = digest(x)
            for sigma in self.levels:
                if self.folder.result(name, sigma).exists():
                    self._check(name, sigma, picture)
        except Exception as failure:  # whatever a reader raises
            self.failures.add(name, WHOLLY, failure)
            return None
        return x if self.missing(name) else None

    def _check(self, name: str, sigma: float, picture: str) -> None:
        """That a result is of this image; one that is damaged is removed, to be solved again."""
        try:
            check_about(self.folder, name, sigma, self.solver.part, picture)
        except FileContentError as damage:
            log.warning("%s: it is solved again", damage)
            self.folder.result(name, sigma).unlink(missing_ok=True)

    def _descend(self, pictures: dict[str, Tensor]) -> None:
        """Every noise level of images of one shape, from the largest down."""
        starts: dict[str, Tensor] = {}
        for i, sigma in enumerate(self.levels):
            missing = [name for name in pictures if sigma in self.missing(name)]
            if self.warm:
                for name in missing:
                    if name not in starts:
                        self._take_start(name, self.levels[:i], starts)
            self.tell(f"at sigma {sigma:g}")
            for warm in (True, False):
                group = {name: pictures[name] for name in missing if (name in starts) == warm}
                if group:
                    self._together(group, sigma, starts)

    def _take_start(self, name: str, larger: list[float], starts: dict[str, Tensor]) -> None:
        """Put into `starts` the vectors that are there of an image at the next larger noise level."""
        for sigma in reversed(larger):
            path = self.folder.result(name, sigma)
            if path.exists():
                try:
                    self._keep_start(name, KINDS[self.solver.part].load(path), starts)
                except FileContentError as damage:
                    log.warning("%s: the next level starts without it", damage)
                return

    def _keep_start(self, name: str, found: Spectrum, starts: dict[str, Tensor]) -> None:
        """Put its vectors into `starts`, where there are k, as others have."""
        starts.pop(name, None)
        if self.warm and found.k == self.solver.k:
            starts[name] = self.solver.vectors(found).cpu()

    def _together(self, pictures: dict[str, Tensor], sigma: float, starts: dict[str, Tensor]) -> None:
        """Solve images together and write what was found; where that fails by halves, down to single ones."""
        names = list(pictures)
        if (self.most is not None and len(names) > self.most) or not self._solved(pictures, sigma, starts):
            half = len(names) // 2
            for some in (names[:half], names[half:]):
                self._together({name: pictures[name] for name in some}, sigma, starts)

    def _solved(self, pictures: dict[str, Tensor], sigma: float, starts: dict[str, Tensor]) -> bool:
        """Solve images together and write what was found; True too where a single one failed."""
        names = list(pictures)
        start = torch.stack([starts[name] for name in names]) if names[0] in starts else None
        try:
            found = self.solver(names, list(pictures.values()), sigma, start)
        except Exception as failure:  # whatever a model raises
            if len(names) == 1:
                self.failures.add(names[0], repr(sigma), failure)
                return True
            if isinstance(failure, MemoryError) or (
                isinstance(failure, RuntimeError) and out_of_memory(failure)
            ):
                self.most = len(names) // 2
            log.info("%d images at sigma %g by halves: %s", len(names), sigma, failure)
            return False
        for name, (spectrum, rank, seconds) in zip(names, found, strict=True):
            path = self.folder.result(name, sigma)
            row = Row.of(name, sigma, spectrum, rank, seconds, str(path.relative_to(self.folder.root)))
            spectrum.save(path, {"picture": digest(pictures[name]), "row": asdict(row)})
            self._keep_start(name, spectrum, starts)
        return True
