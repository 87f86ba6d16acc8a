"""Write the tables and figures of docs/estimators, and say what falls short.

    python -m benchmarks.estimators SECTION...

The exit code is 1 where a table misses what is promised of it; each section says what it promises.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks.estimators import coverage, known, photograph, risk, traces

SECTIONS: dict[str, Callable[[], list[str]]] = {
    "spectra": traces.errors,
    "targets": traces.targets,
    "coverage": coverage.traces,
    "counts": coverage.counts,
    "published": known.published,
    "density": known.densities,
    "diagonal": known.diagonals,
    "reference": risk.reference,
    "risk": risk.curve,
    "posterior": risk.components,
    "photograph": photograph.estimates,
    "traversals": photograph.traversals,
}


def main() -> int:
    """Run the sections asked for; 1 where one of them falls short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=[*SECTIONS, "all"])
    asked = parser.parse_args().sections
    missed = [
        f"{name}: {what}"
        for name, write in SECTIONS.items()
        if name in asked or "all" in asked
        for what in write()
    ]
    print("\n".join(["falls short:", *missed]) if missed else "all within what is promised")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
