"""The way back by a graph that is kept: taken where it is faster and the same, and nowhere else."""

import copy
import sys
import time

import pytest
import torch
import torch.utils.checkpoint

import spectral
from denoisers.networks import ConditionalUNet
from spectral.jacobians import autograd
from spectral.jacobians.faster import AFTER, FasterBack
from spectral.jacobians.jacobian import WrongProductsError
from spectral.jacobians.ways import kept_graph

V = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slowly(V):
    time.sleep(0.01)
    return 2 * V


def back(graph, program=slowly):
    product = FasterBack(program, graph, 1e-9)
    return [product(V) for _ in range(AFTER + 2)], product


def test_the_faster_way_is_taken_and_told():
    results, product = back(lambda: lambda V: (2 + 1e-12) * V)
    assert all(torch.equal(result, 2 * V) for result in results[:AFTER])
    assert all(torch.equal(result, (2 + 1e-12) * V) for result in results[AFTER:])
    assert "kept graph" in product.remark
    assert torch.equal(product(torch.cat([V, V])), torch.cat([2 * V, 2 * V]))  # blocks go by the program


@pytest.mark.parametrize("kind", ["wrong", "slower", "not a number", "impossible"])
def test_the_program_stays(kind):
    def graph():
        if kind == "impossible":
            raise torch.OutOfMemoryError("no room")
        return {
            "wrong": lambda V: 2.001 * V,
            "slower": lambda V: (time.sleep(0.03), (2 + 1e-12) * V)[1],
            "not a number": lambda V: V * torch.nan,
        }[kind]

    results, product = back(graph)
    assert all(torch.equal(result, 2 * V) for result in results) and not product.remark


def conditional():
    torch.manual_seed(0)
    return ConditionalUNet(width=8, scales=2).double(), torch.rand(1, 1, 8, 8, dtype=torch.float64)


def test_products_and_a_solve_by_a_graph():
    """Whatever is faster here: the program is made slow."""
    network, y = conditional()
    J = spectral.jacobian(network, y, model_kwargs={"sigma": 0.3})
    program = J._pull.program
    J._pull.program = lambda U: (time.sleep(0.05), program(U))[1]
    dense = J.dense()
    for _ in range(AFTER + 1):
        u = torch.randn(64, dtype=torch.float64)
        torch.testing.assert_close(J.T @ u, u @ dense)
    assert "kept graph" in repr(J) and not J.notes
    pairs = spectral.top_eigs(J, k=3, method="lanczos")
    exact = torch.linalg.eigvalsh((dense + dense.mT) / 2).flip(0)[:3]
    torch.testing.assert_close(pairs.values, exact)


def test_a_wrong_program_is_seen_beside_a_graph():
    """What confirms is never autograd held against itself."""
    network, y = conditional()
    J = spectral.jacobian(network, y, model_kwargs={"sigma": 0.3})
    J._pull = kept_graph(J._evidence)
    rows = torch.linalg.qr(torch.randn(64, 3, dtype=torch.float64)).Q.mT
    J.confirm(rows, rows, 1.0)
    push, pull = J._push, J._recorded_pull
    J._push, J._recorded_pull = (lambda V: 1.5 * push(V)), (lambda U: 1.5 * pull(U))
    with pytest.raises(WrongProductsError):
        J.confirm(rows, rows, 1.0)
    J._push, J._recorded_pull = (lambda V: 1.5 * push(V)), pull  # of which J' u is no sign
    with pytest.raises(WrongProductsError):
        J.confirm(rows, rows, 1.0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_keeps_a_graph_when_its_original_is_gone(copied):
    network, y = conditional()
    J = spectral.jacobian(network, y, model_kwargs={"sigma": 0.3})
    program = J._pull.program
    J._pull.program = lambda U: (time.sleep(0.05), program(U))[1]
    twin = copied(J)
    del J
    u = torch.randn(64, dtype=torch.float64)
    for _ in range(AFTER):
        twin.T @ u
    assert "kept graph" in repr(twin)


def test_convolutions_alone_are_not_tried():
    J = spectral.jacobian(torch.nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 8, 8))
    assert J._pull is J._recorded_pull


class Twice(torch.autograd.Function):
    """Doubles, by Python."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@pytest.mark.parametrize("kind", ["function", "hook", "checkpoint", "none"])
def test_python_in_a_graph_is_seen(kind):
    """A pass back that calls no Python needs no model made ready."""

    def f(x):
        if kind == "function":
            return Twice.apply(x.sin())
        if kind == "checkpoint":
            return 2 * torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
        value = x.sin()
        if kind == "hook":
            value.register_hook(lambda g: g + 0)
        return 2 * value

    y = torch.rand(5, dtype=torch.float64)
    pull = autograd.backwards(f, y)
    result, alone = autograd.alone(pull, torch.ones_like(y))
    torch.testing.assert_close(result, 2 * y.cos())
    assert alone == (kind == "none")
    assert sys.getprofile() is None
