"""The commands `denoisers sample` and `denoisers solve`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.nn.functional import interpolate

import denoisers
from denoisers.commands.console import (
    Crop,
    Denoiser,
    Json,
    Out,
    check_writable,
    device_at_hand,
    end,
    given,
    in_flags,
    one_line_errors,
    picture_of,
    print_json,
    write_files,
)
from denoisers.evaluation import add_noise, psnr
from denoisers.images.grid import write_grid
from denoisers.networks import Consistency
from denoisers.networks import Denoiser as Network
from denoisers.sampling import (
    BlockAverage,
    Frequencies,
    Inpainting,
    RandomProjections,
    Samples,
    consistency,
    ddim,
    heun,
    langevin,
)
from spectral.errors import OptionError

ASCENT = ("--constant", "--h0", "--beta", "--max-steps")  # its own options
READ_BY = {"--factor": ("superres",), "--hole": ("inpaint",), "--keep": ("pixels", "random", "lowpass")}

METHODS: dict[str, Callable[..., Samples]] = {
    "ascent": denoisers.sample,
    "consistency": consistency,
    "heun": heun,
    "ddim": ddim,
    "langevin": langevin,
}

Count = Annotated[int, typer.Option(help="how many draws; draw i of a seed is the same in any batch")]
Seed = Annotated[int, typer.Option(help="of the noise, and of what is measured at random")]
H0 = Annotated[float, typer.Option(help="the first step, in (0, 1]; smaller ones are slower and better")]
Beta = Annotated[float, typer.Option(help="share of the noise a step removes; 1 adds none")]
SigmaStart = Annotated[float, typer.Option(help="noise level to start from, images being in [0, 1]")]
SigmaEnd = Annotated[float, typer.Option(help="noise level to stop at")]
Constant = Annotated[
    bool, typer.Option("--constant", help="the same step --h0 throughout: many more of them")
]
MaxSteps = Annotated[int, typer.Option(help="a bound on the steps of each image")]


def sample(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    size: Annotated[int, typer.Option(help="side of the images")] = 64,
    count: Count = 9,
    method: Annotated[
        Literal["ascent", "heun", "ddim", "langevin", "consistency"],
        typer.Option(
            help="stochastic coarse-to-fine ascent; one with a schedule of noise levels; or a consistency "
            "function's, in --steps steps"
        ),
    ] = "ascent",
    h0: H0 = 0.01,
    beta: Beta = 0.1,
    sigma_start: SigmaStart = 1.0,
    sigma_end: SigmaEnd = 0.01,
    constant: Constant = False,
    max_steps: MaxSteps = 5000,
    steps: Annotated[
        int | None, typer.Option(help="noise levels of the others", show_default="20; ddim 40; consistency 1")
    ] = None,
    every: Annotated[int, typer.Option(help="draw the way too, a frame at every so many steps")] = 0,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Images from the prior in a denoiser.

    Exit codes: 0; 2 for bad input; 3 where an image stops above --sigma-end; 130 after Ctrl-C, which keeps
    what there is.
    """
    options: dict[str, Any] = {"sigma_start": sigma_start, "sigma_end": sigma_end, "every": every}
    if method == "ascent":
        options |= {"h0": h0, "beta": beta, "max_steps": max_steps, "growing": not constant}
    elif steps is not None:
        options["steps"] = steps
    with one_line_errors():
        if method == "ascent" and steps is not None:
            raise OptionError("--steps is for the other methods: the ascent takes --max-steps")
        if method != "ascent":
            told = [option for option in ASCENT if given(context, option)]
            if told:
                raise OptionError(f"of the ascent alone: {', '.join(told)}; {method} takes --steps")
        check_writable(out)
        model = _model(denoiser) if method != "ascent" else blind(denoiser, _model(denoiser))
        model.check_side("--size", size)
        shape = (model.channels, size, size)
        if method == "consistency":
            if not isinstance(model, Consistency):
                raise OptionError(
                    f"{denoiser} is of class {type(model).__name__}, and no consistency function: give one, "
                    "such as --denoiser consistency"
                )
            steps = 1 if steps is None else steps
            if not (math.inf > sigma_start > sigma_end > 0 and steps >= 1):
                raise OptionError("--sigma-start lies above --sigma-end, both positive, and --steps is >= 1")
            levels = np.geomspace(sigma_start, sigma_end, steps + 1)[:-1].tolist()
            options = {"levels": levels, "sigma_min": model.sigma_min, "every": every}
        elif isinstance(model, Consistency):
            raise OptionError(
                f"{denoiser} is a consistency function, and {method} is of denoisers: give --method "
                "consistency"
            )
        drawn = METHODS[method](model, shape, count, seed=seed, progress=not as_json, **options)
    pictures: dict[str, Callable[[Path], Any]] = {"sample.png": drawn.save_png}
    if every:
        pictures["trajectory.png"] = drawn.save_trajectory
    _finish(drawn, "sample", {"denoiser": denoiser, "size": size, **options}, [], pictures, out, as_json)


