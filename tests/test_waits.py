"""On a GPU, here a stand-in, the host waits once a product, and tensors of both sides never meet."""

import functools

import pytest
import torch
from torch import nn

import spectral
from spectral.errors import NotFiniteError, NotSymmetricError
from spectral.jacobians.program import record
from spectral.jacobians.program.program import Chunks
from spectral.linalg.blocks import first_block
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.linalg.krylov import KrylovBasis
from spectral.operators import as_operator, from_functions
from spectral.solvers import ComplexTarget, GolubKahan, Lanczos, Target
from spectral.solvers.krylov_schur import KrylovSchurBasis
from spectral.solvers.lobpcg import _Iterate
from tests.helpers.standin import DEVICE, StandIn, moved

N = 200
SKEWED = torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SYMMETRIC = SKEWED + SKEWED.T
BATCH = torch.stack([torch.diag(torch.linspace(0, 1, N, dtype=torch.float64) ** p) for p in (1, 4, 16)])


def low_rank():
    """Rank 5: every basis meets an invariant subspace, and goes on from random vectors."""
    Q, _ = torch.linalg.qr(SKEWED)
    M = (Q[:, :5] * torch.arange(1.0, 6.0, dtype=torch.float64)) @ Q[:, :5].T
    return (M + M.T) / 2


