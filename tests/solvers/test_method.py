"""A method of one's own goes through the front door like those that are offered by name."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import spectral
from spectral.errors import OptionError
from spectral.operators import LinearOperator
from spectral.solvers import Control, Method, RitzPairs, Target, finish
from tests.helpers.spectra import matrix


@dataclass(frozen=True, eq=False)
class SubspaceIteration(Method[RitzPairs]):
    """A power of A on a block of vectors, the slowest way there is; then the end that all methods share."""

    name: ClassVar[str] = "subspace iteration"
    finds: ClassVar[type] = RitzPairs

    block: int = 8
    steps: int = 5

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        generator = torch.Generator().manual_seed(control.seed)
        rows = torch.randn(1, self.block, A.shape[1], generator=generator, dtype=torch.float64).to(A.dtype)
        for _ in range(self.steps):
            rows = A.apply(torch.linalg.qr(rows[0].mT)[0].mT.contiguous())[None]
        rows = torch.linalg.qr(rows[0].mT)[0].mT.contiguous()[None]
        spent = (self.steps + 1) * self.block
        return finish(A, rows, A.apply(rows[0])[None], target, control, spent=spent)


def test_a_method_of_ones_own_is_certified_like_any():
    values = torch.linspace(0, 1, 200, dtype=torch.float64) ** 6
    M = torch.as_tensor(matrix(values.numpy(), np.random.default_rng(0)))
    pairs = spectral.top_eigs(M, k=4, tol=1e-8, method=SubspaceIteration(steps=3))
    assert pairs.method == "subspace iteration" and pairs.converged.all() and pairs.complete
    torch.testing.assert_close(pairs.values, values.flip(0)[:4], atol=1e-9, rtol=0)
    assert pairs.spent["solve"] >= 32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_products": 9}, "by subspace iteration takes at least 12"),
        ({"checkpoint": "x"}, "checkpoint= is for Krylov solves"),
        ({"between": (0.1, 0.2)}, "between="),
    ],
)
def test_what_it_does_not_offer_is_refused(options, says):
    with pytest.raises(OptionError, match=says):
        spectral.top_eigs(torch.eye(200).double(), k=4, method=SubspaceIteration(), **options)
    with pytest.raises(OptionError, match="finds RitzPairs, not RitzTriplets: it is for top_eigs"):
        spectral.top_svd(torch.eye(9), k=2, method=SubspaceIteration())
    with pytest.raises(OptionError, match="finds RitzPairs, not SchurPairs"):
        spectral.top_eigs_full(torch.eye(9), k=2, method=SubspaceIteration())


def test_what_a_method_must_say_of_itself():
    class Nameless(Method[RitzPairs]):
        def solve(self, A, target, control):
            raise AssertionError

    with pytest.raises(OptionError, match="Nameless lacks the class attribute 'name'"):
        Nameless()
    for wrong in (SubspaceIteration, object()):
        with pytest.raises(OptionError, match="or an object with settings, such as Lanczos"):
            spectral.top_eigs(torch.eye(9), k=2, method=wrong)


def test_a_folder_is_no_file(tmp_path):
    pairs = spectral.top_eigs(torch.eye(9), k=2)
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        pairs.save(tmp_path)
