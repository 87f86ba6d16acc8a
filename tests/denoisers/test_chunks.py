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


def test_modules_are_in_evaluation_mode_and_keep_what_they_learned():
    norm, y = torch.nn.BatchNorm2d(1), torch.rand(7, 1, 8, 8)
    torch.testing.assert_close(denoise(norm, y), y, rtol=1e-4, atol=0)
    assert norm.training and not norm.running_mean.any()