def started(kind, M, block):
    """A basis at its start."""
    A, generator = as_operator(M, symmetric=kind in ("lanczos", "lobpcg")), torch.Generator().manual_seed(0)
    first = first_block(A, block, None, generator)
    if kind == "lobpcg":
        rows = torch.linalg.qr(first_block(A, 8, None, generator).mT)[0].mT
        return _Iterate(A, Target(6), 1e-9, rows, 8, block, None, generator)
    if kind == "krylov-schur":
        return KrylovSchurBasis(A, first, generator, ComplexTarget(4))
    return {"lanczos": KrylovBasis, "golub-kahan": GolubKahanBasis}[kind](A, first, generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize(
    ("kind", "waits"), [("lanczos", 1), ("krylov-schur", 1), ("golub-kahan", 2), ("lobpcg", 4)]
)
def test_waits_of_a_step(kind, waits, block, dtype):
    """One for each product of a Krylov basis; LOBPCG has three small eigenproblems, and residuals."""
    M = SYMMETRIC if kind in ("lanczos", "lobpcg") else SKEWED
    with StandIn() as gpu:
        basis = started(kind, M.to(DEVICE, dtype), block)
        gpu.waits.clear()
        for _ in range(10):
            basis.step() if kind == "lobpcg" else basis.expand()
        assert gpu.waits == {"copy to the host": 10 * waits}
        if kind != "lobpcg":
            basis.ritz()
            basis.restart(5)
            assert gpu.waits.total() == 10 * waits


@pytest.mark.parametrize(("solve", "each"), [(spectral.top_eigs, 1), (spectral.top_svd, 2)])
def test_waits_of_a_solve(solve, each):
    """A tighter tolerance costs as many more waits as products."""
    seen = []
    for tol in (1e-3, 1e-10):
        method = "lanczos" if each == 1 else "golub-kahan"
        with StandIn() as gpu:
            spent = solve(SYMMETRIC.to(DEVICE), k=4, tol=tol, method=method).spent
        seen.append(gpu.waits.total() - each * (spent["solve"] + spent["completeness"]))
    assert seen[0] == seen[1] < 40


FRONT = {
    "lanczos": (functools.partial(spectral.top_eigs, method="lanczos"), SYMMETRIC),
    "smallest": (functools.partial(spectral.top_eigs, method="lanczos", which="smallest"), SYMMETRIC),
    "blocks": (functools.partial(spectral.top_eigs, method=Lanczos(3)), low_rank()),
    "magnitude": (functools.partial(spectral.top_eigs, method="lanczos", which="magnitude"), SYMMETRIC),
    "symmetric part": (functools.partial(spectral.top_eigs, method="lanczos"), SKEWED),
    "batch": (functools.partial(spectral.top_eigs, method="lanczos"), BATCH),
    "lobpcg": (functools.partial(spectral.top_eigs, method="lobpcg"), SYMMETRIC),
    "chebyshev": (functools.partial(spectral.top_eigs, method="chebyshev"), SYMMETRIC),
    "interval": (functools.partial(spectral.top_eigs, between=(10.0, 20.0)), SYMMETRIC),
    "dense": (functools.partial(spectral.top_eigs, method="dense"), SYMMETRIC),
    "full": (
        functools.partial(spectral.top_eigs_full, method="krylov-schur", left=True),
        SKEWED[:100, :100],
    ),
    "svd": (functools.partial(spectral.top_svd, method="golub-kahan"), SKEWED[:, :150]),
    "svd in blocks": (functools.partial(spectral.top_svd, method=GolubKahan(2)), low_rank()),
}


@pytest.mark.parametrize("name", FRONT)
def test_the_answer_of_the_cpu(name):
    solve, M = FRONT[name]
    here = solve(M, k=5, tol=1e-7)
    with StandIn():
        there = solve(M.to(DEVICE), k=5, tol=1e-7)
    assert there.spent == here.spent
    torch.testing.assert_close(there.values, here.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.residuals, here.residuals, rtol=0.1, atol=1e-11)


@pytest.mark.parametrize("method", ["exact", "slq", "kpm"])
@pytest.mark.parametrize("part", ["symmetric", "singular"])
def test_the_density_of_the_cpu(method, part):
    """Its rules are small, and on the host, as are the values that other results tell."""
    ask = functools.partial(spectral.spectral_density, part=part, method=method, probes=3, steps=12)
    here = ask(SKEWED)
    with StandIn():
        there = ask(SKEWED.to(DEVICE))
    for name in ("nodes", "weights", "half_nodes", "half_weights", "deflated"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=1e-6, atol=1e-8)


def test_a_broken_product_leaves_the_basis_as_it_was():
    """NaN and a lost symmetry are refused at the very product; healed, the basis goes on."""
    faults = {}
    for device in ("cpu", DEVICE):
        with StandIn():
            M, broken = SYMMETRIC.to(device), {"by": None}

            def product(V, M=M, broken=broken):
                return V @ M if broken["by"] is None else V @ broken["by"]

            A = from_functions(product, n=N, symmetric=True, dtype=M.dtype, device=device)
            basis = KrylovBasis(A, first_block(A, 2, None, torch.Generator()), torch.Generator())
            for _ in range(4):
                basis.expand()
            for error, by in ((NotFiniteError, M * float("nan")), (NotSymmetricError, SKEWED.to(device))):
                before = [t.clone() for t in basis.held().values()]
                broken["by"] = by
                with pytest.raises(error) as fault:
                    basis.expand()
                faults.setdefault(error, []).append(str(fault.value))
                broken["by"] = None
                assert all(torch.equal(t, s) for t, s in zip(basis.held().values(), before, strict=True))
            basis.expand()
            V, X = basis.V[0, : basis.size], basis.X[0]
            R = (V @ M).cpu() - basis.T[0] @ V.cpu() - basis.C[0].T @ X.cpu()
            assert R.abs().max() < 1e-12
    assert all(here == there for here, there in faults.values())


class Net(nn.Module):
    """Steps of every kind that programs are mostly made of; widths of 6 keep them to torch's own kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.norm = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU())
        self.low = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), nn.Upsample(scale_factor=2))
        self.out = nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, x):
        h = self.norm(self.top(x))
        return x + self.out(torch.cat([h, self.low(h)], 1))


def test_a_program_waits_for_nothing():
    torch.manual_seed(0)
    y = torch.rand(1, 1, 12, 12).double()
    here = record(Net().double().eval(), y)
    with StandIn() as gpu:
        there = moved(here)
        gpu.waits.clear()
        for vectors in (1, 3):
            V = torch.randn(vectors, *y.shape).double()
            for name in ("apply", "transpose"):
                W = V.to(DEVICE, non_blocking=True)
                true = getattr(here, name)(V)  # by kernels of the CPU's own
                torch.testing.assert_close(getattr(there, name)(W).held, true, rtol=0, atol=1e-12)
        assert not gpu.waits

        def rows(product):
            return lambda V: product(V.reshape(-1, *y.shape)).reshape(len(V), -1)

        def operator(program, device):
            chunks = Chunks(1)
            push, pull = (
                rows(functools.partial(chunks, product)) for product in (program.apply, program.transpose)
            )
            return from_functions(push, pull, n=144, dtype=y.dtype, device=device)

        answers = [spectral.top_svd(operator(p, d), k=3) for p, d in ((here, "cpu"), (there, DEVICE))]
        torch.testing.assert_close(answers[1].values, answers[0].values, rtol=0, atol=1e-12)


def test_chunks_are_timed_only_where_that_can_decide():
    """A timing makes the host wait, so blocks of one vector have none, and others two of each size."""
    chunks = Chunks(1 << 50)  # no room for more than one vector at once
    for _ in range(9):
        chunks(torch.neg, torch.ones(1, 4))
    assert not chunks._taken
    for _ in range(9):
        chunks(torch.neg, torch.ones(4, 4))
    assert {size: len(taken) for size, taken in chunks._taken.items()} == {1: 2}


def test_the_stand_in_counts_and_refuses():
    with StandIn() as gpu:
        X = SYMMETRIC.to(DEVICE)
        assert X.device == DEVICE and (X @ X)[:3].mT.device == DEVICE
        assert gpu.waits == {"copy to the device": 1} and gpu.uploads == 0
        Y = SYMMETRIC.to(DEVICE, non_blocking=True)
        Y[:, 0] = Y[:, 1]
        Y.mul_(2.0)
        assert torch.equal(Y.held[:, 0], 2 * SYMMETRIC[:, 1]) and gpu.uploads == 1
        for mixed in (
            lambda: X @ SYMMETRIC,
            lambda: SYMMETRIC @ X,
            lambda: torch.cat([SYMMETRIC, X]),
            lambda: torch.where(X > 0, SYMMETRIC, 0.0),
            lambda: SYMMETRIC[torch.zeros(2, dtype=torch.long).to(DEVICE, non_blocking=True)],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        assert gpu.waits.total() == 1
        for wait in (
            X[0, 0].item,
            lambda: bool((X > 0).any()),
            X.cpu,
            lambda: torch.zeros(N, N, dtype=X.dtype).copy_(X),
            lambda: X[X > 0],
            (X > 0).nonzero,
            lambda: torch.equal(X, Y),
        ):
            before = gpu.waits.total()
            wait()
            assert gpu.waits.total() == before + 1
