"""The memory of a recorded program, against a forward pass's."""

from pathlib import Path

import pytest

from benchmarks.products import memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peak memory")
def test_building_and_applying_take_little_more_than_a_forward_pass():
    """UNet of 3 blocks at 512x512, in processes of their own; torch's own graphs for comparison."""
    _, _, frozen, vjp, linearize, _ = memory("UNet, 3 blocks", 512)
    assert float(frozen) <= 1.5
    assert float(frozen) < float(vjp) < float(linearize)
