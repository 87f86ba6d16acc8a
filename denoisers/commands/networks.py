"""The `denoisers` command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from denoisers import zoo
from denoisers.card import describe, write_card
from denoisers.commands.console import Picture, check_writable, one_line_errors, print_json
from denoisers.commands.sampling import sample, solve
from denoisers.evaluation import psnr_table
from denoisers.images.calpha import synthesize
from denoisers.images.folder import photograph, read_grey
from denoisers.training import RECIPES, TrainConfig, train
from spectral.errors import OptionError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Bias-free denoisers."
)
OUTSIDE = ("name", "out", "resume", "overwrite")  # options that are no part of a configuration
for command in (sample, solve):
    app.command()(command)

Sigmas = Annotated[list[float] | None, typer.Option("--sigma", help="noise level; may be repeated")]


@app.command("train")
def train_command(
    name: Annotated[str, typer.Argument(help=f"a recipe ({', '.join(RECIPES)}), or a new name with --data")],
    data: Annotated[str | None, typer.Option(help="calpha, photos, or a folder of pictures")] = None,
    network: Annotated[str | None, typer.Option(help="UNet or BFCNN")] = None,
    network_config: Annotated[str | None, typer.Option(help='as JSON: {"blocks": 2, "width": 32}')] = None,
    alpha: Annotated[float | None, typer.Option(help="exponents of the calpha images")] = None,
    size: Annotated[int | None, typer.Option(help="side of the patches")] = None,
    batch: Annotated[int | None, typer.Option(help="patches a step")] = None,
    steps: Annotated[int | None, typer.Option(help="steps of Adam")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's first step size")] = None,
    halvings: Annotated[int | None, typer.Option(help="how often it is halved")] = None,
    noise: Annotated[str | None, typer.Option(help="uniform: sigma_max U; squared: sigma_max U^2")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="the largest noise level")] = None,
    seed: Annotated[int | None, typer.Option(help="of weights, data and noise")] = None,
    out: Annotated[
        Path | None, typer.Option(help="weights file to write", show_default="runs/NAME.safetensors")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace weights that exist")] = False,
) -> None:
    """Train a network; Ctrl-C stops it with a checkpoint, --resume goes on."""
    chosen = {k: v for k, v in locals().items() if k not in OUTSIDE and v is not None}
    path = out or Path("runs") / f"{name}.safetensors"
    console = Console()
    with one_line_errors():
        if network_config is not None:
            chosen["network_config"] = _json_object(network_config)
        config = _recipe(name, chosen)
        check_writable(path.parent)
        try:
            train(config, path, resume=resume, overwrite=overwrite, console=console)
        except KeyboardInterrupt as stop:
            console.print(f"[yellow]{stop or 'stopped'}")
            raise typer.Exit(130) from None
        console.print(f"wrote {path} and {write_card(path)}")


@app.command("list")
def list_command() -> None:
    """The networks that ship with the package."""
    table = Table("name", "network", "sides", title="shipped denoisers")
    for name in zoo.available():
        model = zoo.load(name)
        table.add_row(name, describe(model), f"multiples of {model.side_multiple}")
    Console().print(table)


@app.command("evaluate")
def evaluate_command(
    denoiser: Annotated[str, typer.Argument(help="a name of `denoisers list`, or a weights file")],
    image: Picture = None,
    alpha: Annotated[float | None, typer.Option(help="C^alpha images instead: their exponent")] = None,
    count: Annotated[int, typer.Option(help="how many C^alpha images")] = 64,
    size: Annotated[int, typer.Option(help="their side")] = 48,
    sigma: Sigmas = None,
    seed: Annotated[int, typer.Option(help="of the noise, and of the C^alpha images")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """PSNR before and after denoising, in dB with peak 1, mean over the images."""
    with one_line_errors():
        if image is not None and alpha is not None:
            raise OptionError("give --image or --alpha, not both")
        model = zoo.load(denoiser)
        if alpha is not None:
            images = synthesize(count, size=size, alpha=alpha, seed=seed)
        else:
            images = photograph() if image is None else read_grey(image)
        rows = psnr_table(model, torch.from_numpy(images), sigma or [0.05, 0.1, 0.3], seed)
    if as_json:
        print_json([vars(row) for row in rows])
        return
    table = Table("sigma", "noisy (dB)", "denoised (dB)", title=f"PSNR of {Path(denoiser).stem}")
    for row in rows:
        table.add_row(f"{row.sigma:.4g}", f"{row.noisy:.2f}", f"{row.denoised:.2f}")
    Console().print(table)


def _recipe(name: str, chosen: dict[str, Any]) -> TrainConfig:
    if name in RECIPES:
        return replace(RECIPES[name], **chosen)
    if "data" not in chosen:
        raise OptionError(
            f"no recipe named {name!r}: give one of {', '.join(RECIPES)}, or --data for a new one"
        )
    return TrainConfig(**chosen)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"--network-config is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"--network-config must be a JSON object, got {text}")
    return value
