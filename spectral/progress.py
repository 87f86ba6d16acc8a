"""Progress of what lasts longer than two seconds: a bar where it can be drawn, lines now and then in logs."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from spectral.solvers.control import Progress as Standing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

PATIENCE = 2.0
BETWEEN = 30.0  # seconds between two lines of a log


@contextlib.contextmanager
def bar(shown: bool, what: str, unit: str = "products") -> Iterator[Callable[[Standing], None] | None]:
    """A callback for a solver's `progress`, which tells it on standard error; None where not shown.

    unit: what `Standing.products` counts.
    """
    console = _console(shown)
    if console is None:
        tell = _now_and_then(what) if shown else None
        yield None if tell is None else lambda now: tell(_state(now, unit))
        return
    began = time.monotonic()
    first: list[float] = []
    display = _display(console)
    task = display.add_task(what, total=1.0, state="")

    def report(now: Standing) -> None:
        if time.monotonic() - began < PATIENCE:
            return
        if not first:
            display.start()
        # Residuals fall geometrically, so the way to the tolerance is measured in their logarithm.
        worst = math.log(max(now.worst_residual / now.tolerance, 1.0)) if now.tolerance > 0 else 0.0
        first[:] = first or [max(worst, 1e-9)]
        state = _state(now, unit)
        if now.stage == "completeness":  # nobody knows how long
            display.update(task, total=None, state=state)
            return
        display.update(task, total=1.0, completed=1 - min(worst / first[0], 1.0), state=state)

    try:
        yield report
    finally:
        if first:
            display.stop()


@contextlib.contextmanager
def counting(
    shown: bool, what: str, console: Console | None = None
) -> Iterator[Callable[[int, int, str], None] | None]:
    """A callback for how many of how many are done and a word beside, told on standard error; or None.

    console: where a bar is drawn instead.
    """
    console = _console(shown) if console is None else console
    if console is None:
        tell = _now_and_then(what) if shown else None
        yield (
            None
            if tell is None
            else lambda done, total, state: tell(f"{done}/{total}{state and f', {state}'}")
        )
        return
    from rich.progress import MofNCompleteColumn  # noqa: PLC0415

    # An estimate over all that has been seen: what is counted comes many at once.
    with _display(console, MofNCompleteColumn(), speed_estimate_period=1e9) as display:
        task = display.add_task(what, total=None, state="")
        yield lambda done, total, state: display.update(task, completed=done, total=total, state=state)


@contextlib.contextmanager
def working(shown: bool, what: str) -> Iterator[None]:
    """The time so far on standard error, while something lasts of which nobody knows how long."""
    console = _console(shown)
    if console is None:
        with _ticking(what) if shown else contextlib.nullcontext():
            yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = TextColumn("{task.description}"), BarColumn(bar_width=10), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as display:
        display.add_task(what, total=None)
        yield


def _display(console: Console, *counted: ProgressColumn, **options: float) -> Progress:
    """A bar between what is done and its `state`, with the time so far and the time left."""
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        *counted,
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=console, transient=True, **options)  # type: ignore[arg-type]


def _state(now: Standing, unit: str) -> str:
    if now.stage == "completeness":
        return f"looking for more, {now.products} {unit}"
    return f"{now.converged}/{now.wanted} at {now.worst_residual:.0e}, {now.products} {unit}"


def _now_and_then(what: str) -> Callable[[str], None]:
    """A function that prints what it is given, each half a minute."""
    began = last = time.monotonic()

    def tell(state: str) -> None:
        nonlocal last
        if time.monotonic() - last >= BETWEEN:
            last = time.monotonic()
            _print(f"{what}: {state}, {last - began:.0f} s")

    return tell


@contextlib.contextmanager
def _ticking(what: str) -> Iterator[None]:
    """A line each half a minute, by a thread of its own, since nothing calls back."""
    began, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(BETWEEN):
            _print(f"{what}: {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _print(line: str) -> None:
    from rich.console import Console  # noqa: PLC0415

    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _console(shown: bool) -> Console | None:
    """Standard error, where what is drawn can be drawn over: elsewhere a display leaves lines behind."""
    if not shown:
        return None
    from rich.console import Console  # noqa: PLC0415  not for those who want no bar

    console = Console(stderr=True)
    return console if (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter else None
