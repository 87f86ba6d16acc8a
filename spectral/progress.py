"""A progress bar for solves that take longer than two seconds."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from spectral.solvers.search import Progress as Standing

PATIENCE = 2.0


@contextlib.contextmanager
def bar(shown: bool, what: str) -> Iterator[Callable[[Standing], None] | None]:
    """A callback for a solver's `progress`, drawing on standard error; None where not shown."""
    if not shown:
        yield None
        return
    from rich.console import Console  # noqa: PLC0415  not for those who want no bar
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    began = time.monotonic()
    first: list[float] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    display = Progress(*columns, console=Console(stderr=True), transient=True)
    task = display.add_task(what, total=1.0, state="")

    def report(now: Standing) -> None:
        if time.monotonic() - began < PATIENCE:
            return
        if not first:
            display.start()
        # Residuals fall geometrically, so the way to the threshold is measured in their logarithm.
        worst = math.log(max(now.worst_residual / now.threshold, 1.0)) if now.threshold > 0 else 0.0
        first[:] = first or [max(worst, 1e-9)]
        state = (
            f"{now.stage}: {now.converged}/{now.wanted} converged, residual {now.worst_residual:.0e} "
            f"(tol {now.threshold:.0e}), {now.products} products"
        )
        display.update(task, completed=1 - min(worst / first[0], 1.0), state=state)

    try:
        yield report
    finally:
        if first:
            display.stop()