def solve(
    context: typer.Context,
    denoiser: Denoiser = "photos",
    image: Annotated[
        Path | None, typer.Option(help="the truth, grey or colour", show_default="the shipped photograph")
    ] = None,
    crop: Crop = None,
    measurement: Annotated[
        Literal["superres", "inpaint", "pixels", "random", "lowpass"],
        typer.Option(
            help="averages of blocks; all but a square in the middle; pixels at random; random projections; "
            "low frequencies"
        ),
    ] = "superres",
    factor: Annotated[int, typer.Option(help="superres: side of a block")] = 4,
    hole: Annotated[
        int | None, typer.Option(help="inpaint: side of the square", show_default="a quarter")
    ] = None,
    keep: Annotated[
        float, typer.Option(help="pixels, random, lowpass: the share of numbers that is measured")
    ] = 0.1,
    noise: Annotated[
        float, typer.Option(help="standard deviation of the noise on what is measured; 0 for none")
    ] = 0.0,
    count: Count = 4,
    h0: H0 = 0.01,
    beta: Beta = 0.1,
    sigma_start: SigmaStart = 1.0,
    sigma_end: SigmaEnd = 0.01,
    constant: Constant = False,
    max_steps: MaxSteps = 5000,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """A picture from linear measurements of it, drawn several times, beside the truth.

    The mean of the draws errs by less than they do on average. Exit codes as of sample.
    """
    with one_line_errors():
        check_writable(out)
        if count < 1:
            raise OptionError(f"--count must be >= 1, got {count}")
        for option, kinds in READ_BY.items():
            if given(context, option) and measurement not in kinds:
                raise OptionError(f"{option} is for --measurement {' or '.join(kinds)}, not {measurement}")
        if not noise >= 0:
            raise OptionError(f"--noise must be >= 0, got {noise:g}")
        model = blind(denoiser, _model(denoiser))
        truth = _square(image, crop, model)
        task = task_of(measurement, truth.shape, factor, hole, keep, seed)
        values = task.measurement.measure(truth)
        if noise:
            values = add_noise(values, noise, seed)
        levels = {"sigma_start": sigma_start, "sigma_end": sigma_end}
        options: dict[str, Any] = {"h0": h0, "beta": beta, **levels, "growing": not constant}
        found = denoisers.solve(
            model,
            task.measurement,
            values.expand(count, *values.shape[1:]),
            noise=noise,
            max_steps=max_steps,
            seed=seed,
            progress=not as_json,
            **options,
        )
    baseline, mean = task.baseline(values), found.images.mean(0, keepdim=True)
    each = psnr(truth.expand_as(found.images), found.images).tolist()
    of_mean, of_baseline = psnr(truth, mean).item(), psnr(truth, baseline).item()
    off = task.measurement.measure(found.images) - values
    residual = off.flatten(1).square().mean(1).sqrt().tolist()
    met = f"met to {off.abs().max():.0e}"
    if noise:
        met = f"with noise {noise:g}, met to {min(residual):.3g} to {max(residual):.3g} in root mean square"
    lines = [
        ("measured", f"{task.words}: {values.numel()} numbers for {truth.numel()}, {met}"),
        ("PSNR", f"{min(each):.2f} to {max(each):.2f} dB, the mean of the draws {of_mean:.2f} dB"),
        (task.name, f"{of_baseline:.2f} dB"),
    ]
    row = torch.cat([truth, baseline, mean, found.images[:1]])
    pictures: dict[str, Callable[[Path], Any]] = {
        "solve.png": lambda path: write_grid(path, row, len(row)),
        "draws.png": found.save_png,
    }
    if out is not None:
        lines.append(("solve.png", f"truth, {task.name}, mean of the draws, first draw"))
    asked = {
        "denoiser": denoiser,
        "image": None if image is None else str(image),
        "crop": crop,
        "measurement": measurement,
        "measured": task.words,
        "noise": noise,
        **options,
        "psnr": each,
        "psnr_of_mean": of_mean,
        "baseline": task.name,
        "psnr_of_baseline": of_baseline,
        "constraint": off.abs().max().item(),
        "residual": residual,
    }
    _finish(found, "solve", asked, lines, pictures, out, as_json)


@dataclass(frozen=True)
class Task:
    """A measurement, in words too, and an image made of its values without a denoiser, with its name."""

    measurement: Any
    words: str
    name: str
    baseline: Callable[[Tensor], Tensor]


def blind(denoiser: str, model: Network) -> Network:
    """The model, for the ascent.

    Raises:
        OptionError: it is told the noise level.
    """
    if not model.told:
        return model
    others = "consistency" if isinstance(model, Consistency) else "heun, ddim or langevin"
    raise OptionError(
        f"{denoiser} is told the noise level, and the ascent is of denoisers that are not, such as photos; "
        f"denoisers sample takes it with --method {others}"
    )


def _model(denoiser: str) -> Network:
    return denoisers.load(denoiser).to(device_at_hand())


def _square(image: Path | None, crop: tuple[int, int, int] | None, model: Network) -> Tensor:
    """The truth, (1, C, S, S): the crop, or the largest square in the middle that the network takes."""
    whole = picture_of(image, model.channels)
    height, width = whole.shape[2:]
    side = min(height, width) // model.side_multiple * model.side_multiple
    top, left, side = crop or ((height - side) // 2, (width - side) // 2, side)
    if min(top, left) < 0 or side < 1 or top + side > height or left + side > width:
        raise OptionError(f"a square of {side} at ({top}, {left}) leaves the {height}x{width} picture")
    return whole[:, :, top : top + side, left : left + side].contiguous()


def task_of(kind: str, shape: torch.Size, factor: int, hole: int | None, keep: float, seed: int) -> Task:
    """What --measurement and its options stand for, of images of a shape (1, C, S, S)."""
    size = shape[-1]
    if not 0 < keep <= 1:
        raise OptionError(f"--keep lies in (0, 1], got {keep:g}")
    if kind == "superres":
        blocks = BlockAverage(factor)

        def bicubic(values: Tensor) -> Tensor:
            return interpolate(values, scale_factor=factor, mode="bicubic", align_corners=False)

        return Task(blocks, f"averages of {factor}x{factor} pixels", "bicubic", bicubic)
    if kind in ("inpaint", "pixels"):
        side = max(1, size // 4) if hole is None else hole
        known = Inpainting.hole(size, side) if kind == "inpaint" else Inpainting.random(size, keep, seed)
        words = f"all but {side}x{side} pixels" if kind == "inpaint" else f"{100 * keep:g} % of the pixels"

        def grey(values: Tensor) -> Tensor:
            return torch.where(known.mask, known.adjoint(values), values.mean(-1)[..., None, None])

        return Task(known, words, "mean grey" if shape[1] == 1 else "mean colour", grey)
    if kind == "random":
        rows = RandomProjections(max(1, round(keep * shape.numel())), shape[1:], seed)
        return Task(rows, "random projections", "least norm", rows.adjoint)
    low = Frequencies.low_pass(size, size * math.sqrt(keep / math.pi))
    return Task(low, "low frequencies", "least norm", low.adjoint)


def _finish(
    found: Samples,
    name: str,
    asked: dict[str, Any],
    lines: list[tuple[str, str]],
    pictures: dict[str, Callable[[Path], Any]],
    out: Path | None,
    as_json: bool,
) -> None:
    """Tell, then write, then end with the right code: what took long is not lost for want of a disk."""
    files = [] if out is None else [out / file for file in (*pictures, f"{name}.safetensors")]
    if as_json:
        told = {
            "method": found.method,
            "seed": found.seed,
            "steps": found.steps.tolist(),
            "sigmas": found.sigmas.nan_to_num(math.inf).amin(1).tolist(),
            "converged": found.converged.tolist(),
            "evaluations": found.evaluations,
            "seconds": found.seconds,
            "notes": found.notes,
            "files": [str(path) for path in files],
        }
        print_json({**asked, **told})
    else:
        console = Console()
        for line in (*repr(found).splitlines(), *(f"  {label:12} {text}" for label, text in lines)):
            console.print(in_flags(line), highlight=False, markup=False, soft_wrap=True)

    def write_all() -> None:
        for draw, file in zip(pictures.values(), files, strict=False):
            draw(file)
        found.save(files[-1])

    write_files(files, as_json, write_all, label=f"  {'wrote':12}")
    end(found.notes, found.converged)
