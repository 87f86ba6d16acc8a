"""The `spectral` command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from torch import Tensor

import spectral
from denoisers.commands import estimates
from denoisers.commands.console import (
    Commands,
    Crop,
    Denoiser,
    Json,
    Out,
    Picture,
    Problem,
    Region,
    Seed,
    Sigma,
    Version,
    check_writable,
    end,
    given,
    load_problem,
    name_flags,
    one_line_errors,
    print_json,
    region,
    tell,
    write_files,
)
from denoisers.commands.examples import epilog
from denoisers.commands.survey import survey
from spectral import eigs as symmetric
from spectral import eigs_full as full
from spectral import svd as singular
from spectral.errors import OptionError
from spectral.options import choice
from spectral.results import EigenPairs, FullEigenPairs, SingularTriplets, number
from spectral.solvers.control import PRODUCTS

Result = EigenPairs | FullEigenPairs | SingularTriplets

# Methods by name: a command line has no objects with settings.
OFFERED: dict[Callable[..., Result], Collection[str]] = {
    symmetric.top_eigs: symmetric.METHODS,
    full.top_eigs_full: full.METHODS,
    singular.top_svd: singular.METHODS,
}

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified spectra of neural denoisers' Jacobians.",
    epilog=epilog("spectral eigs"),
)


@app.callback()
def main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what was decided on the way")] = False,
    version: Version = False,
) -> None:
    """Certified spectra of neural denoisers' Jacobians."""
    name_flags(context)
    if verbose:
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])


Method = Annotated[
    str,
    typer.Option(help=f"auto, {', '.join(symmetric.METHODS)}; for --part full {', '.join(full.METHODS)}"),
]
SingularMethod = Annotated[str, typer.Option(help=f"auto, {', '.join(singular.METHODS)}")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="keep the solve in this file, and resume the one that it holds")
]
Tol = Annotated[float, typer.Option(help="relative residual")]
Sharded = Annotated[
    bool,
    typer.Option(
        "--sharded",
        help="over processes: torchrun --nproc-per-node 2 --no-python spectral ... --sharded",
    ),
]
MaxProducts = Annotated[
    int | None, typer.Option(help="stop there, converged or not", show_default=str(PRODUCTS))
]


@app.command(epilog=epilog("spectral eigs"))
def eigs(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Picture = None,
    crop: Crop = None,
    sigma: Sigma = 0.15,
    k: Annotated[int, typer.Option("-k", help="how many eigenpairs")] = 20,
    above: Annotated[float | None, typer.Option(help="all eigenvalues above this instead")] = None,
    between: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="all eigenvalues in this interval instead"),
    ] = None,
    part: Annotated[
        Literal["symmetric", "full"], typer.Option(help="(J + J')/2, or J itself with complex eigenpairs")
    ] = "symmetric",
    which: Annotated[
        Literal["largest", "smallest", "magnitude"], typer.Option(help="end of the spectrum")
    ] = "largest",
    left: Annotated[
        bool, typer.Option("--left", help="left vectors and conditions too, of the full part")
    ] = False,
    method: Method = "auto",
    mask: Region = None,
    tol: Tol = 1e-4,
    max_products: MaxProducts = None,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    sharded: Sharded = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Certified eigenpairs of a denoiser's Jacobian at a noisy picture.

    On a GPU where torch sees one, else on the CPU; with CUDA_VISIBLE_DEVICES="" set there is none to see.

    Exit codes: 0; 2 for bad input; 3 where a pair is above the tolerance; 130 after Ctrl-C.
    """
    options: dict[str, Any] = {
        "above": above,
        "which": which,
        "method": method,
        "tol": tol,
        "max_products": max_products,
        "checkpoint": checkpoint,
    }
    with one_line_errors():
        _check_sought(context, above, between)
        if part == "full" and between is not None:
            raise OptionError("--between is for the symmetric part: complex eigenvalues lie in no interval")
        if part == "symmetric" and left:
            raise OptionError(
                "--left is for --part full: the symmetric part has the same vectors on both sides"
            )
    solver: Callable[..., Result] = symmetric.top_eigs
    if part == "full":
        solver, options = full.top_eigs_full, options | {"left": left}
    else:
        options |= {"between": between}
    _solve(solver, denoiser, image, crop, sigma, k, seed, out, as_json, mask, sharded, options)


@app.command(epilog=epilog("spectral svd"))
def svd(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Picture = None,
    crop: Crop = None,
    sigma: Sigma = 0.15,
    k: Annotated[int, typer.Option("-k", help="how many singular triplets")] = 20,
    above: Annotated[float | None, typer.Option(help="all singular values above this instead")] = None,
    method: SingularMethod = "auto",
    mask: Region = None,
    output_mask: Annotated[
        str | None, typer.Option(metavar="FILE|BOX", help="as --mask: only these pixels are looked at")
    ] = None,
    tol: Tol = 1e-4,
    max_products: MaxProducts = None,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    sharded: Sharded = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Certified singular triplets of a denoiser's Jacobian at a noisy picture; exit codes as of eigs."""
    with one_line_errors():
        _check_sought(context, above)
    options = {
        "above": above,
        "method": method,
        "tol": tol,
        "max_products": max_products,
        "checkpoint": checkpoint,
    }
    request = denoiser, image, crop, sigma, k, seed, out, as_json, mask, sharded, options
    _solve(singular.top_svd, *request, output_mask)


