"""Graphs of products: measured, checked, kept or dropped; with a stand-in for CUDA where no GPU is."""

import functools

import pytest
import torch
from torch import nn

import spectral
from spectral.jacobians import jacobian
from spectral.jacobians.program import Replayed, cuda_graphs, record
from spectral.jacobians.program.cuda_graphs import KEPT, PATIENCE, captured
from tests.helpers.graphs import CAPTURING, DRAWING, Torch

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def cuda(monkeypatch):
    """What `captured` needs of torch.cuda, on the CPU."""
    monkeypatch.setattr(cuda_graphs, "torch", Torch())


class Counted:
    """3 V, and how often it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, V):
        self.calls += 1
        out = 3 * V
        for graph in CAPTURING:
            graph.work.append(lambda: torch.mul(V, 3, out=out))
        return out


def timed(share):
    """A clock by which a replay takes that share of the product's time."""
    return lambda product, V: 1.0 if isinstance(product, Counted) else share


def replayed(share=0.5, capture=captured, vector_bytes=1):
    product, notes = Counted(), []
    return product, notes, Replayed(product, vector_bytes, notes.append, capture, timed(share))


def settled(way, *shape, **kind):
    """A block of that shape, once its trial is over."""
    V = torch.randn(*shape, **kind)
    for _ in range(PATIENCE + 1):
        torch.testing.assert_close(way(V), 3 * V)
    return V


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (0.94, True), (0.96, False), (2.0, False)])
def test_a_graph_is_kept_where_it_is_faster(share, kept, cuda):
    product, notes, way = replayed(share)
    V = settled(way, 2, 5)
    before = product.calls
    first, second = way(V), way(-V)
    assert product.calls == before + (0 if kept else 2)
    # The caller's own: the second replay left the first result as it was.
    torch.testing.assert_close(first, 3 * V)
    torch.testing.assert_close(second, -3 * V)
    assert not notes


def test_no_trial_before_it_can_pay(cuda):
    captures = []
    product, _, way = replayed(capture=lambda *given: captures.append(given) or captured(*given))
    for calls in range(1, PATIENCE + 1):
        way(torch.ones(2, 5))
        assert product.calls == calls and not captures
    way(torch.ones(2, 5))
    assert len(captures) == 1


def test_a_replay_that_differs_is_dropped():
    """It ignores its input, as one does that was captured around a copy through the host."""

    def frozen(product, V):
        out = product(V)
        return lambda _: out.clone()

    for V in (torch.randn(2, 5), torch.zeros(2, 5)):
        _, notes, way = replayed(capture=frozen)
        for _ in range(PATIENCE + 2):
            torch.testing.assert_close(way(V), 3 * V)
        assert len(notes) == 1 and "no CUDA graphs (RuntimeError: a replay was off by" in notes[0]


def test_a_capture_that_fails_is_tried_once_and_told():
    tried = []

    def failing(product, V):
        tried.append(V.shape)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    product, notes, way = replayed(capture=failing)
    for length in (5, 6):
        V = settled(way, 2, length)
        before = product.calls
        torch.testing.assert_close(way(V), 3 * V)
        assert product.calls == before + 1
    assert tried == [(2, 5)]
    assert notes == ["no CUDA graphs (RuntimeError: operation not permitted when stream is capturing)"]


def test_a_capture_that_fails_leaves_no_generator_capturing(cuda):
    def asks(V):
        if CAPTURING:
            raise RuntimeError("operation not permitted when stream is capturing")
        return 3 * V

    with pytest.raises(RuntimeError, match="not permitted"):
        captured(asks, torch.ones(2, 5))
    assert not DRAWING["captured"] and not CAPTURING


def test_a_failure_of_the_product_is_the_callers():
    def broken(V):
        raise ValueError("no product")

    way = Replayed(broken, 1, print, captured, timed(0.5))
    for _ in range(PATIENCE + 2):
        with pytest.raises(ValueError, match="no product"):
            way(torch.ones(2, 5))


def test_products_that_take_much_memory_are_never_captured(monkeypatch, cuda):
    monkeypatch.setattr(cuda_graphs, "free_bytes", lambda device: 800)
    for vector_bytes, kept in ((50, True), (51, False)):
        product, notes, way = replayed(vector_bytes=vector_bytes)
        V = settled(way, 2, 5)
        before = product.calls
        way(V)
        assert (product.calls == before) == kept and not notes


def test_each_shape_precision_and_arithmetic_has_its_own_and_few_are_kept(cuda):
    product, _, way = replayed()
    settled(way, 1, 5)
    settled(way, 1, 5, dtype=torch.float64)
    before = product.calls
    allowed = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = not allowed
        way(torch.ones(1, 5))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert product.calls == before + 1
    for length in range(6, 6 + KEPT):
        settled(way, 1, length)
    graphs_kept = sum(made is not product for made in way._ways.values())
    assert graphs_kept == KEPT and len(way._ways) == 2 + KEPT


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(4, 1, 3, padding=1)).eval()


def test_jacobians_take_them_on_gpus_alone(monkeypatch):
    """On a CPU nothing changes; elsewhere where no graph can be made, the repr says why and J is the same."""
    J = jacobian(net(), torch.rand(1, 1, 6, 6))
    v = torch.randn(1, 36)
    expected = J.apply(v)
    assert J._push.args == (J._program.apply,)
    J.device = torch.device("cuda")
    J._adopt(J._program)
    assert all(isinstance(way.args[0], Replayed) for way in (J._push, J._pull))

    def failing(product, V):
        raise RuntimeError("no GPU")

    J._push.args[0].capture = failing
    for _ in range(PATIENCE + 2):
        J.device = torch.device("cpu")  # of the rows
        assert torch.equal(J.apply(v), expected)
    assert "no CUDA graphs (RuntimeError: no GPU)" in repr(J)


@GPU
def test_a_graph_on_a_gpu(monkeypatch):
    """Captured and replayed, on another stream too: the program's own products, in tensors of their own."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    y = torch.rand(1, 1, 16, 16)
    here = record(net(), y)
    there = record(net().cuda(), y.cuda())
    for name in ("apply", "transpose"):
        notes, times = [], iter((0.0, 1.0))
        eager = getattr(there, name)
        way = Replayed(eager, 1, notes.append, seconds=lambda product, V, times=times: next(times))
        V = torch.randn(3, *y.shape)
        expected = getattr(here, name)(V)
        results = [way(V.cuda()) for _ in range(PATIENCE + 3)]
        assert not notes and way._ways and eager not in way._ways.values()
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(way(V.cuda()))
            torch.cuda.synchronize()
        way(torch.zeros_like(V).cuda())
        for result in results:
            torch.testing.assert_close(result.cpu(), expected, atol=1e-5, rtol=1e-4)


@GPU
def test_a_gpu_goes_on_after_a_capture_that_failed(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    notes = []
    way = Replayed(lambda V: V * V.sum().sign().item(), 1, notes.append)
    V = torch.ones(2, 5, device="cuda")
    for _ in range(PATIENCE + 2):
        torch.testing.assert_close(way(V), V)
    assert "no CUDA graphs" in notes[0]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.randn(1000, device="cuda").sum().item()
    solve = functools.partial(spectral.top_eigs, k=3, method="lanczos", tol=1e-5)
    y = torch.rand(1, 1, 16, 16)
    pairs = solve(net().cuda(), y.cuda())
    torch.testing.assert_close(pairs.values, solve(net(), y).values, atol=1e-4, rtol=0)
