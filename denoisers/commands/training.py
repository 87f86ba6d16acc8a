"""`denoisers train`: its options are the fields of a training configuration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from denoisers.card import write_card
from denoisers.commands.console import check_writable, one_line_errors
from denoisers.training import RECIPES, TrainConfig, train
from denoisers.training.config import GENERATED
from denoisers.training.run import WORKERS
from spectral.errors import OptionError
from spectral.options import variable

HELP = {
    "data": f"photos, {', '.join(GENERATED)}, or pictures: a folder, an .npz file, or photos+FOLDER",
    "network": "UNet, BFCNN, ConditionalUNet, EDM or Consistency",
    "network_config": 'as JSON: {"blocks": 2, "width": 32}',
    "start": "a run's folder, weights or a shipped network to go on from",
    "frozen": "norms divide by what they do in --start",
    "objective": "what is minimised",
    "alpha": "exponents of the calpha images",
    "beta": "of their backgrounds, where it is another",
    "zoom": "patches of pictures averaged r x r too, r up to this",
    "shuffled": "pixels in another order, the same for all images",
    "images": "this many images again and again; 0: without end",
    "half": "which of two disjoint sets of so many",
    "size": "side of the images",
    "batch": "images per step, over all processes",
    "steps": "steps of Adam",
    "learning_rate": "Adam's step size",
    "schedule": "how it falls",
    "halvings": "how often it is halved",
    "warmup": "steps in which it rises",
    "clip": "norm that gradients are cut to",
    "ema": "decay of the mean of the weights that is written",
    "noise": "law of the noise levels: sigma_max U, sigma_max U^2, ...",
    "sigma_min": "the smallest noise level",
    "sigma_max": "the largest noise level",
    "log_mean": "log-normal: mean of the logarithm",
    "log_sd": "log-normal: its deviation",
    "emphasis": "low noise counts for more, as sigma^-emphasis",
    "precision": "of the network's arithmetic",
    "seed": "of weights, order and noise",
    "data_seed": "of the images",
}


def _default(field: Field[Any]) -> str:
    """What a field is where no option names it."""
    if field.default is MISSING:
        return "the recipe's"
    told = {"None": "the network's own", "": "none", "False": "no"}.get(
        str(field.default), str(field.default)
    )
    of_recipes = all(getattr(recipe, field.name) == field.default for recipe in RECIPES.values())
    return told if of_recipes else f"{told}, or the recipe's"


def _with_fields(function: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of `TrainConfig` in the place of **chosen."""
    hints = get_type_hints(TrainConfig) | {"network_config": str}
    extra = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                hints[field.name] | None, typer.Option(help=HELP[field.name], show_default=_default(field))
            ],
        )
        for field in fields(TrainConfig)
    ]
    own = get_type_hints(function, include_extras=True)
    given = [
        p.replace(annotation=own[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    signature = inspect.Signature([given[0], *extra, *given[1:]])
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return function


@_with_fields
def train_command(
    name: Annotated[str, typer.Argument(help=f"a recipe ({', '.join(RECIPES)}), or a new name with --data")],
    out: Annotated[Path | None, typer.Option(help="folder of the run", show_default="runs/NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace weights that exist")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="by torch.compile")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write events too")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="file for a folder's pictures, with --images: read once")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="processes that make the next batches", show_default=f"{WORKERS} beside a GPU"),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="in steps")] = 200,
    validate_every: Annotated[int, typer.Option(help="in steps")] = 500,
    **chosen: Any,
) -> None:
    """Train a network; Ctrl-C stops it with a checkpoint, --resume goes on with the run's own options.

    Several processes: torchrun --nproc-per-node 2 -m -- denoisers train NAME ...
    """
    chosen = {key: value for key, value in chosen.items() if value is not None}
    path = out or Path("runs") / name
    console = Console(soft_wrap=True)
    with one_line_errors():
        if "network_config" in chosen:
            chosen["network_config"] = _json_object(chosen["network_config"])
        config = _recipe(name, chosen, path if resume else None)
        check_writable(path.parent)
        first = variable("RANK", 0) == 0
        try:
            train(
                config,
                path,
                resume=resume,
                overwrite=overwrite,
                checkpoint_every=checkpoint_every,
                validate_every=validate_every,
                device=device,
                compile=compile,
                tensorboard=tensorboard,
                cache=cache,
                workers=workers,
            )
        except KeyboardInterrupt as stop:
            if first:
                left = (path / "checkpoint.safetensors").is_file()
                outside = (
                    "stopped; --resume goes on from the checkpoint" if left else "stopped; nothing is left"
                )
                console.print(f"[yellow]{str(stop) or outside}")
            raise typer.Exit(130) from None
        if first:  # which has written the weights: in others they may be those from before
            console.print(f"wrote {path / 'weights.safetensors'} and {write_card(path)}")


def _recipe(name: str, chosen: dict[str, Any], begun: Path | None) -> TrainConfig:
    """What is chosen, and besides what the folder of a run that goes on says, or the recipe of that name."""
    if begun is not None and (file := begun / "config.json").is_file():
        return replace(TrainConfig.from_json(file.read_text(), str(file)), **chosen)
    if name in RECIPES:
        config = replace(RECIPES[name], **chosen)
    elif "data" in chosen:
        config = TrainConfig(**chosen)
    elif begun is not None:
        raise OptionError(f"no run at {begun}: name its folder by --out, or start one without --resume")
    else:
        raise OptionError(
            f"no recipe named {name!r}: give one of {', '.join(RECIPES)}, or --data for a new one"
        )
    for field in chosen:
        if why := config.unread(field):
            raise OptionError(f"--{field.replace('_', '-')} would do nothing: {why}")
    return config


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"--network-config is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"--network-config must be a JSON object, got {text}")
    return value