def _check_sought(
    context: typer.Context, above: float | None, between: tuple[float, float] | None = None
) -> None:
    """That what the command line says of values is not set aside by what else it says.

    Raises:
        OptionError: it is.
    """
    if given(context, "-k") and (above is not None or between is not None):
        raise OptionError("-k is a number of values, and --above and --between find all: leave one out")
    if between is not None and given(context, "--which"):
        raise OptionError("--which is for -k and --above: --between finds all values inside")


def synth(
    out: Annotated[Path, typer.Option(help="folder for the PNG pictures and images.npy")],
    n: Annotated[int, typer.Option("-n", help="how many images")] = 16,
    size: Annotated[int, typer.Option(help="their side in pixels")] = 256,
    alpha: Annotated[float, typer.Option(help="regularity of the contour")] = 3.0,
    beta: Annotated[float | None, typer.Option(help="of the backgrounds", show_default="alpha")] = None,
    kind: Annotated[
        Literal["released", "exact"], typer.Option(help="spectral exponents as released, or Hoelder ones")
    ] = "released",
    seed: Annotated[int, typer.Option(help="image i of a seed is the same whatever n")] = 0,
) -> None:
    """C^alpha images: two smooth regions parted by a smooth contour."""
    from spectral.kernels.write import write_calpha  # noqa: PLC0415  numba takes a second to import

    with one_line_errors():
        paths = write_calpha(out, n=n, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed)
    typer.echo(f"wrote {len(paths) - 1} pictures and {paths[0]}")


# `--help` lists what one starts with first.
for command in (estimates.trace, estimates.sure, estimates.density, survey, synth):
    app.command(epilog=epilog(f"spectral {command.__name__}"))(command)


def _solve(
    solver: Callable[..., Result],
    denoiser: str,
    image: Path | None,
    crop: tuple[int, int, int] | None,
    sigma: float,
    k: int,
    seed: int,
    out: Path | None,
    as_json: bool,
    mask: str | None,
    sharded: bool,
    options: dict[str, Any],
    output_mask: str | None = None,
) -> None:
    with one_line_errors():
        choice("--method", options["method"], ["auto", *OFFERED[solver]])
        check_writable(out)
        problem = load_problem(denoiser, image, sigma, seed, crop, timed=True)
        regions = {
            "mask": region(mask, problem),
            "output_mask": region(output_mask, problem, "--output-mask"),
        }
        options |= {name: part for name, part in regions.items() if part is not None}
        if sharded:
            A = spectral.sharded(problem.model, problem.noisy, model_kwargs=problem.told)
            shown = A.ranks.rank == 0 and not as_json
            found = A.gather(solver(A, k=k, seed=seed, progress=shown, **options))
            if found is None:  # the first process tells
                return
            spectrum = found
        else:
            spectrum = solver(
                problem.model,
                problem.noisy,
                k,
                seed=seed,
                progress=not as_json,
                model_kwargs=problem.told,
                **options,
            )
    name = {EigenPairs: "eigs", FullEigenPairs: "full"}.get(type(spectrum), "svd")
    files = [out / f"{name}.png", out / f"{name}.safetensors"] if out else []
    # The answer first: what took long is not lost where it cannot be written.
    if as_json:
        print_json(_summary(spectrum, problem, files))
    else:
        _print(spectrum, problem)
    write_files(files, as_json, lambda: _write(spectrum, problem, *files))
    end(spectrum.notes, spectrum.converged)


