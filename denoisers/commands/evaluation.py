"""The commands `denoisers evaluate` and `denoisers compare`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

import denoisers
from denoisers.commands.console import (
    Json,
    Out,
    Picture,
    check_writable,
    device_at_hand,
    end,
    one_line_errors,
    picture_of,
    print_json,
    tell,
    write_files,
)
from denoisers.commands.sampling import blind
from denoisers.evaluation import Comparison, add_noise, homogeneity, psnr_curve, sure_check
from denoisers.evaluation import compare as compare_networks
from denoisers.evaluation.homogeneity import Homogeneity
from denoisers.evaluation.psnr import PSNRCurve, rows_of
from denoisers.evaluation.spread import FEWEST, parts, told
from denoisers.evaluation.surecheck import SureCheck
from denoisers.images.calpha import synthesize
from denoisers.images.pictures import Folder
from denoisers.images.stack import Stack, pictures_at
from denoisers.networks import Denoiser
from spectral.errors import OptionError
from spectral.estimators import Estimate
from spectral.progress import working
from spectral.risk.level import takes_sigma

LEVELS = [0.05, 0.1, 0.3]
CURVE_LEVELS = [10 ** (-decibels / 20) for decibels in np.arange(10, 30.1, 2.5).tolist()]

NETWORK = "a name of `denoisers list`, a run's folder, or a weights file"
Network = Annotated[str, typer.Argument(help=NETWORK)]


def evaluate(
    denoiser: Network,
    image: Picture = None,
    patch_size: Annotated[
        int | None, typer.Option(help="cut the picture into squares of this side, an image each")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="C^alpha images instead: their exponent")] = None,
    data: Annotated[
        Path | None, typer.Option(help="the pictures of a folder or an .npz file instead")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="how many C^alpha images, or pictures of --data", show_default="64")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="their side; pictures are averaged down to it", show_default="48")
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            "--sigma",
            help="noise level; may be repeated",
            show_default="0.05, 0.1, 0.3; of --curve 10 to 30 dB in 9 steps",
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="output against input PSNR: its slope, and with --out a figure")
    ] = False,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="input PSNR in dB between which the slope is fitted"),
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--homogeneity", help="|f(s y) - s f(y)| / |s f(y)| for several s")
    ] = False,
    sure: Annotated[
        bool, typer.Option("--sure", help="SURE against the true squared error; with --out a figure")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the noise, and of the C^alpha images")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """PSNR before and after denoising, in dB with peak 1, mean over the images; and more where it is asked.

    Errors are 95 % intervals over images, and told of three at least. The JSON is a list with a row for each
    noise level; where more is asked for, an object that has this list as "psnr".
    """
    with one_line_errors():
        if out is not None and not (curve or sure):
            raise OptionError("--out is for the figures of --curve and --sure: give one of them")
        if window is not None and not curve:
            raise OptionError("--window is for --curve, in which a slope is fitted")
        check_writable(out)
        model = denoisers.load(denoiser)
        if alpha is None and data is None and (count is not None or size is not None):
            raise OptionError("--count and --size are of the images of --alpha or --data: give one of them")
        count, size = 64 if count is None else count, 48 if size is None else size
        if count < 1:
            raise OptionError(f"--count must be >= 1, got {count}")
        images, about = _images(model, image, patch_size, alpha, data, count, size, seed)
        levels = sigma or (CURVE_LEVELS if curve else LEVELS)
        device = device_at_hand()
        model, images = model.to(device), images.to(device)
        scaled, checked, slope = None, None, None
        with working(not as_json, "denoising"):
            found = psnr_curve(model, images, levels, seed)
            inside = window or (-math.inf, math.inf)
            if curve:
                slope = found.slope(*inside)
            if scaling:
                scaled = homogeneity(model, add_noise(images, levels[len(levels) // 2], seed))
            if sure:
                keyword = "sigma" if takes_sigma(model) else None
                checked = sure_check(model, images, levels, seed=seed, sigma_keyword=keyword)
    name = Path(denoiser).stem
    writes: dict[Path, Callable[[Path], object]] = {}
    title = f"{name}, {about}"
    if out is not None and curve:
        writes[out / "curve.png"] = lambda path: found.plot(inside, title).savefig(path)
        writes[out / "curve.safetensors"] = found.save
    if out is not None and checked is not None:
        writes[out / "sure.png"] = lambda path: checked.plot(title).savefig(path)
        writes[out / "sure.safetensors"] = checked.save
    if as_json:
        _print_json(found, slope, window, scaled, checked, denoiser, about, [str(path) for path in writes])
    else:
        _print(found, slope, window, scaled, checked, title)
    write_files(list(writes), as_json, lambda: [write(path) for path, write in writes.items()])


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=NETWORK)],
    second: Annotated[str, typer.Argument(metavar="B", help="another, trained on other images")],
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="PATH",
            help="a folder or an .npz file of the pictures A was trained on; given again, those of B",
        ),
    ],
    size: Annotated[int, typer.Option(help="side of the images; pictures are averaged down to it")] = 64,
    count: Annotated[int, typer.Option(help="samples of each; sample i of a seed is the same for any")] = 8,
    h0: Annotated[float, typer.Option(help="the first step, in (0, 1]; smaller ones are slower")] = 0.01,
    beta: Annotated[float, typer.Option(help="share of the noise a step removes; 1 adds none")] = 0.1,
    sigma_start: Annotated[float, typer.Option(help="noise level to start from")] = 1.0,
    sigma_end: Annotated[float, typer.Option(help="noise level to stop at")] = 0.01,
    max_steps: Annotated[int, typer.Option(help="a bound on the steps of each image")] = 5000,
    centred: Annotated[
        bool, typer.Option("--centred", help="the nearest images, and the figure, by centred similarities")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the noise, the same for both")] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Samples of two networks from the same noise, and the training image nearest to each.

    Networks that learned a distribution from different images draw the same; those that learned images by
    heart draw these. Exit codes: 0; 2 for bad input; 3 where an image stops above --sigma-end; 130 after
    Ctrl-C.
    """
    with one_line_errors():
        check_writable(out)
        if len(data) != 2:
            raise OptionError(f"--data is given twice, for A and for B; got {len(data)}")
        device = device_at_hand()
        models = [blind(name, denoisers.load(name).to(device)) for name in (first, second)]
        if models[0].channels != models[1].channels:
            raise OptionError(
                f"A takes {models[0].channels} channels and B {models[1].channels}: they draw other images"
            )
        for model in models:
            model.check_side("--size", size)
        sets = [pictures_at(path, size, colour=models[0].channels == 3) for path in data]
        with working(not as_json, "reading"):
            training = [_read(pictures, pictures.count, size) for pictures in sets]
        found = compare_networks(
            *models,
            *training,
            count=count,
            h0=h0,
            beta=beta,
            sigma_start=sigma_start,
            sigma_end=sigma_end,
            max_steps=max_steps,
            seed=seed,
            progress=not as_json,
        )
    files = [out / "compare.png", out / "compare.safetensors"] if out else []
    near = [
        [pictures.names[int(j)] for j in nearby.index]
        for pictures, nearby in zip(sets, found.neighbours(centred), strict=True)
    ]
    if as_json:
        asked = {
            "denoisers": [first, second],
            "data": [str(path) for path in data],
            "training_images": [pictures.count for pictures in sets],
            "size": size,
            "seed": seed,
            "centred": centred,
        }
        print_json(asked | _compared(found, near) | {"files": [str(path) for path in files]})
    else:
        _print_comparison(found, near, centred, Path(first).stem, Path(second).stem)

    def write_all() -> None:
        found.plot(centred, f"A: {Path(first).stem}, B: {Path(second).stem}").savefig(files[0])
        found.save(files[1])

    write_files(files, as_json, write_all)
    end([], torch.cat([found.first.converged, found.second.converged]))


