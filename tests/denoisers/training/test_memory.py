import resource

import pytest
import torch

from denoisers.training import memory


def faults(megabytes):
    """Pages that are asked of the system for a tensor written whole."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_large_blocks_are_used_again_and_given_back_at_the_end():
    fresh = faults(100)
    with memory.kept():
        faults(110)  # what is aligned may need a little more than what was freed
        assert max(faults(100), faults(90)) < fresh / 10
    assert faults(100) > fresh / 2
