"""The command `spectral survey`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import denoisers
from denoisers.commands.console import (
    ABOVE_TOLERANCE,
    INTERRUPTED,
    Denoiser,
    Json,
    continued,
    device_at_hand,
    one_line_errors,
    print_json,
    tell,
    write_files,
)
from denoisers.images.folder import pictures_in, read_grey, size_of
from denoisers.images.pictures import read_colour
from denoisers.networks import Denoiser as Network
from spectral.eigs import METHODS as OF_EIGS
from spectral.errors import OptionError
from spectral.options import choice, variable
from spectral.solvers.search import interrupted
from spectral.survey import Survey
from spectral.survey import survey as run_survey
from spectral.svd import METHODS as OF_SVD

LISTED = 10  # failures printed


def survey(
    folder: Annotated[Path, typer.Argument(help="a folder of pictures, of any sizes")],
    out: Annotated[Path, typer.Option(help="folder for the results, the table and the figure")],
    denoiser: Denoiser = "photos",
    sigmas: Annotated[str, typer.Option(help="noise levels, the pictures being in [0, 1]")] = "0.05,0.1,0.2",
    k: Annotated[int, typer.Option("-k", help="how many values")] = 20,
    part: Annotated[
        Literal["symmetric", "svd"], typer.Option(help="eigenpairs of (J + J')/2, or singular triplets of J")
    ] = "symmetric",
    tol: Annotated[float, typer.Option(help="relative residual")] = 1e-4,
    method: Annotated[str, typer.Option(help="as of eigs, or of svd")] = "auto",
    max_products: Annotated[
        int | None, typer.Option(help="stop an image there, converged or not", show_default="10000")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="pictures solved together", show_default="as many as gain, 32 at most")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="no start from the noise level before")] = False,
    rank_products: Annotated[int, typer.Option(help="for the effective rank; 0 to do without")] = 20,
    seed: Annotated[int, typer.Option(help="of the noise, and of the random vectors")] = 0,
    as_json: Json = False,
) -> None:
    """Top spectra of a denoiser's Jacobian for every picture of a folder at every noise level.

    Run it again to go on where it was stopped, or to add pictures or noise levels; under torchrun, or beside
    another, it shares out the work. A colour picture is turned grey for a grey network, and sides that the
    network does not take are continued by reflection.

    Exit codes: 0; 2 for bad input; 3 where a pair is above the tolerance or a picture failed; 130 after
    Ctrl-C. Under torchrun process 0 alone has 3, and all that is printed.
    """
    # Failures are in the summary: Python prints what no handler takes.
    logging.getLogger("spectral").addHandler(logging.NullHandler())
    with one_line_errors():
        main = variable("RANK", 0) == 0
        levels = _levels(sigmas)
        choice("--method", method, ["auto", *(OF_EIGS if part == "symmetric" else OF_SVD)])
        model = denoisers.load(denoiser)
        if model.channels not in (1, 3):
            raise OptionError(f"{denoiser} takes {model.channels} channels, and pictures have 1 or 3")
        # Those of a size follow each other, and are solved together.
        files = sorted(pictures_in(folder), key=lambda path: (size_of(path), path.name))
        found = run_survey(
            _on_device(model),
            {path.name: partial(_read, path, model) for path in files},
            levels,
            k,
            out=out,
            part=part,
            seed=seed,
            warm=not cold,
            batch=batch,
            rank_products=rank_products,
            sigma_keyword="sigma" if model.told else None,
            progress=not as_json,
            tol=tol,
            method=method,
            max_products=max_products,
        )
    if interrupted(found.notes):
        if main:
            _print(found, denoiser)
        raise typer.Exit(INTERRUPTED)
    if not main:
        return
    files = [out / "survey.png", out / "table.csv"] if found.rows else [out / "table.csv"]
    if as_json:
        asked = {"denoiser": denoiser, "folder": str(folder), "version": version("jacobian-spectra")}
        print_json(asked | _summary(found) | {"files": [str(path) for path in files]})
    else:
        _print(found, denoiser)
    title = Path(denoiser).stem
    write_files(files, as_json, lambda: found.plot(title).savefig(files[0]) if found.rows else None)
    if not found.converged:
        raise typer.Exit(ABOVE_TOLERANCE)


def _levels(told: str) -> list[float]:
    try:
        return [float(word) for word in told.split(",")]
    except ValueError:
        raise OptionError(f"--sigmas are numbers with commas between, as 0.05,0.1; got {told!r}") from None


def _on_device(model: Network) -> Network:
    """The network on this process's GPU, or the CPU, its convolutions by their faster layout."""
    device = device_at_hand()
    if device == "cuda":
        torch.cuda.set_device(variable("LOCAL_RANK", 0) % torch.cuda.device_count())
    placed: Network = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _read(path: Path, model: Network) -> Tensor:
    """A picture as (C, H, W), its sides those of the network."""
    picture = read_colour(path) if model.channels == 3 else read_grey(path, convert=True)
    return continued(torch.from_numpy(picture), model.side_multiple)[0]


