"""Figures of arXiv 2310.02557, and of a report on it, made anew with intervals.

NAME is one of `--list`. Networks are trained into RUNS, a folder for each configuration, and found again
there; training that is stopped, by Ctrl-C, kill -9 or --minutes, goes on at the next call. Calls at the same
time share it, a network each. With --images PATH the figures of finite sets and of shuffled pixels are of
pictures of your own, and what shows them stays in RUNS.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from benchmarks.paper.figure import PaperFigure, loader
from benchmarks.paper.need import chain, train_all
from benchmarks.paper.networks import Scale
from benchmarks.paper.page import DOCS, better, publish, record, save, tables
from benchmarks.paper.registry import FIGURES, on_pictures
from benchmarks.paper.subject import Pictures
from denoisers.commands.console import one_line_errors

INTERRUPTED = 130

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
@one_line_errors()
def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="figures; all where none")
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="small: minutes on a CPU; gpu: minutes on a GPU; paper: as in the paper")
    ] = "small",
    runs: Annotated[Path, typer.Option(help="folder of the trained networks")] = Path("runs/paper"),
    images: Annotated[
        Path | None, typer.Option(help="pictures instead: an .npz of `images` (n, H, W) uint8, or a folder")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder of PNG and JSON", show_default="out/paper; with --images that of runs"),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help=f"into {DOCS.name} of the docs, and its page")
    ] = False,
    minutes: Annotated[float, typer.Option(help="stop after so long; the next call goes on")] = 0.0,
    train_only: Annotated[bool, typer.Option("--train-only", help="measure nothing")] = False,
    list_them: Annotated[bool, typer.Option("--list", help="figures, and what they need")] = False,
) -> None:
    """Train, measure, write."""
    console = Console()
    figures = FIGURES if images is None else on_pictures(Pictures(images, runs))
    unknown = [name for name in names or () if name not in figures]
    if unknown:
        such = "" if images is None else " of pictures"
        raise typer.BadParameter(f"no figure{such} {', '.join(unknown)}: give some of {', '.join(figures)}")
    chosen = [figures[name] for name in names or figures]
    out = out or (Path("out/paper") if images is None else runs)
    if list_them:
        show(console, chosen, scale, runs)
        return
    try:
        with time_limit(minutes):
            if train_only:
                train_all([need for figure in chosen for need in figure.needs(scale)], runs, console)
                return
            for figure in chosen:
                if write and (above := better(DOCS, figure.file, scale)):
                    console.print(f"{figure.file}: {DOCS.name} has it at scale {above}, which is kept")
                else:
                    one(console, figure, scale, runs, DOCS if write else out)
    except KeyboardInterrupt as stop:
        console.print(f"[yellow]{str(stop) or 'stopped'}; the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if write and not train_only:
            publish(DOCS)


def one(console: Console, figure: PaperFigure, scale: Scale, runs: Path, out: Path) -> None:
    """A figure from its networks to its files."""
    train_all(figure.needs(scale), runs, console)
    began = time.perf_counter()
    made = figure.measure(scale, loader(runs))
    told = record(figure, scale, made, runs)
    files = save(out, told, made)
    console.print(tables(told), markup=False, highlight=False, soft_wrap=True)
    console.print(f"{figure.file}: wrote {', '.join(map(str, files))} in {time.perf_counter() - began:.0f} s")


def show(console: Console, figures: list[PaperFigure], scale: Scale, runs: Path) -> None:
    """Names, what they show, how many of their networks are there at each scale, and which at this one."""
    width = max(14, *(len(figure.file) for figure in figures))
    for figure in figures:
        counts = []
        for each in get_args(Scale):
            needs = chain(figure.needs(each))
            counts.append(f"{each} {sum(need.ready(runs) for need in needs)}/{len(needs)}")
        there = f"networks: {', '.join(counts)}"
        console.print(f"{figure.file:{width}} {figure.number:24} {there:44} {figure.title}", soft_wrap=True)
        for need in chain(figure.needs(scale)):
            console.print(
                f"{'':{width}} {'ready' if need.ready(runs) else 'to train':8} {need.name}", soft_wrap=True
            )


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Ctrl-C after so many minutes; never where that is 0."""
    if not minutes:
        yield
        return
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    app()
