"""What `import spectral` brings along."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = [
    *("numba", "llvmlite", "rich", "pywt", "PIL", "matplotlib", "cupy", "typer"),
    *(f"scipy.{name}" for name in ("stats", "optimize", "linalg", "special", "sparse", "fft")),
]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Together they take more than a second, and a solve may need none of them."""
    code = "import sys, torch; before = set(sys.modules); import spectral; print(*set(sys.modules) - before)"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "spectral.eigs" in brought and not set(HEAVY) & set(brought)


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in (ROOT / "benchmarks").rglob("*.py")}),
    ids=lambda folder: folder.name,
)
def test_benchmarks_find_what_they_measure(folder) -> None:
    """They run for hours, by hand: a name that has moved would show months later."""
    for path in folder.glob("*.py"):
        importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