def _summary(found: Survey) -> dict[str, Any]:
    levels = [
        asdict(level)
        | {
            "values": dict(zip(("lower", "median", "upper"), level.values.tolist(), strict=True)),
            "effective_rank": level.effective_rank.tolist(),
        }
        for level in found.levels()
    ]
    rows = found.rows
    return {
        "request": found.request,
        "images": len(found.images),
        "results": len(rows),
        "above_tolerance": sum(not row.converged for row in rows),
        "incomplete": sum(not row.complete for row in rows),
        "products": sum(row.products for row in rows),
        "seconds": sum(row.seconds for row in rows),
        "levels": levels,
        "failures": [asdict(failure) for failure in found.failures],
    }


def _print(found: Survey, denoiser: str) -> None:
    rows = found.rows
    k, part = found.request["k"], found.request["part"]
    symbol = "lambda" if part == "symmetric" else "sv"
    words = "lower quartile, median, upper quartile"
    table = Table(title=f"{Path(denoiser).stem}, {len(found.images)} pictures: {words}")
    ends = (f"{symbol}_1", f"{symbol}_{k}") if k > 1 else (f"{symbol}_1",)
    for name in ("sigma", "n", *ends, "effective rank"):
        table.add_column(name, justify="right")
    for level in found.levels():
        values = [_spread(level.values[:, i], 3) for i in (0, -1)[: len(ends)]]
        rank = _spread(level.effective_rank, 0)
        table.add_row(f"{level.sigma:g}", str(level.images), *values, rank)
    lines: list[tuple[str, str]] = []
    if rows:
        Console().print(table)
        complete, above = sum(row.complete for row in rows), sum(not row.converged for row in rows)
        worst, tol = max(row.residual for row in rows), found.request["tol"]
        products, seconds = (
            sum(getattr(r, name) for r in rows) / len(rows) for name in ("products", "seconds")
        )
        lines = [
            ("complete", f"{complete} of {len(rows)} results"),
            ("residuals", f"at most {worst:.1e} of the largest value (tol {tol:g}); {above} above tol"),
            ("each", f"{products:.0f} products, {seconds:.2g} s"),
        ]
    for failure in found.failures[:LISTED]:
        at = "" if failure.sigma is None else f" at sigma {failure.sigma:g}"
        lines.append(("failed", f"{failure.image}{at}: {failure.error}"))
    if len(found.failures) > LISTED:
        lines.append(("failed", f"{len(found.failures) - LISTED} more, in {found.folder}/table.csv"))
    lines += [("note", note) for note in found.notes]
    tell(lines)


def _spread(quartiles: Tensor, digits: int) -> str:
    if not bool(torch.isfinite(quartiles).all()):
        return "-"
    return " ".join(f"{value:.{digits}f}" for value in quartiles.tolist())
