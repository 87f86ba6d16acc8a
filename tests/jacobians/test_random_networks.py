"""Networks drawn by seed from a hundred operations: J and J' are right to their precision, or refused.

A failure prints the seed and the network; `python tests/helpers/random_networks.py SEED` tries it again.
"""

import json
import os

import pytest
import torch

import spectral
from spectral.errors import SpectralError
from tests.helpers import differences
from tests.helpers.random_networks import MIXES, OPERATIONS, Line, Network, draw, verdicts

F64 = torch.float64
FEW = 200
REFUSED = 0.03  # of the networks, at most


@pytest.fixture(scope="session")
def verdicts_of(tmp_path_factory, request):
    """seed -> the network, and its verdicts in float64 and in one of the other ways; each tried once."""
    folder = tmp_path_factory.getbasetemp()
    folder = (
        folder.parent if hasattr(request.config, "workerinput") else folder
    )  # all processes share that one

    def of(seed):
        file = folder / f"verdicts-{seed}.json"
        if not file.exists():
            network, truth = draw(seed)
            other = ("float32", "bfloat16", "batched")[seed % 3]
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps([str(network), verdicts(network, truth, ("float64", other))]))
            partial.replace(file)
        return json.loads(file.read_text())

    return of


def assert_none_is_wrong(text, found):
    wrong = [f"{precision}: {verdict}" for precision, verdict in found.items() if verdict.startswith("wrong")]
    assert not wrong, "\n".join([*wrong, text])


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_alone(name):
    network = Network([Line(name, 0, "{new}", 0)], (2, 2, 4, 4), 0)
    truth = differences.dense(network, network.y())
    assert truth.trusted.float().mean() > 0.5
    found = verdicts(network, truth)
    assert_none_is_wrong(str(network), found)
    assert found["float64"].startswith("right"), found["float64"]
    if name not in MIXES:
        assert found["batched"].startswith("right"), found["batched"]


@pytest.mark.parametrize("seed", range(FEW))
def test_a_network(seed, verdicts_of):
    assert_none_is_wrong(*verdicts_of(seed))


def test_few_networks_are_refused(verdicts_of):
    found = [v for seed in range(FEW) for v in verdicts_of(seed)[1].values()]
    refused = [v for v in found if v.startswith("refused")]
    assert len(refused) <= REFUSED * len(found), "\n".join(sorted(set(refused)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FEW, 2000))
def test_another_network(seed):
    network, truth = draw(seed)
    assert_none_is_wrong(str(network), verdicts(network, truth))


def test_the_truth_itself():
    """Differences against autograd, where autograd is right; and kinks are seen, also one exactly at y."""
    y = torch.linspace(-1, 1, 8, dtype=F64)

    def smooth(y):
        return torch.tanh(y) * y.roll(1).exp() + y.norm()

    exact = torch.autograd.functional.jacobian(smooth, y)
    truth = differences.dense(smooth, y)
    assert truth.trusted.all() and truth.error(exact) < 1e-9
    wrong = exact.clone()
    wrong[0] += 1e-4
    assert truth.error(wrong) > 1e-5
    for kink in (0.0, 3e-5, 6e-5, 9e-5):
        edge = y[2].item() + kink
        kinked = differences.dense(lambda y, edge=edge: (y - edge).relu(), y)
        assert kinked.trusted.tolist() == [i != 2 for i in range(8)]


def test_a_wrong_operator_is_noticed(monkeypatch):
    """A Jacobian without a rank-one part, or whose transpose is another's, does not pass."""
    network, truth = draw(3)
    assert verdicts(network, truth)["float64"].startswith("right")
    jacobian = spectral.jacobian

    def scaled(model, y, **options):
        J = jacobian(model, y, **options)
        push = J._push

        def product(V):
            out = push(V)
            return out + 1e-3 * V.flatten(1).sum(1).view(-1, *[1] * (out.ndim - 1))

        J._push = product
        return J

    monkeypatch.setattr(spectral, "jacobian", scaled)
    assert verdicts(network, truth)["float64"].startswith("wrong")


def test_networks_repeat_by_seed():
    (a, truth), (b, again) = draw(5), draw(5)
    assert str(a) == str(b) and torch.equal(truth.J, again.J)
    assert torch.equal(a(a.y()), b(b.y())) and "def network" in str(a)


def test_refusals_are_errors_of_the_library(monkeypatch):
    def other(*args, **options):
        raise RuntimeError("torch said no")

    def ours(*args, **options):
        raise SpectralError("say what to do")

    network, truth = draw(3)
    monkeypatch.setattr(spectral, "jacobian", other)
    assert verdicts(network, truth)["float64"].startswith("wrong: RuntimeError")
    monkeypatch.setattr(spectral, "jacobian", ours)
    assert verdicts(network, truth)["float64"].startswith("refused")
