"""Chunks bound what a model is given at once, and change nothing else."""

import torch

from denoisers import chunks
from denoisers.chunks import denoise


def test_chunks_do_not_change_what_is_denoised(monkeypatch):
    y = torch.rand(7, 1, 8, 8)
    monkeypatch.setattr(chunks, "CHUNK_PIXELS", 128)
    calls = []

    def model(chunk):
        calls.append(len(chunk))
        return 2 * chunk

    torch.testing.assert_close(denoise(model, y), 2 * y)
    assert calls == [2, 2, 2, 1]
