"""Steps of training by a graph, or as they are where there can be none; on a stand-in for CUDA's graphs."""

import pytest
import torch

from denoisers.training import replay
from spectral.jacobians.program import cuda_graphs
from tests.helpers.graphs import CAPTURING, DRAWING, Torch


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    for module in (replay, cuda_graphs):
        monkeypatch.setattr(module, "torch", Torch())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda part, stream: None)


class Update:
    """w <- w + x, whose loss is sum(w); how often Python ran it."""

    def __init__(self, capturable=True):
        self.weight, self.calls, self.capturable = torch.zeros(3), 0, capturable

    def __call__(self, x):
        self.calls += 1
        if CAPTURING and not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        loss = torch.empty(())
        repeat = [lambda: self.weight.add_(x), lambda: torch.sum(self.weight, 0, out=loss)]
        for graph in CAPTURING:  # a capture computes nothing
            graph.work += repeat
        if not CAPTURING:
            for step in repeat:
                step()
        return loss


@pytest.mark.parametrize("capturable", [True, False])
def test_each_batch_is_taken_once(capturable):
    update = Update(capturable)
    step, batches = replay.Replay(update, torch.device("cpu")), torch.randn(8, 3)
    losses = [step(batch) for batch in batches]
    torch.testing.assert_close(update.weight, batches.sum(0))
    torch.testing.assert_close(torch.stack(losses), batches.cumsum(0).sum(1))  # none was overwritten
    assert update.calls == (replay.FIRST + 1 if capturable else len(batches) + 1)
    assert not DRAWING["captured"]


def test_an_error_of_the_update_itself_is_raised():
    def update(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        replay.Replay(update, torch.device("cpu"))(torch.ones(3))
