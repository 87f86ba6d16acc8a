"""How the Jacobian of each operation is formed, and what it is off by.

    python -m benchmarks.operations [--write]

Each operation of tests/helpers/random_networks.py goes through `spectral.jacobian` alone, in float64 and in
float32, and eight products with J and J' are held against its derivative by central differences in float64.
The way is what the operator says; of a recorded program, "rules" where every step is one, or else the
operations that autograd differentiates, each alone, inside it.  A product that differs by more than its
precision explains is written as wrong.  --write puts the table into docs/operations.md.
"""

import sys
import warnings
from collections.abc import Iterator

import torch

import spectral
from benchmarks.page import Page, table
from spectral.errors import SpectralError
from tests.helpers import differences
from tests.helpers.random_networks import FLOOR, OPERATIONS, Line, Network, products

SIZE = (2, 2, 4, 4)
WAYS = {"jvp": "forward mode", "double-backward": "two vjps", "differences": "differences"}


def way(J: spectral.jacobians.Jacobian) -> str:
    """How an operator forms its products."""
    if J._program is None:
        return WAYS.get(J.method, J.method)
    local = [step for step in J._program.steps if type(step).__name__ == "Local"]
    if not local:
        return "program: rules"
    names = [str(getattr(step.function.target, "__name__", step.function.target)) for step in local]
    return "program: autograd of " + ", ".join(dict.fromkeys(name.split(".")[0] for name in names))


def row(name: str) -> list[str]:
    """Operation, way in float32, errors in float64 and in float32, and a reason where it is refused."""
    network = Network([Line(name, 0, "{new}", 0)], SIZE, 0)
    truth = differences.dense(network, network.y())
    cells, ways, reasons = [], [], []
    for dtype in (torch.float64, torch.float32):
        model = network.at(dtype)
        model(network.y(dtype))  # makes its weights
        try:
            J = spectral.jacobian(model, network.y(dtype))
            error = max(products(J, truth))
        except SpectralError as failure:
            cells.append("refused")
            ways.append("refused")
            reasons.append(" ".join(str(failure).split())[:160].replace("|", "\\|"))
            continue
        except Exception as failure:  # what the library should have said in an error of its own
            cells.append("**fails**")
            ways.append(type(failure).__name__)
            continue
        limit = FLOOR[network.rounds_to(dtype)]
        cells.append(
            f"{error:.0e}" if error <= limit or J.method == "differences" else f"**wrong** {error:.0e}"
        )
        ways.append(way(J))
    both = ways[0] if ways[0] == ways[1] else f"float64: {ways[0]}; float32: {ways[1]}"
    return [f"`{name}`", both, *cells, reasons[0] if reasons else ""]


def rows() -> Iterator[list[str]]:
    """One an operation, as they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of transforms that have no rule for a batch
        for name in OPERATIONS:
            made = row(name)
            print(" | ".join(made), file=sys.stderr, flush=True)
            yield made


if __name__ == "__main__":
    page = Page("docs/operations.md", __doc__)
    head = ["operation", "way", "error, float64", "error, float32", "why not"]
    page.tell("operations", f"torch {torch.__version__}.\n\n{table(head, list(rows()))}")
