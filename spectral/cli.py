"""The `spectral` command line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from spectral.console import Problem, forward_seconds, load_problem, one_line_errors
from spectral.results import EigenPairs
from spectral.spectra import top_eigs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Certified spectra of neural denoisers' Jacobians.",
)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what was decided on the way")] = False,
) -> None:
    """Certified spectra of neural denoisers' Jacobians."""
    if verbose:
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])


@app.command()
def eigs(
    denoiser: Annotated[str, typer.Option(help="a shipped network's name, or a weights file")] = "photos",
    image: Annotated[Path | None, typer.Option(help="a grey picture [the shipped photograph]")] = None,
    crop: Annotated[
        tuple[int, int, int] | None, typer.Option(metavar="TOP LEFT SIDE", help="a square of it")
    ] = None,
    sigma: Annotated[float, typer.Option(help="noise level, the picture being in [0, 1]")] = 0.15,
    k: Annotated[int, typer.Option("-k", help="how many eigenpairs")] = 20,
    above: Annotated[float | None, typer.Option(help="all eigenvalues above this instead")] = None,
    which: Annotated[
        Literal["largest", "smallest", "magnitude"], typer.Option(help="end of the spectrum")
    ] = "largest",
    tol: Annotated[float, typer.Option(help="relative residual")] = 1e-4,
    max_products: Annotated[int, typer.Option(help="stop there, converged or not")] = 10_000,
    seed: Annotated[int, typer.Option(help="of the noise and of the solver's start")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for eigs.png and eigs.safetensors")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Certified eigenpairs of the symmetric part of a denoiser's Jacobian at a noisy picture."""
    with one_line_errors():
        problem = load_problem(denoiser, image, sigma, seed, crop)
        unit = forward_seconds(problem.model, problem.noisy)
        pairs = top_eigs(
            problem.model,
            problem.noisy,
            k,
            above=above,
            which=which,
            tol=tol,
            max_products=max_products,
            seed=seed,
            progress=not as_json,
        )
        files = _write(pairs, problem, denoiser, out) if out else []
    if as_json:
        typer.echo(json.dumps(_summary(pairs, problem, unit, files)))
    else:
        _print(pairs, problem, denoiser, unit, files)


def _write(pairs: EigenPairs, problem: Problem, denoiser: str, out: Path) -> list[Path]:
    from spectral.plotting import eigs as draw  # noqa: PLC0415  matplotlib takes a second to import

    result = pairs.save(out / "eigs.safetensors")
    figure = draw(
        pairs,
        problem.clean,
        problem.noisy,
        problem.denoised,
        title=f"{Path(denoiser).stem}, sigma = {problem.sigma:g}: {pairs.asymmetry_text()}",
    )
    figure.savefig(out / "eigs.png")
    return [out / "eigs.png", result]


def _print(pairs: EigenPairs, problem: Problem, denoiser: str, unit: float, files: list[Path]) -> None:
    console = Console()
    rows, columns = problem.clean.shape[-2:]
    table = Table(title=f"{Path(denoiser).stem}, {rows}x{columns}, sigma {problem.sigma:g}")
    for name in ("k", "lambda", "residual", "error bound", "|<x, e_k>|", ""):
        table.add_column(name, justify="right")
    scale = pairs.values.abs().max().item() if pairs.k else 1.0
    for i, c in enumerate(pairs.coefficients(problem.clean).abs().tolist()):
        table.add_row(
            str(i + 1),
            f"{pairs.values[i].item():.5f}",
            f"{pairs.residuals[i].item() / scale:.1e}",
            f"{pairs.errors[i].item():.1e}",
            f"{c:.4g}",
            "" if pairs.converged[i] else "not converged",
        )
    console.print(table)
    spent = ", ".join(f"{name} {n}" for name, n in pairs.spent.items())
    passes = f"{pairs.seconds / unit:.0f} forward passes of {1e3 * unit:.1f} ms"
    lines = [
        ("residuals", f"|S e - lambda e| / max |lambda|, from fresh products (tol {pairs.tol:g})"),
        ("completeness", pairs.completeness_text()),
        ("asymmetry", pairs.asymmetry_text()),
        ("products", f"{pairs.products} with S = (J + J')/2: {spent}"),
        ("time", f"{pairs.seconds:.1f} s, {passes}"),
        *(("note", note) for note in (*problem.notes, *pairs.notes)),
        *(("wrote", str(path)) for path in files),
    ]
    for name, text in lines:
        console.print(f"{name:13} {text}", highlight=False, markup=False, soft_wrap=True)


def _summary(pairs: EigenPairs, problem: Problem, unit: float, files: list[Path]) -> dict[str, object]:
    skew = pairs.asymmetry
    return {
        "values": pairs.values.tolist(),
        "residuals": pairs.residuals.tolist(),
        "errors": pairs.errors.tolist(),
        "converged": pairs.converged.tolist(),
        "coefficients": pairs.coefficients(problem.clean).abs().tolist(),
        "complete": bool(pairs.complete),
        "bound": pairs.completeness.bound.item(),
        "confidence": pairs.completeness.confidence,
        "asymmetry": None if skew is None else {"value": skew.value, "stderr": skew.stderr},
        "products": pairs.products,
        "spent": pairs.spent,
        "seconds": pairs.seconds,
        "forward_seconds": unit,
        "part": pairs.part,
        "which": pairs.which,
        "tol": pairs.tol,
        "notes": [*problem.notes, *pairs.notes],
        "files": [str(path) for path in files],
    }
