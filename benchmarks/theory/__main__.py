"""`python -m benchmarks.theory oracle-slopes | mterm | regularity | speed`: one command a table."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import denoisers
from benchmarks.theory import figures, mterm, oracle_slopes, regularity
from benchmarks.theory.report import publish
from benchmarks.theory.speed import section as speed_section
from denoisers.evaluation import add_noise, denoise, psnr
from spectral.kernels.calpha import synthesize

app = typer.Typer(add_completion=False, help=__doc__)
Out = Annotated[Path, typer.Option(help="Folder of the tables and figures.")]
Seed = Annotated[int, typer.Option(help="Seed of the images and of the noise.")]


@app.command("oracle-slopes")
def slopes(
    n: Annotated[int, typer.Option(help="Images at 80x80.")] = 64,
    n256: Annotated[int, typer.Option(help="Images at 256x256.")] = 16,
    n512: Annotated[int, typer.Option(help="Images at 512x512.")] = 6,
    references: Annotated[
        int, typer.Option(help="Images of the Gaussian reference: two 3200-row spectra each.")
    ] = 64,
    network: Annotated[
        str, typer.Option(help="A denoiser to stand beside the oracles, on the same images; '' for none.")
    ] = "calpha",
    seed: Seed = 0,
    out: Out = Path("docs/theory"),
) -> None:
    """Tables A, B and C and the paired gains, checked against the specification."""
    small = oracle_slopes.curves_80(n, references, seed)
    large = oracle_slopes.curves_512(n512, seed)
    if network:
        for alpha, curves in small.items():
            curves.outputs[f"{network} network"] = network_curve(network, alpha, n, seed)
    figures.save(
        figures.psnr_curves(small, "Oracles on released C$^\\alpha$ images, 80x80"), out / "oracle-slopes.png"
    )
    figures.save(
        figures.psnr_curves(large, "Oracles on exact C$^\\alpha$ images, 512x512: the asymptotic window"),
        out / "asymptotic-slopes.png",
    )
    sections = [
        *oracle_slopes.table_a(small),
        *oracle_slopes.table_b(large),
        *oracle_slopes.table_c(n256, seed),
    ]
    _finish("oracle-slopes", sections, out)


@app.command("mterm")
def terms(
    n: Annotated[int, typer.Option(help="Images.")] = 8,
    size: Annotated[int, typer.Option(help="Side, a power of two.")] = 512,
    seed: Seed = 0,
    out: Out = Path("docs/theory"),
) -> None:
    """The decay of the M-term error in fixed and adapted bases."""
    found = mterm.curves(n, size, seed)
    figures.save(figures.decay(found), out / "mterm.png")
    _finish("mterm", [mterm.section(found, n, size)], out)


@app.command("regularity")
def hoelder(
    n: Annotated[int, typer.Option(help="Fields of each kind and exponent.")] = 8,
    seed: Seed = 0,
    out: Out = Path("docs/theory"),
) -> None:
    """Hoelder exponents of contours and backgrounds, checked to 0.05."""
    figures.save(figures.structure_functions(seed), out / "regularity.png")
    _finish("regularity", [regularity.section(n, seed)], out)


@app.command("speed")
def speed(out: Out = Path("docs/theory")) -> None:
    """Rates of the kernels beside plain NumPy, in one run."""
    _finish("speed", [speed_section()], out)


def network_curve(name: str, alpha: int, n: int, seed: int) -> np.ndarray:
    """Output PSNR (n, S) of a trained denoiser on the images of Table A."""
    model = denoisers.load(name)
    clean = torch.from_numpy(synthesize(n, size=80, alpha=alpha, seed=seed)[:, None])
    levels = oracle_slopes.sigma(oracle_slopes.INPUTS_80)
    return torch.stack(
        [psnr(clean, denoise(model, add_noise(clean, float(s), seed))) for s in levels], 1
    ).numpy()


def _finish(name: str, sections: list, out: Path) -> None:
    command = " ".join(["python -m benchmarks.theory", *sys.argv[1:]])
    if not publish(name, command, sections, out):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
