"""What `import spectral` brings along."""

import subprocess
import sys

HEAVY = [
    *("numba", "llvmlite", "rich", "pywt", "PIL", "matplotlib", "cupy", "typer"),
    *(f"scipy.{name}" for name in ("stats", "optimize", "linalg", "special", "sparse", "fft")),
]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Together they take more than a second, and a solve may need none of them."""
    code = "import sys, torch; before = set(sys.modules); import spectral; print(*set(sys.modules) - before)"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "spectral.eigs" in brought and not set(HEAVY) & set(brought)
