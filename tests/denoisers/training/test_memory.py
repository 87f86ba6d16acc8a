import json
import subprocess
import sys

import pytest

from spectral.jacobians.cpu.memory import glibc

SCRIPT = """
import json, resource
import torch
from denoisers.training import memory

def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults(100)
with memory.kept():
    faults(110)  # what is aligned may need a little more than what was freed
    again = [faults(100), faults(90)]
print(json.dumps([fresh, again, faults(100)]))
"""


@pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")
def test_large_blocks_are_used_again_and_given_back_at_the_end():
    """In a process of its own: where others have mapped what is behind the heap, it grows no more."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    fresh, again, after = json.loads(done.stdout)
    assert max(again) < fresh / 10
    assert after > fresh / 2