def _images(
    model: Denoiser,
    image: Path | None,
    patch_size: int | None,
    alpha: float | None,
    data: Path | None,
    count: int,
    size: int,
    seed: int,
) -> tuple[Tensor, str]:
    """The images (N, C, H, W), and what they are in words."""
    if sum(given is not None for given in (image, alpha, data)) > 1:
        raise OptionError("give one of --image, --alpha and --data")
    if patch_size is not None and (alpha is not None or data is not None):
        raise OptionError("--patch-size is for one picture: give no --alpha and no --data")
    if alpha is not None or data is not None:
        model.check_side("--size", size)
    if patch_size is not None:
        model.check_side("--patch-size", patch_size)
    colour = model.channels == 3
    found: NDArray[np.float32]
    if alpha is not None:
        if model.channels > 1:
            raise OptionError(f"C^alpha images are grey, and the network takes {model.channels} channels")
        found = synthesize(count, size=size, alpha=alpha, seed=seed)
        return torch.from_numpy(found), f"{count} images of {size}x{size}, alpha = {alpha:g}"
    if data is not None:
        pictures = pictures_at(data, size, colour=colour)
        found = _read(pictures, min(count, pictures.count), size)
        return torch.from_numpy(found), f"{len(found)} pictures of {data}, {size}x{size}"
    whole = picture_of(image, model.channels)
    name = "the shipped photograph" if image is None else image.name
    height, width = whole.shape[2:]
    if patch_size is None:
        rows, columns = (side // model.side_multiple * model.side_multiple for side in (height, width))
        if not rows * columns:
            raise OptionError(f"{name} is {height}x{width}, and sides are multiples of {model.side_multiple}")
        if (rows, columns) != (height, width):
            name = f"{rows}x{columns} pixels in the middle of {name}"
        top, left = (height - rows) // 2, (width - columns) // 2
        return whole[:, :, top : top + rows, left : left + columns].contiguous(), name
    if patch_size > min(height, width):
        raise OptionError(f"--patch-size is at most a side of the {height}x{width} picture, got {patch_size}")
    squares = whole[0].unfold(1, patch_size, patch_size).unfold(2, patch_size, patch_size)
    squares = squares.permute(1, 2, 0, 3, 4).reshape(-1, len(squares), patch_size, patch_size)
    return squares.contiguous(), f"{len(squares)} patches of {patch_size}x{patch_size} of {name}"


def _read(pictures: Folder | Stack, count: int, size: int) -> NDArray[np.float32]:
    """The first pictures, averaged down: those interpolated up would be smoother than what they are of.

    Raises:
        OptionError: one is smaller than size.
    """
    for i in range(count):
        if 0 < (side := pictures.side(i)) < size:
            raise OptionError(
                f"{pictures.names[i]} is {side} pixels wide or high, and is not enlarged: --size {side} at "
                f"most, got {size}; or leave that picture out"
            )
    return pictures(count)


def _print(
    found: PSNRCurve,
    slope: Estimate | None,
    window: tuple[float, float] | None,
    scaled: Homogeneity | None,
    checked: SureCheck | None,
    title: str,
) -> None:
    console = Console(soft_wrap=True)
    table = Table("sigma", "noisy (dB)", "denoised (dB)", title=f"PSNR of {title}", title_justify="left")
    for row, mean in zip(rows_of(found), parts(found.mean()), strict=True):
        table.add_row(f"{row.sigma:.4g}", f"{row.noisy:.2f}", told(mean, 2))
    console.print(table)
    lines = []
    if slope is not None:
        where = "" if window is None else f" from {window[0]:g} to {window[1]:g} dB"
        off = found.misfit(*(window or ()))
        lines.append(("slope", f"{told(slope)}{where}; the curve is off its line by {off:.2f} dB"))
    if scaled is not None:
        each = ", ".join(
            f"s = {s:g}: {e:.0e}" for s, e in zip(scaled.scales.tolist(), scaled.each.tolist(), strict=True)
        )
        lines.append(("homogeneity", f"|f(s y) - s f(y)| / |s f(y)| at most {scaled.worst:.1e} ({each})"))
    if (count := found.noisy.shape[1]) < FEWEST:
        more = "give --patch-size, --alpha, or --data and --count"
        lines.append(("note", f"errors over images take {FEWEST} of them at least, got {count}: {more}"))
    tell(lines)
    if checked is not None:
        console.print(_sure_table(checked))


def _sure_table(checked: SureCheck) -> Table:
    spent = f"{checked.curve.products} products per image"
    table = Table(
        "sigma",
        "true",
        "SURE",
        "SURE - true",
        "true inside SURE's 95 %",
        title=f"mean squared error per pixel in {checked.unit:g}, {spent}",
        title_justify="left",
    )
    columns = (checked.curve.sigmas.tolist(), checked.in_words(), checked.covered.tolist())
    for sigma, cells, share in zip(*columns, strict=True):
        table.add_row(f"{sigma:.4g}", *cells, f"{100 * share:.0f} % of images")
    return table


def _print_json(
    found: PSNRCurve,
    slope: Estimate | None,
    window: tuple[float, float] | None,
    scaled: Homogeneity | None,
    checked: SureCheck | None,
    denoiser: str,
    about: str,
    files: list[str],
) -> None:
    rows = [vars(row) for row in rows_of(found)]
    more: dict[str, Any] = {}
    if slope is not None:
        fitted = _numbers(slope) | {"window": window, "misfit": found.misfit(*(window or ()))}
        more["curve"] = {"sigmas": found.sigmas.tolist(), "denoised": _numbers(found.mean()), "slope": fitted}
    if scaled is not None:
        each = {"scales": scaled.scales.tolist(), "errors": scaled.each.tolist()}
        more["homogeneity"] = each | {"worst": scaled.worst}
    if checked is not None:
        more["sure"] = {
            "sigmas": checked.curve.sigmas.tolist(),
            "true": _numbers(checked.true),
            "sure": _numbers(checked.sure),
            "difference": _numbers(checked.difference),
            "covered": checked.covered.tolist(),
            "products": checked.curve.products,
        }
    if not more:
        print_json(rows)
        return
    asked = {"denoiser": denoiser, "images": about, "count": found.noisy.shape[1], "psnr": rows}
    print_json(asked | more | {"files": files})


def _numbers(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.interval(0.95)
    named = {"value": estimate.value, "stderr": estimate.stderr, "low95": low, "high95": high}
    return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in named.items()}


def _compared(found: Comparison, near: list[list[str]]) -> dict[str, Any]:
    told_: dict[str, Any] = {}
    for name, centred in (("uncentred", False), ("centred", True)):
        each, means = found.similarities(centred), found.mean(centred)
        told_[name] = {key: _numbers(means[key]) | {"each": each[key].tolist()} for key in each}
    drawn = (found.first, found.second)
    return told_ | {
        "nearest": near,
        "steps": [samples.steps.tolist() for samples in drawn],
        "converged": [samples.converged.tolist() for samples in drawn],
        "notes": [samples.notes for samples in drawn],
        "seconds": [samples.seconds for samples in drawn],
    }


def _print_comparison(
    found: Comparison, near: list[list[str]], by_centred: bool, first: str, second: str
) -> None:
    console = Console(soft_wrap=True)
    table = Table(
        title=f"A: {first}, B: {second}; cosine similarity (centred), and the nearest training image "
        f"{'by the centred one' if by_centred else 'by the first'}",
        title_justify="left",
    )
    for name in ("sample", "A to B", "A to its nearest", "", "B to its nearest", ""):
        table.add_column(name, justify="right" if name else "left")
    plain, centred = found.similarities(), found.similarities(centred=True)
    for i in range(len(found.between)):
        both = [f"{plain[key][i]:.3f} ({centred[key][i]:.3f})" for key in plain]
        table.add_row(str(i), both[0], both[1], near[0][i], both[2], near[1][i])
    console.print(table)
    words = {"between": "A to B", "first": "A to nearest", "second": "B to nearest"}
    means, of_centred = found.mean(), found.mean(centred=True)
    tell((text, f"{told(means[key])}; centred {told(of_centred[key])}") for key, text in words.items())
    if (count := len(found.between)) < FEWEST:
        tell([("note", f"errors over samples take {FEWEST} of them at least, got {count}: give --count")])
    for samples, name in ((found.first, "A"), (found.second, "B")):
        tell((f"note, {name}", note) for note in samples.notes)
