"""The files that one vector passes, from a front door to the compiled loop, are those that the docs name."""

import re
import traceback
from pathlib import Path

import pytest
import torch

import spectral
from denoisers.networks import BFCNN
from spectral.jacobians.cpu import openmp, simd

ROOT = Path(__file__).parents[1]
DECORATORS = {"ambient.py", "problem.py"}  # of front doors: no vector is given to them


def told() -> set[str]:
    """The files in the paragraph about the path."""
    text = (ROOT / "docs/architecture.md").read_text().split("The path of one vector", 1)[1].split("\n\n")[0]
    return set(re.findall(r"`([a-z_/]+\.py)`", text)) - {"tests/test_path.py"}


@pytest.mark.skipif(simd.BYTES == 0 or not openmp.at_hand(), reason="Winograd's kernels need AVX2")
def test_a_vector_passes_the_files_that_the_docs_name(monkeypatch):
    torch.manual_seed(0)
    model, y = BFCNN(3, 64), torch.rand(1, 1, 40, 40)
    J = spectral.jacobian(model, y)  # recorded, packed and tried
    stacks: list[list[str]] = []
    region = openmp.region

    def traced(work, task, threads, more=0):
        run = region(work, task, threads, more)

        def call(*exception):
            if not more:  # a convolution, and not the switch of denormals
                stacks.append([frame.filename for frame in traceback.extract_stack()])
            return run(*exception)

        return call

    monkeypatch.setattr(openmp, "region", traced)
    spectral.top_eigs(J, k=2, tol=1e-2, method="lanczos")
    home = ROOT / "spectral"
    paths = [
        {Path(file).relative_to(home).as_posix() for file in stack if Path(file).is_relative_to(home)}
        for stack in stacks
    ]
    solving = [path for path in paths if "linalg/krylov.py" in path]
    assert len(solving) > 50
    for path in solving:
        assert path - DECORATORS | {"jacobians/cpu/tiles.py"} == told()
    assert len(told()) <= 9