def _write(spectrum: Result, problem: Problem, picture: Path, result: Path) -> None:
    from spectral.plots import spectra as plots  # noqa: PLC0415  matplotlib takes a second to import

    spectrum.save(result)
    images = (problem.clean, problem.noisy, problem.denoised)
    title = f"{problem.name}, sigma = {problem.sigma:g}"
    if isinstance(spectrum, EigenPairs):
        figure = plots.eigs(spectrum, *images, f"{title}: {spectrum.asymmetry_text()}")
    elif isinstance(spectrum, FullEigenPairs):
        figure = plots.full_eigs(spectrum, title)
    else:
        figure = plots.svd(spectrum, *images, title)
    figure.savefig(picture)


def _print(spectrum: Result, problem: Problem) -> None:
    table = Table(title=problem.title)
    value = "sigma" if isinstance(spectrum, SingularTriplets) else "lambda"
    last, cells, residual, about = _told(spectrum, problem)
    short = not bool(spectrum.converged.all())
    for name in ("k", value, "residual", "error bound", last, *(["converged"] if short else [])):
        table.add_column(name, justify="right")
    for i, cell in enumerate(cells):
        table.add_row(
            str(i + 1),
            number(spectrum.values[i].item(), 5),
            f"{spectrum.residuals[i].item():.1e}",
            f"{spectrum.errors[i].item():.1e}",
            cell,
            *(["yes" if spectrum.converged[i] else "no"] if short else []),
        )
    Console().print(table if spectrum.k else "none found")
    spent = ", ".join(f"{name} {n}" for name, n in spectrum.spent.items())
    each = "J, or J' for left vectors" if isinstance(spectrum, FullEigenPairs) else "J and one with J'"
    limit = spectrum.tolerance.item()
    lines = [
        ("residuals", f"{residual} from fresh products; asked for {limit:.1e} (tol {spectrum.tol:g})"),
        ("completeness", spectrum.completeness_text()),
        *([("restricted", spectrum.restriction)] if spectrum.restriction else []),
        *about,
        ("products", f"{spectrum.products}, each one with {each}: {spent}"),
        problem.passes(spectrum.seconds),
        *(("note", note) for note in (*problem.notes, *spectrum.notes)),
    ]
    tell(lines)


def _told(spectrum: Result, problem: Problem) -> tuple[str, list[str], str, list[tuple[str, str]]]:
    """What differs between the three: the last column and its cells, the residual, and a line of its own."""
    if isinstance(spectrum, FullEigenPairs):
        known = ["-"] * spectrum.k if spectrum.condition is None else [f"{c:.3g}" for c in spectrum.condition]
        cells = [f"{c} defective" if d else c for c, d in zip(known, spectrum.defective, strict=True)]
        return "condition", cells, "|J v - lambda v|", [("condition", spectrum.condition_text())]
    cells = [f"{c:.4g}" for c in spectrum.coefficients(problem.clean).abs().tolist()]
    if isinstance(spectrum, EigenPairs):
        about = [("asymmetry", spectrum.asymmetry_text())]
        return "|<x, e_k>|", cells, "|S e - lambda e|, S = (J + J')/2,", about
    return "|<x, v_k>|", cells, "the larger of |J v - sigma u|, |J' u - sigma v|", []


def _summary(spectrum: Result, problem: Problem, files: list[Path]) -> dict[str, object]:
    told: dict[str, object] = {
        **problem.asked,
        "values": _plain(spectrum.values),
        "residuals": spectrum.residuals.tolist(),
        "errors": spectrum.errors.tolist(),
        "converged": spectrum.converged.tolist(),
        "complete": bool(spectrum.complete),
        "bound": spectrum.completeness.bound.item(),
        "confidence": spectrum.completeness.confidence,
        "products": spectrum.products,
        "spent": spectrum.spent,
        "seconds": spectrum.seconds,
        "forward_seconds": problem.unit,
        "which": spectrum.which,
        "tol": spectrum.tol,
        "method": spectrum.method,
        "restriction": spectrum.restriction,
        "notes": [*problem.notes, *spectrum.notes],
        "files": [str(path) for path in files],
    }
    if isinstance(spectrum, FullEigenPairs):
        condition = None if spectrum.condition is None else spectrum.condition.tolist()
        return told | {"part": "full", "condition": condition, "defective": spectrum.defective.tolist()}
    told["coefficients"] = spectrum.coefficients(problem.clean).abs().tolist()
    if isinstance(spectrum, EigenPairs):
        skew = spectrum.asymmetry
        told["part"] = spectrum.part
        told["asymmetry"] = None if skew is None else {"value": skew.value, "stderr": skew.stderr}
    return told


def _plain(values: Tensor) -> list[Any]:
    """Numbers for JSON, complex ones as [real, imaginary]."""
    plain: list[Any] = torch.view_as_real(values).tolist() if values.is_complex() else values.tolist()
    return plain


if __name__ == "__main__":
    app()
