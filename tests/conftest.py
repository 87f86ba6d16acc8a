"""Settings of all tests."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# A machine that is slow, or busy, or compiling, is not wrong.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """torch's number of threads is left as it was: more than cores make all that follows ten times slower."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
