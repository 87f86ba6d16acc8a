"""The commands `spectral trace`, `spectral sure` and `spectral density`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from denoisers.commands.console import (
    ABOVE_TOLERANCE,
    Crop,
    Denoiser,
    Json,
    Out,
    Picture,
    Problem,
    Seed,
    Sigma,
    check_writable,
    given,
    load_problem,
    one_line_errors,
    print_json,
    tell,
    write_files,
)
from spectral.eigs import top_eigs
from spectral.errors import OptionError
from spectral.estimators import diagonal
from spectral.estimators import spectral_density as estimate_density
from spectral.estimators import trace as estimate_trace
from spectral.estimators.results import Estimate, with_error
from spectral.estimators.trace import METHODS
from spectral.options import choice
from spectral.progress import working
from spectral.risk import risk_curve
from spectral.risk import sure as estimate_sure
from spectral.risk.sure import FINITE_DIFFERENCE
from spectral.solvers.search import interrupted

OF_MODELS = [method for method in METHODS if method != "xnystrace"]  # which needs J = J'
Products = Annotated[int | None, typer.Option(help="products with the Jacobian to spend")]
Rtol = Annotated[float | None, typer.Option(help="stop at this relative error of tr J, at 95 %")]


def trace(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Picture = None,
    crop: Crop = None,
    sigma: Sigma = 0.15,
    method: Annotated[str, typer.Option(help=f"estimator: {', '.join(OF_MODELS)}")] = "auto",
    products: Products = None,
    rtol: Rtol = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The trace of a denoiser's Jacobian at a noisy picture, with its error; with --out its diagonal."""
    with one_line_errors():
        choice("--method", method, OF_MODELS)
        _check_exact(context, method, "--products", "--rtol")
        check_writable(out)
        problem = load_problem(denoiser, image, sigma, seed, crop, timed=True)
        began = time.perf_counter()
        with working(not as_json, "trace"):
            found = estimate_trace(
                problem.model,
                problem.noisy,
                method=method,
                products=products,
                rtol=rtol,
                seed=seed,
                model_kwargs=problem.told,
            )
        seconds = time.perf_counter() - began
    files = [out / "diagonal.png", out / "diagonal.safetensors"] if out else []
    d = problem.noisy.numel()
    summary = {"trace": _numbers(found), "d": d}
    rows = [("tr J", _interval(found)), ("tr J / d", f"{float(found) / d:.4f}")]
    _print("trace of J", rows, summary, found, found.notes, seconds, problem, files, as_json)
    write_files(files, as_json, lambda: _write_diagonal(problem, products, seed, *files))
    if rtol is not None and float(found.halfwidth()) > rtol * abs(float(found)):
        raise typer.Exit(ABOVE_TOLERANCE)


