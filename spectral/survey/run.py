"""The front door: many images at many noise levels, shared out over processes, resumed by what is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectral.errors import OptionError
from spectral.options import number, seed_of, variable, whole
from spectral.progress import counting
from spectral.solvers.search import INTERRUPTED
from spectral.survey.claims import Claims
from spectral.survey.failures import Failures
from spectral.survey.folder import RESULT, Folder, discard, file_name
from spectral.survey.images import Image, Images
from spectral.survey.request import checked, in_words, keep
from spectral.survey.solver import Solver
from spectral.survey.table import Survey
from spectral.survey.work import Worker

SHARES = 16  # parts of a survey, at least, so that processes end about together
PATIENCE = 0.5  # seconds between looks at what others are working on
LOOK = 2.0  # seconds, at least, between counts of what is there


def survey(
    model: Callable[..., Any],
    images: Mapping[str, Image] | Iterable[tuple[str, Image]],
    sigmas: Sequence[float],
    k: int = 20,
    *,
    out: str | Path,
    part: str = "symmetric",
    seed: int = 0,
    warm: bool = True,
    batch: int | None = None,
    rank_products: int = 20,
    sigma_keyword: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    share: tuple[int, int] | None = None,
    progress: bool = False,
    **options: Any,
) -> Survey:
    """The top k spectra of a model's Jacobian at x + sigma z for every image x and every noise level sigma.

    z is standard normal noise of a stream that name and seed alone key: an image has the same at every level,
    whatever is solved beside it, by whom, and in which order.  Images of one shape are solved in lock-step,
    each level from the vectors of the larger one before it.

    A result is a file of `out`, written whole or not at all.  What is there is not solved again: a survey
    that was stopped, or lost a process, is completed by the same call, with any number of processes.
    Processes need no connection but the folder: each begins with its own part, then takes from the others
    what they have not begun, and ends when nothing is left.  A claim ends with the process that holds it.

    An image that cannot be read or solved is listed in `failures`, and tried again by the next call.

    Args:
        model: an nn.Module or callable, from (B, *shape) to the same; images are moved to its parameters'
            device and precision.
        images: {name: tensor}, (C, H, W) or of any shape without a batch, or pairs of both; a callable in
            place of a tensor is called when the image is needed, and a mapping may read files itself.
        sigmas: noise levels in the units of the images, positive.
        k: how many values.
        out: the folder.  It holds one request; images and noise levels can be added to it later.
        part: "symmetric", eigenpairs by `top_eigs`, or "svd", singular triplets by `top_svd`.
        seed: of the noise, and of the solver's random numbers.
        warm: start from the vectors of the noise level before.
        batch: images solved together, at most; by default as many as are of use, 32 at most, and as memory
            allows.  Where memory runs out all the same, half as many.
        rank_products: products for `effective_rank`, of the symmetric part; 0 to do without.
        sigma_keyword: the model's keyword for the noise level; None for a blind denoiser.
        model_kwargs: keywords for the model, {name: value}, the same for all.
        share: (rank, processes); by default torchrun's RANK and WORLD_SIZE, and (0, 1) without.
        progress: show a bar, in process 0.
        **options: which, tol, method, confidence, max_products, mask and precision of `top_eigs`, or those
            that `top_svd` has, and its output_mask; the same for all.

    Returns:
        Survey: all that is in the folder.  Process 0 has written its table.  Ctrl-C returns what there is,
        marked so; the images under way are lost.

    Raises:
        OptionError: an argument is out of range, or the model has a parameter sigma that nothing sets.
        CheckpointError: the folder's results belong to another request: model, k, tol, seed, ...
        OSError: the folder cannot be written to.

    Example:
        >>> from tempfile import mkdtemp
        >>> images = {"dark": torch.full((1, 16, 16), 0.2), "bright": torch.full((1, 16, 16), 0.8)}
        >>> found = spectral.survey(denoisers.load("calpha"), images, [0.1, 0.2], k=2, out=mkdtemp())
        >>> found.images, found.sigmas, tuple(found.values.shape)
        (['dark', 'bright'], [0.1, 0.2], (2, 2, 2))
        >>> found.spectrum("dark", 0.2).converged
        tensor([True, True])
    """
    k, seed = whole("k", k), seed_of(seed)
    full = checked(part, k, seed, options)
    levels = _descending(sigmas)
    if batch is not None and whole("batch", batch) < 1:
        raise OptionError(f"batch must be at least 1, got {batch}")
    rank_products = whole("rank_products", rank_products) if part == "symmetric" else 0
    if rank_products != 0 and rank_products < 4:
        raise OptionError(f"rank_products is 0 or at least 4, of two probes; got {rank_products}")
    rank, processes = _share(share)
    held = Images(images)
    _check_room(held, k)
    files = {file_name(name) + RESULT: name for name in held.names}
    solver = Solver(model, part, k, seed, full, batch, rank_products, sigma_keyword, model_kwargs)
    solver.keywords(levels[0])
    folder = Folder(out)
    asked = {"rank_products": rank_products, "sigma_keyword": sigma_keyword, "model_kwargs": model_kwargs}
    keep(folder, in_words(model, part, k, seed, full, **asked))
    failures = Failures(folder, folder.make(levels))
    notes: list[str] = []
    with Claims(folder.lock) as claims, counting(progress and rank == 0, "spectra") as report:
        tell = _teller(folder, set(files), levels, report)
        worker = Worker(solver, held, levels, folder, failures, warm, tell)
        try:
            if rank == 0:
                _tidy(folder, levels, files, claims)
                failures.keep_only(held.names)
            _share_out(_units(held, solver), rank, processes, worker, claims, tell)
        except KeyboardInterrupt:
            notes.append(INTERRUPTED)
    found = Survey(folder.root, notes, held.names)
    if rank == 0:
        found.write_table()
    return found


def _check_room(images: Images, k: int) -> None:
    """That one of the first few images has k entries: those that have not are failures, and all that is left.

    Raises:
        OptionError: none has.
    """
    most = 0
    for shape in images.first_shapes():
        most = max(most, math.prod(shape))
        if k <= most:
            return
    if most:
        raise OptionError(f"k must be from 1 to d = {most}, the number of entries of an image; got {k}")


def _units(images: Images, solver: Solver) -> list[list[str]]:
    """Parts of the images in their order, the same for any number of processes."""
    first = next(images.first_shapes(), torch.Size())
    size = solver.batch or min(solver.useful(first), math.ceil(len(images.names) / SHARES))
    return [images.names[i : i + size] for i in range(0, len(images.names), size)]


def _share_out(
    units: list[list[str]],
    rank: int,
    processes: int,
    worker: Worker,
    claims: Claims,
    tell: Callable[[str], None],
) -> None:
    """Every unit solved, by this process or another: first its own, then what others have not begun.

    Where the disk has no locks it ends with its own.
    """

    def work(unit: list[str], thorough: bool) -> bool:
        """Solve what is missing of a unit; whether nothing is, nor in the hands of others.

        thorough: read images that have all their results too, and see that they are the same.
        """
        wanted = unit if thorough else [name for name in unit if worker.missing(name)]
        # Others take them in the same order: who has the first may have the rest.
        if not wanted or not claims.take(wanted[0]):
            return not wanted
        mine = [wanted[0], *(name for name in wanted[1:] if claims.take(name))]
        try:
            # Others may have finished some between the look and the claim.
            worker.solve(mine if thorough else [name for name in mine if worker.missing(name)])
        finally:
            for name in mine:
                claims.release(name)
        return len(mine) == len(wanted)

    tell("reading")
    left = [unit for unit in units[rank::processes] if not work(unit, True)]
    # From the end, which those whose part it is come to last.
    left += [unit for i, unit in enumerate(units) if i % processes != rank][::-1]
    while left and claims.shared:
        still = [unit for unit in left if not work(unit, False)]
        if len(still) == len(left):
            tell("waiting for others")
            time.sleep(PATIENCE)
        left = still


def _tidy(folder: Folder, levels: list[float], files: dict[str, str], claims: Claims) -> None:
    """Clear away what killed processes left half written."""
    for sigma in levels:
        for file, path in folder.leftovers(sigma):
            name = files.get(file)
            if name is not None and claims.take(name):
                discard(path)
                claims.release(name)


def _teller(
    folder: Folder,
    files: set[str],
    levels: list[float],
    report: Callable[[int, int, str], None] | None,
) -> Callable[[str], None]:
    """A function of what is under way that shows it beside a count of the results that are there."""
    last = -math.inf

    def tell(state: str) -> None:
        nonlocal last
        if report is None or time.monotonic() - last < LOOK:
            return
        there = sum(len(files & folder.present(sigma)) for sigma in levels)
        failed = len(folder.failures())
        report(there, len(files) * len(levels), state + (f", {failed} failed" if failed else ""))
        last = time.monotonic()

    return tell


def _descending(sigmas: Sequence[float]) -> list[float]:
    """Noise levels from the largest down, each once."""
    try:
        given = [number("sigmas", sigma) for sigma in sigmas]
    except TypeError:
        raise OptionError(f"sigmas are noise levels in a list, as [0.1]; got {sigmas!r}") from None
    if not given or min(given) <= 0:
        raise OptionError(f"sigmas are noise levels, positive, at least one; got {list(sigmas)}")
    return sorted(set(given), reverse=True)


def _share(given: tuple[int, int] | None) -> tuple[int, int]:
    """(rank, processes), as given or as torchrun says."""
    if given is None:
        given = variable("RANK", 0), variable("WORLD_SIZE", 1)
    try:
        rank, processes = (whole("share", part) for part in given)
    except (TypeError, ValueError):  # of what is no pair
        rank = processes = 0
    if not 0 <= rank < processes:
        raise OptionError(f"share is (rank, processes), 0 <= rank < processes; got {given}")
    return rank, processes
