import pytest
import torch

from denoisers.training import checkpoint
from spectral.errors import CheckpointError

STEP = {"step": torch.tensor(3.0), "moment": torch.randn(2, 3)}
STATE = {
    "config": {"data": "calpha", "network_config": {"blocks": 1}, "none": None},
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0), "moment": torch.randn(2, 3)}},
        "groups": [{"lr": 0.1}],
    },
    "model": {"a.weight": torch.randn(3, 2).T, "n": torch.tensor(5), "none": torch.zeros(0)},
    "step": 7,
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return [*a] == [*b] if isinstance(a, (list, tuple)) else a == b


def test_what_is_written_is_read(tmp_path):
    assert checkpoint.write(tmp_path / "c", STATE) is None
    assert equal(checkpoint.read(tmp_path / "c"), STATE)
    assert [*tmp_path.iterdir()] == [tmp_path / "c"]


def test_damage_anywhere_is_told(tmp_path):
    """A bit flipped in its numbers, which safetensors itself would take, or its end lost."""
    path = tmp_path / "c"
    checkpoint.write(path, STATE)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(path)
    for size in (0, 4, 100, start, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(path)
    path.write_bytes(whole)
    assert checkpoint.read(path)["step"] == 7