def sure(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Picture = None,
    crop: Crop = None,
    sigma: Sigma = 0.15,
    level: Annotated[
        Literal["given", "median", "residual"],
        typer.Option(help="noise level told to SURE: sigma itself, or estimated from the noisy picture"),
    ] = "given",
    method: Annotated[
        str, typer.Option(help=f"how tr J is had: {', '.join((*OF_MODELS, FINITE_DIFFERENCE))}")
    ] = "auto",
    products: Products = None,
    rtol: Rtol = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """A denoiser's error from the noisy picture alone, beside the true one; with --out over noise levels."""
    with one_line_errors():
        choice("--method", method, [*OF_MODELS, FINITE_DIFFERENCE])
        _check_exact(context, method, "--products", "--rtol")
        check_writable(out)
        problem = load_problem(denoiser, image, sigma, seed, crop, timed=True)
        began = time.perf_counter()
        with working(not as_json, "SURE"):
            found = estimate_sure(
                problem.model,
                problem.noisy,
                sigma if level == "given" else level,
                method=method,
                products=products,
                rtol=rtol,
                seed=seed,
                sigma_keyword=problem.keyword,
            )
        seconds = time.perf_counter() - began
    files = [out / "risk.png"] if out else []
    truth = (problem.denoised - problem.clean).double().square().mean().item()
    summary = {
        "mse": _numbers(found),
        "noise_error": found.noise_error,
        "psnr": found.psnr,
        "true_mse": truth,
        "true_psnr": -10 * math.log10(truth),
        "sigma": found.sigma,
        "true_sigma": problem.sigma,
        "sigma_error": found.sigma_error,
        "sigma_rule": found.rule,
        "divergence": _numbers(found.divergence),
    }
    low, high = found.interval()
    verdict = "inside" if low <= truth <= high else "outside"
    rows = [
        ("SURE, mean squared error", _interval(found)),
        ("true, from the clean picture", f"{truth:.3e}, {verdict} the interval"),
        ("PSNR by SURE / true", f"{_decibels(float(found.psnr))} / {_decibels(-10 * math.log10(truth))}"),
        ("error by the noise alone", f"{1.96 * float(found.noise_error):.1e}"),
        (f"sigma ({found.rule})", with_error(float(found.sigma), 1.96 * float(found.sigma_error))),
        ("tr J", _interval(found.divergence)),
    ]
    notes = [*found.notes, *found.divergence.notes]
    _print("SURE", rows, summary, found, notes, seconds, problem, files, as_json)
    write_files(files, as_json, lambda: _write_risk(problem, products, seed, *files))
    divergence = found.divergence
    if rtol is not None and float(divergence.halfwidth()) > rtol * abs(float(divergence)):
        raise typer.Exit(ABOVE_TOLERANCE)


def density(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Picture = None,
    crop: Crop = None,
    sigma: Sigma = 0.15,
    part: Annotated[
        Literal["symmetric", "singular"],
        typer.Option(help="eigenvalues of (J + J')/2, or singular values of J"),
    ] = "symmetric",
    method: Annotated[
        Literal["auto", "exact", "slq", "kpm"],
        typer.Option(help="all values, Lanczos quadrature, or Chebyshev moments; auto: what takes less"),
    ] = "auto",
    probes: Annotated[int, typer.Option(help="random vectors")] = 10,
    steps: Annotated[int, typer.Option(help="products per probe")] = 60,
    threshold: Annotated[float, typer.Option(help="count the values above it")] = 0.5,
    deflate: Annotated[
        int, typer.Option(help="find so many top eigenpairs first, and take them out of the probes")
    ] = 0,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The density of all eigenvalues or singular values of a denoiser's Jacobian, with its error."""
    with one_line_errors():
        _check_exact(context, method, "--probes", "--steps", "--deflate")
        if deflate and part != "symmetric":
            raise OptionError(
                "--deflate finds eigenpairs of the symmetric part: it does not go with --part singular"
            )
        if not math.isfinite(threshold):
            raise OptionError(f"--threshold is a finite number, got {threshold}")
        check_writable(out)
        problem = load_problem(denoiser, image, sigma, seed, crop, timed=True)
        if not 0 <= deflate <= problem.noisy.numel():
            raise OptionError(f"--deflate lies between 0 and d = {problem.noisy.numel()}, got {deflate}")
        began = time.perf_counter()
        pairs = (
            top_eigs(
                problem.model,
                problem.noisy,
                deflate,
                seed=seed,
                progress=not as_json,
                model_kwargs=problem.told,
            )
            if deflate
            else None
        )
        if pairs is not None and interrupted(pairs.notes):
            raise KeyboardInterrupt
        found = estimate_density(
            problem.model,
            problem.noisy,
            part=part,
            method=method,
            probes=probes,
            steps=steps,
            deflate=pairs,
            seed=seed,
            progress=not as_json,
            model_kwargs=problem.told,
        )
        seconds = time.perf_counter() - began
    files = [out / "density.png", out / "density.safetensors"] if out else []
    count, total = found.count_above(threshold), found.total(lambda values: values)
    low, high = found.ends
    summary = {
        "count_above": {"threshold": threshold} | _numbers(count),
        "sum": _numbers(total),
        "ends": [low, high],
        "n": found.n,
        "deflated": found.deflated.tolist(),
        "part": part,
        "method": found.method,
    }
    rows = [
        (f"values above {threshold:g}", f"{_interval(count)} of {found.n}"),
        ("sum of values", _interval(total)),
        ("from / to", f"{low:.4f} / {high:.4f}"),
    ]
    name = "eigenvalues of (J + J')/2" if part == "symmetric" else "singular values of J"
    _print(name, rows, summary, count, found.notes, seconds, problem, files, as_json)
    title = f"{part} part, {problem.title}"
    write_files(files, as_json, lambda: _write_density(found, threshold, title, *files))


def _check_exact(context: typer.Context, method: str, *others: str) -> None:
    """That the command line asks for no less than the exact answer, where it asks for that.

    Raises:
        OptionError: it does.
    """
    told = [option for option in others if given(context, option)]
    if method == "exact" and told:
        raise OptionError(f"--method exact takes all products that there are: leave out {', '.join(told)}")


def _write_diagonal(problem: Problem, products: int | None, seed: int, picture: Path, result: Path) -> None:
    from spectral.plots.estimates import images  # noqa: PLC0415  matplotlib takes a second to import

    found = diagonal(
        problem.model, problem.noisy, products=products or 100, seed=seed, model_kwargs=problem.told
    )
    name = f"diag J, \u00b1 {torch.as_tensor(found.halfwidth()).mean():.2g} a pixel"
    figure = images(
        [("noisy", problem.noisy), ("denoised", problem.denoised), (name, torch.as_tensor(found.value))],
        problem.title,
        signed=(name,),
    )
    found.save(result)
    figure.savefig(picture)


def _write_risk(problem: Problem, products: int | None, seed: int, picture: Path) -> None:
    """SURE, the true error and sigma^2 tr J from sigma / 4 to 4 sigma, over four draws of the noise."""
    from spectral.plots.estimates import risk  # noqa: PLC0415  matplotlib takes a second to import

    sigmas = [problem.sigma * factor for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
    draws = problem.clean.repeat(4, 1, 1, 1)
    curve = risk_curve(
        problem.model, draws, sigmas, products=products, seed=seed, sigma_keyword=problem.keyword
    )
    risk(curve, f"{problem.name}, one picture").savefig(picture)


def _write_density(found: Any, threshold: float, title: str, picture: Path, result: Path) -> None:
    from spectral.plots.estimates import density as draw  # noqa: PLC0415

    found.save(result)
    draw(found, threshold, title).savefig(picture)


def _decibels(psnr: float) -> str:
    """None where there is none, of a mean squared error that is estimated as negative."""
    return "none" if math.isnan(psnr) else f"{psnr:.2f} dB"


def _interval(estimate: Estimate) -> str:
    """value +- half of the 95 % interval."""
    return with_error(float(estimate.value), float(estimate.halfwidth()))


def _numbers(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.interval(0.95)
    return {
        "value": estimate.value,
        "stderr": estimate.stderr,
        "interval95": [low, high],
        "samples": estimate.samples,
        "products": estimate.products,
        "method": estimate.method,
    }


def _print(
    what: str,
    rows: list[tuple[str, str]],
    summary: dict[str, Any],
    estimate: Estimate,
    notes: list[str],
    seconds: float,
    problem: Problem,
    files: list[Path],
    as_json: bool,
) -> None:
    """The rows as a table with what they took, or the summary as JSON."""
    notes = [*problem.notes, *notes]
    if as_json:
        took = {"seconds": seconds, "forward_seconds": problem.unit}
        written = {"notes": notes, "files": [str(path) for path in files]}
        print_json(problem.asked | summary | took | written)
        return
    table = Table(title=f"{what}, {problem.title}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column()
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)
    tell(
        [
            ("errors", f"95 % intervals; {estimate.sampling_text()}"),
            ("products", f"{estimate.products} with J and J'"),
            problem.passes(seconds),
            *(("note", note) for note in notes),
        ]
    )
