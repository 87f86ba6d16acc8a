"""The `denoisers` command line."""

from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from denoisers import zoo
from denoisers.card import describe
from denoisers.commands.console import Commands, Json, Version, name_flags, print_json
from denoisers.commands.evaluation import compare, evaluate
from denoisers.commands.examples import epilog
from denoisers.commands.sampling import sample, solve
from denoisers.commands.training import train_command
from denoisers.networks import Denoiser

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=epilog("denoisers sample"),
)


@app.callback()
def main(context: typer.Context, version: Version = False) -> None:
    """Denoisers: those that ship, training, evaluation, sampling and inverse problems."""
    name_flags(context)


@app.command("list", epilog=epilog("denoisers list"))
def list_command(as_json: Json = False) -> None:
    """The networks that ship with the package."""
    models = {name: zoo.load(name) for name in zoo.available()}
    if as_json:
        print_json([_told(name, model) for name, model in models.items()])
        return
    table = Table("name", "network", "noise level", "sides", title="shipped denoisers", title_justify="left")
    for name, model in models.items():
        level = "told" if model.told else "any"
        table.add_row(name, describe(model), level, f"multiples of {model.side_multiple}")
    Console().print(table)


def _told(name: str, model: Denoiser) -> dict[str, Any]:
    return {
        "name": name,
        "network": type(model).__name__,
        "config": model.config,
        "parameters": sum(p.numel() for p in model.parameters()),
        "channels": model.channels,
        "side_multiple": model.side_multiple,
        "told_sigma": model.told,
    }


# `--help` lists what one starts with first.
for command in (sample, solve, evaluate, compare):
    app.command(epilog=epilog(f"denoisers {command.__name__}"))(command)

app.command("train", epilog=epilog("denoisers train"))(train_command)


if __name__ == "__main__":
    app()
