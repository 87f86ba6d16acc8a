"""The `denoisers` command line."""

import typer
from rich.console import Console
from rich.table import Table

from denoisers import zoo
from denoisers.card import describe
from denoisers.commands.console import Version
from denoisers.commands.evaluation import compare, evaluate
from denoisers.commands.examples import epilog
from denoisers.commands.sampling import sample, solve
from denoisers.commands.training import train_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=epilog("denoisers sample"),
)


@app.callback()
def main(version: Version = False) -> None:
    """Denoisers: those that ship, training, evaluation, sampling and inverse problems."""


@app.command("list", epilog=epilog("denoisers list"))
def list_command() -> None:
    """The networks that ship with the package."""
    table = Table("name", "network", "sides", title="shipped denoisers")
    for name in zoo.available():
        model = zoo.load(name)
        table.add_row(name, describe(model), f"multiples of {model.side_multiple}")
    Console().print(table)


# `--help` lists what one starts with first.
for command in (sample, solve, evaluate, compare):
    app.command(epilog=epilog(f"denoisers {command.__name__}"))(command)

app.command("train", epilog=epilog("denoisers train"))(train_command)
