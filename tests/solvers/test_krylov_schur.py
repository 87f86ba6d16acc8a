"""Eigenpairs of matrices that are not symmetric: dense LAPACK, closed forms, and the bound on the unseen."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spectral
from spectral.errors import FileContentError, NotFiniteError, OptionError, TransposeMissingError
from spectral.linalg.resolvent import _Tests, unseen_height
from spectral.linalg.schur import RealSchur, departure
from spectral.operators import as_operator, from_functions
from spectral.operators.space import Space
from spectral.results import EigenPairs, FullEigenPairs
from spectral.solvers import ComplexTarget
from spectral.solvers.invariant import certify_full
from spectral.solvers.krylov_schur import KrylovSchurBasis
from tests.helpers.against_dense import EPS
from tests.helpers.calls import dense_schur, krylov_schur
from tests.helpers.interrupted import interrupted

LAB = Path(__file__).parents[2] / "../shared/data/lab"
TARGET = ComplexTarget(1)
HEIGHT = {"largest": np.real, "smallest": lambda z: -np.real(z), "magnitude": np.abs}
KINDS = (
    "random", "decaying", "skewed", "triangular", "grcar", "jordan", "companion", "orthogonal", "symmetric",
    "zero", "identity", "low rank", "rotations", "multiple", "nilpotent",
)  # fmt: skip


def matrix(kind, n, rng):
    """A real (n, n) matrix of one kind."""
    G = rng.standard_normal((n, n)) / math.sqrt(n)
    Q, _ = np.linalg.qr(G)
    rank = int(rng.integers(0, n + 1))
    planes = [
        s * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for s, a in rng.uniform(0, 2, (n, 2))
    ]
    skew = np.eye(n) + 0.3 * G
    return {
        "random": lambda: G,
        "decaying": lambda: Q @ np.diag(0.8 ** np.arange(n)) @ Q.T + 0.05 * G,
        "skewed": lambda: skew @ np.diag(rng.uniform(-1, 1, n)) @ np.linalg.inv(skew),
        "triangular": lambda: np.triu(G) + np.diag(rng.standard_normal(n)),
        "grcar": lambda: np.triu(np.tril(np.ones((n, n)), 3)) - np.eye(n, k=-1),
        "jordan": lambda: 0.5 * np.eye(n) + np.eye(n, k=1),
        "companion": lambda: np.vstack([rng.standard_normal(n) / n, np.eye(n - 1, n)]),
        "orthogonal": lambda: Q,
        "symmetric": lambda: (G + G.T) / 2,
        "zero": lambda: np.zeros((n, n)),
        "identity": lambda: np.eye(n),
        "low rank": lambda: G[:, :rank] @ G[:rank],
        "rotations": lambda: scipy.linalg.block_diag(*planes)[:n, :n],
        "multiple": lambda: skew @ np.diag(rng.choice([1.0, 0.5, -0.5], n)) @ np.linalg.inv(skew),
        "nilpotent": lambda: np.eye(n, k=max(1, n // 2)),
    }[kind]()


def solve(subject, y=None, k=6, *, method="krylov-schur", **options):
    """The front door `top_eigs_full`, by Krylov-Schur also where the matrix is small."""
    return spectral.top_eigs_full(subject, y, k, method=method, **options)


def check(kind, n, seed, dtype, which, k, block, limit, *, most=400):
    """One case: honest residuals, a true Schur form, backward stable values, none missed without a flag."""
    rng = np.random.default_rng(seed)
    M = torch.as_tensor(matrix(kind, n, rng)).to(dtype)
    A, norm = M.double().numpy(), np.linalg.norm(M.double().numpy(), 2)
    tol = 1e-4 if dtype == torch.float32 else 1e-7
    found = krylov_schur(
        as_operator(M), k, which=which, tol=tol, block=block, basis=limit, seed=seed, max_products=most
    )
    proof = certify_full(Space(found.vectors.shape[-1]), found, ComplexTarget(k, which))
    values, X = proof.values.numpy(), proof.vectors.numpy()
    rounding = 100 * EPS[dtype] * max(norm, EPS[dtype])

    # Whole pairs, in order, of unit norm.
    assert len(values) == k or (len(values) == k + 1 and values[k - 1].imag != 0)
    assert np.array_equal(np.sort_complex(values), np.sort_complex(values.conj()))
    height = HEIGHT[which](values)
    assert (np.diff(height) <= rounding).all()
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)

    # Residuals are those of the vectors; a residual is a backward error.
    X = X.astype(complex)
    true = np.linalg.norm(X @ A.T - values[:, None] * X, axis=1)
    residuals = proof.residuals.numpy()
    np.testing.assert_allclose(residuals, true, atol=rounding, rtol=0.05)
    for value, residual in zip(values, residuals, strict=True):
        assert np.linalg.svd(A - value * np.eye(n), compute_uv=False)[-1] <= residual + rounding

    # Q and T are a Schur form of A on a subspace.
    Q, T = proof.Q.double().numpy(), proof.T.numpy()
    assert proof.orthogonality <= max(50, n) * EPS[dtype]
    assert abs(np.linalg.norm(A @ Q.T - Q.T @ T, 2) - proof.schur_residual.item()) <= rounding
    form = RealSchur(T, np.eye(len(T)))
    np.testing.assert_allclose(
        np.sort(HEIGHT[which](form.values))[::-1][: len(values)], height, atol=rounding
    )

    threshold = max(tol * np.abs(values).max(), rounding / 10)
    converged = residuals <= max(threshold, rounding)
    short = not converged.all() or proof.schur_residual > threshold
    # A budget ended before the probe, or before the last residuals were small; within the probe, what it has
    # seen holds.
    if found.notes and (found.completeness.confidence == 0 or short):
        return proof
    assert converged.all()
    # Against all eigenvalues of A, where they are well enough conditioned to be known.
    exact, left, right = scipy.linalg.eig(A, left=True)
    conditions = 1 / np.maximum(np.abs((left.conj() * right).sum(0)), 1e-300)
    order = np.argsort(-HEIGHT[which](exact))
    exact, conditions = exact[order], conditions[order]
    _, defective = proof.conditions(10 * EPS[dtype] * norm)
    if conditions.max() < 1e3:
        slack = 5 * conditions.max() * (proof.schur_residual.item() + rounding)
        assert conditions.max() > 10 or not defective.any()
        sign = -1 if which == "smallest" else 1
        bound = sign * proof.completeness.bound.item() + slack
        if bound <= height[-1] + 2 * slack:
            assert np.abs(HEIGHT[which](exact)[: len(values)] - height).max() <= slack
        assert (HEIGHT[which](exact) > bound).sum() <= len(values)
    return proof


cases = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["largest", "smallest", "magnitude"]),
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_against_dense(case, data):
    n = case[1]
    k, block = data.draw(st.integers(1, n)), data.draw(st.integers(1, 3))
    check(*case, k, min(block, n), data.draw(st.sampled_from([None, k + 6])))


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_against_dense_more_often(case, data):
    kind, _, *rest = case
    n = data.draw(st.integers(1, 200))
    k, block = data.draw(st.integers(1, n)), data.draw(st.integers(1, 3))
    check(kind, n, *rest, k, min(block, n), data.draw(st.sampled_from([None, k + 6, k + 30])))


@pytest.mark.parametrize("kind", ["decaying", "grcar", "multiple"])
def test_against_dense_at_200(kind):
    check(kind, 200, 1, torch.float64, "largest", 5, 1, None)


def test_a_pair_that_rounding_makes_of_two_real_eigenvalues_is_locked_whole():
    check("nilpotent", 148, 14, torch.float64, "smallest", 51, 1, None)


def test_what_ties_leave_out_is_not_called_unseen():
    check("orthogonal", 6, 1, torch.float32, "magnitude", 5, 3, None)


@pytest.mark.parametrize("kind", KINDS)
def test_left_vectors_and_conditions(kind):
    n, k = 24, 6
    A = matrix(kind, n, np.random.default_rng(4))
    found = solve(torch.as_tensor(A), k=k, tol=1e-9, left=True)
    exact, left, right = scipy.linalg.eig(A, left=True)
    dense = 1 / np.maximum(np.abs((left.conj() * right).sum(0)), 1e-300)
    w, v = found.left.numpy(), found.vectors.numpy()
    overlap = (w.conj() * v).sum(-1)
    np.testing.assert_allclose(np.linalg.norm(w, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(w.conj() @ A - found.values.numpy()[:, None] * w.conj(), axis=-1),
        found.left_residuals,
        atol=1e-13,
        rtol=1e-3,
    )
    if kind in ("jordan", "nilpotent"):
        assert found.defective.all() and "defective" in repr(found) and found.notes
        return
    assert not found.defective.any()
    np.testing.assert_allclose(overlap.imag, 0, atol=1e-9)
    np.testing.assert_allclose(1 / found.condition, overlap.real, rtol=1e-6)
    if kind in ("zero", "identity", "symmetric", "orthogonal"):
        # Vectors of equal eigenvalues are any basis, nearly orthonormal.
        np.testing.assert_allclose(found.condition, 1, rtol=0.1 if kind == "identity" else 1e-6)
    if kind == "zero":
        return
    assert (found.left_residuals <= 1e-6).all()
    for value, condition, error in zip(found.values.numpy(), found.condition, found.errors, strict=True):
        nearest = np.argsort(np.abs(exact - value))
        assert np.abs(exact - value).min() <= 2 * error + 1e-12
        if np.abs(exact[nearest[1]] - value) > 1e-2 and dense[nearest[0]] < 1e3:  # a simple eigenvalue
            assert condition == pytest.approx(dense[nearest[0]], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 12])
def test_defective_eigenvalues_are_flagged(size, dtype):
    """A Jordan block among simple eigenvalues, turned so that no entry is zero: it alone is flagged."""
    simple = np.diag(np.linspace(-0.5, 0.5, 20))
    A = scipy.linalg.block_diag(np.eye(size) + np.eye(size, k=1), simple)
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal(A.shape))
    A = torch.as_tensor(Q @ A @ Q.T).to(dtype)
    for method in ("krylov-schur", "dense"):
        found = solve(A, k=size, tol=1e-5, method=method)
        # A disc of radius |E|^(1/size) around 1 cannot be told from a block of that size.
        assert found.defective.all(), found
        assert found.schur_residual <= 1e-4 and found.departure > 0.5
        simple_ones = solve(A, k=3, which="smallest", tol=1e-5, method=method)
        assert not simple_ones.defective.any()


def test_symmetric_matrices_have_conditions_of_one():
    A = torch.as_tensor(matrix("symmetric", 150, np.random.default_rng(0)))
    found = solve(A, k=8, tol=1e-9, left=True)
    exact = torch.linalg.eigvalsh(A).flip(0)[:8]
    torch.testing.assert_close(found.values.real, exact, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.condition, torch.ones(8).double(), atol=1e-6, rtol=0)
    assert not found.values.imag.any() and not found.vectors.imag.any() and found.departure < 1e-6


def test_convection_and_diffusion_in_closed_form():
    """Tridiagonal Toeplitz (1 + c, -2, 1 - c): eigenvalues 2 sqrt(1 - c^2) cos(j pi / (n + 1)) - 2."""
    n, c = 100, 0.02
    A = (1 + c) * np.eye(n, k=-1) - 2 * np.eye(n) + (1 - c) * np.eye(n, k=1)
    exact = 2 * np.sqrt(1 - c**2) * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2
    found = solve(torch.as_tensor(A), k=5, tol=1e-9, left=True)
    np.testing.assert_allclose(found.values.numpy(), exact[:5], atol=1e-7)
    assert (np.abs(found.values.numpy() - exact[:5]) <= 2 * found.errors.numpy()).all()


def test_relation_at_every_depth():
    """A V' = V' T + X' C through restarts, a fresh start and a refresh, and exact at the end."""
    n, rng = 40, np.random.default_rng(0)
    A = torch.as_tensor(matrix("random", n, rng))
    first = torch.as_tensor(rng.standard_normal((1, 2, n)))
    basis = KrylovSchurBasis(as_operator(A), first, torch.Generator().manual_seed(0), TARGET)

    def defect(left_out=False):
        V, T, X, C = basis.V[0, : basis.size], basis.T[0], basis.X[0], basis.C[0]
        all_rows = torch.cat([V, X])
        parts = [V @ A @ V.T - T, all_rows @ all_rows.T - torch.eye(len(all_rows)).double()]
        relation = A @ V.T - V.T @ T - X.T @ C
        if not left_out:
            parts.append(relation)
        return max(part.abs().max().item() for part in parts)

    for _ in range(8):
        basis.expand()
        assert defect() < 1e-13
    for keep in (9, 8, 5):
        basis.restart(keep)
        assert basis.size in (keep, keep + 1) and defect() < 1e-13
        basis.expand()
        assert defect() < 1e-13
    basis.restart(4)
    kept = basis.size
    basis.restart_afresh(kept, block=2)
    basis.expand()
    # What coupled the locked rows to the old block is left out of T's rows below them.
    new = basis.V[0, kept : basis.size]
    torch.testing.assert_close(new @ A @ new.T, basis.T[0, kept:, kept:], atol=1e-13, rtol=0)
    basis.refresh(kept, 1e-14)
    assert defect(left_out=True) < 1e-12
    while not basis.exhausted:
        basis.expand()
    assert np.abs(np.sort(basis.ritz()[0][0].real) - np.sort(np.linalg.eigvals(A).real)).max() < 1e-12


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_copies_of_an_eigenvalue_are_not_missed(which):
    """Six planes turned alike, which one starting vector sees as one: the probe finds them."""
    n, copies = 300, 6
    values = 0.6 * torch.linspace(-1, 1, n - 2 * copies, dtype=torch.float64)
    sign = -1 if which == "smallest" else 1
    edge = math.hypot(0.9, 0.2) if which == "magnitude" else 0.9
    turn = torch.tensor([[0.9, -0.2], [0.2, 0.9]], dtype=torch.float64) * sign

    def apply(V):
        planes = V[:, : 2 * copies].unflatten(-1, (copies, 2)) @ turn.T
        return torch.cat([planes.flatten(-2), V[:, 2 * copies :] * values], dim=-1)

    A = from_functions(apply, n=n, dtype=torch.float64)  # no product with A' is needed
    for seed in range(2):
        found = krylov_schur(A, 2 * copies, tol=1e-6, which=which, seed=seed)
        proof = certify_full(Space(found.vectors.shape[-1]), found, ComplexTarget(2 * copies, which))
        assert not found.notes and found.completeness.confidence == 0.99
        np.testing.assert_allclose(HEIGHT[which](proof.values.numpy()), edge, atol=1e-5)
        assert HEIGHT[which](found.completeness.bound.numpy()) < edge


def test_what_is_unseen_is_bounded_as_often_as_claimed():
    """Over random starts the bound fails seldom; with half the chance of failure allowed, it is close."""
    rng = np.random.default_rng(0)
    n, steps, starts, failure = 60, 10, 60, 0.2
    close = {}
    for kind in ("decaying", "random", "grcar"):
        A = matrix(kind, n, rng)
        values = np.linalg.eigvals(A)
        for magnitude, farthest in ((False, values.real.max()), (True, np.abs(values).max())):
            bounds = []
            for seed in range(starts):
                first = torch.randn(1, 1, n, generator=torch.Generator().manual_seed(seed)).double()
                basis = KrylovSchurBasis(as_operator(torch.as_tensor(A)), first, torch.Generator(), TARGET)
                for _ in range(steps):
                    basis.expand()
                H, C = basis.T[0].numpy(), basis.C[0].numpy()
                bounds.append(unseen_height(H, C, block=1, dimension=n, failure=failure, magnitude=magnitude))
            assert (np.array(bounds) < farthest - 1e-9).mean() <= failure
            close[kind] = np.median(bounds) / farthest
    assert close["decaying"] < 1.1 < close["grcar"]


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("kind", ["decaying", "random", "grcar", "jordan"])
def test_bound_is_the_last_line_on_which_g_reaches_delta(kind, magnitude):
    n, m, failure = 50, 14, 0.01
    A = torch.as_tensor(matrix(kind, n, np.random.default_rng(2)))
    first = torch.randn(1, 2, n, generator=torch.Generator().manual_seed(3)).double()
    basis = KrylovSchurBasis(as_operator(A), first, torch.Generator(), TARGET)
    for _ in range(m // 2):
        basis.expand()
    H, C = basis.T[0].numpy(), basis.C[0].numpy()
    bound = unseen_height(H, C, block=2, dimension=n, failure=failure, magnitude=magnitude)
    rim = (np.abs if magnitude else np.real)(np.linalg.eigvals(H)).max()
    delta = math.sqrt(scipy.special.betaincinv(1, (n - 2) / 2, failure) / 2)

    def most(x):
        angle = np.linspace(0, 2 * np.pi, 4001)
        z = x * np.exp(1j * angle) if magnitude else x + 1j * np.tan((angle[1:-1] - np.pi) / 2)
        S, U = scipy.linalg.schur(H, output="complex")
        G = np.linalg.solve(
            z[:, None, None] * np.eye(m) - S, np.broadcast_to(U.conj().T[:, :2], (len(z), m, 2))
        )
        return np.linalg.norm(C @ U @ G, ord=2, axis=(1, 2)).max()

    assert most(bound) < delta <= most(rim + (bound - rim) / 1.1) * 1.01


def test_ordered_schur_form():
    for kind in KINDS:
        A = matrix(kind, 25, np.random.default_rng(1))
        form = RealSchur.of(A)
        for height in (np.real, np.abs):
            ordered = form.ordered(height)
            np.testing.assert_allclose(ordered.Z @ ordered.T @ ordered.Z.T, A, atol=1e-12)
            assert (np.diff(height(ordered.values)) <= 1e-6).all()
            np.testing.assert_allclose(A @ ordered.vectors, ordered.vectors * ordered.values, atol=1e-12)
        gap = np.linalg.norm(A) ** 2 - (np.abs(np.linalg.eigvals(A)) ** 2).sum()
        assert departure(form.T) == pytest.approx(math.sqrt(max(gap, 0)), abs=1e-5)


def test_above_finds_every_eigenvalue_beyond():
    A = matrix("decaying", 80, np.random.default_rng(5))
    exact = np.linalg.eigvals(A)
    for which, above, count in (
        ("largest", 0.3, (exact.real > 0.3).sum()),
        ("smallest", -0.01, (exact.real < -0.01).sum()),
        ("magnitude", 0.2, (np.abs(exact) > 0.2).sum()),
    ):
        for method in ("krylov-schur", "dense"):
            found = solve(torch.as_tensor(A), which=which, above=above, tol=1e-8, method=method)
            assert found.k == count and found.converged.all()
    assert solve(torch.as_tensor(A), above=5.0).k == 0


def test_models_and_their_shapes(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 5, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(5, 1, 3, padding=1)
    )
    y = torch.rand(1, 1, 14, 12)
    J = torch.autograd.functional.jacobian(net.double(), y.double()).reshape(168, 168).numpy()
    exact = np.linalg.eigvals(J)
    exact = exact[np.argsort(-exact.real)]
    found = solve(net.float(), y, k=5, tol=1e-5, left=True)
    np.testing.assert_allclose(found.values.real, exact[: found.k].real, atol=1e-4)
    assert found.vectors.shape == found.left.shape == (found.k, *y.shape)
    assert found.vectors.dtype == torch.complex64 and found.values.dtype == torch.complex128
    assert found.schur_vectors.shape[1:] == y.shape and found.schur_vectors.dtype == torch.float32
    lead = found.vectors.flatten(1).gather(1, found.vectors.flatten(1).abs().argmax(1, keepdim=True))
    assert (lead.real > 0).all() and lead.imag.abs().max() < 1e-6
    again = FullEigenPairs.load(found.save(tmp_path / "full.safetensors"))
    assert repr(again) == repr(found) and torch.equal(again.left, found.left)
    assert torch.equal(again.values, found.values) and torch.equal(again.schur, found.schur)
    with pytest.raises(FileContentError, match="FullEigenPairs"):
        EigenPairs.load(tmp_path / "full.safetensors")
    found.plot().savefig(tmp_path / "full.png")
    with pytest.raises(OptionError, match="one image"):
        solve(torch.eye(9), k=1).plot()


def test_dense_agrees_and_is_certain():
    A = torch.as_tensor(matrix("skewed", 90, np.random.default_rng(6)))
    for which in ("largest", "smallest", "magnitude"):
        by = {m: solve(A, k=7, which=which, tol=1e-9, method=m, left=True) for m in ("dense", "krylov-schur")}
        torch.testing.assert_close(by["dense"].values, by["krylov-schur"].values, atol=1e-7, rtol=0)
        torch.testing.assert_close(by["dense"].condition, by["krylov-schur"].condition, rtol=1e-4, atol=0)
        assert by["dense"].completeness.confidence == 1 and by["dense"].complete


def test_faults():
    with pytest.raises(OptionError, match="one image at a time"):
        solve(torch.randn(2, 9, 9))
    A = torch.as_tensor(matrix("random", 30, np.random.default_rng(0)))
    bad = A.clone()
    bad[3, 4] = float("nan")
    for method in ("krylov-schur", "dense"):
        with pytest.raises(NotFiniteError):
            solve(bad, k=2, method=method)
    forward = from_functions(lambda V: V @ A.T, n=30, dtype=torch.float64)
    assert krylov_schur(forward, 2).completeness.confidence > 0
    for solver in (krylov_schur, dense_schur):
        with pytest.raises(TransposeMissingError):
            solver(forward, 2, left=True)
    few = solve(
        torch.as_tensor(matrix("random", 200, np.random.default_rng(0))), k=5, tol=1e-9, max_products=60
    )
    assert (
        not few.converged.all()
        and few.completeness.confidence == 0
        and few.products <= 60 + few.k + few.spent["checks"] + few.spent["rounding"]
    )
    assert "stopped at max_products" in repr(few)


def test_interrupted_solves_say_so():
    A = torch.as_tensor(matrix("random", 200, np.random.default_rng(0)))
    apply = interrupted(lambda V: V @ A.T, 40)
    found = solve(from_functions(apply, lambda U: U @ A, n=200, dtype=torch.float64), k=4, tol=1e-8)
    assert "interrupted" in found.notes and found.k >= 4 and not found.converged.all()
    true = (
        found.vectors.to(torch.complex128) @ A.T.to(torch.complex128) - found.values[:, None] * found.vectors
    )
    torch.testing.assert_close(found.residuals, true.norm(dim=-1), atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize("at", [1, 2])
def test_interrupted_before_there_is_anything(at):
    found = krylov_schur(from_functions(interrupted(lambda V: 2 * V, at), n=50, dtype=torch.float64), 4)
    values = certify_full(Space(found.vectors.shape[-1]), found, ComplexTarget(4, "largest")).values
    assert found.notes == ["interrupted"] and len(values) == at - 1
    np.testing.assert_allclose(values, 2.0)


def test_resumed_from_a_checkpoint(tmp_path):
    A = torch.as_tensor(matrix("decaying", 200, np.random.default_rng(0)))
    path = tmp_path / "solve"
    whole = solve(A, k=4, tol=1e-8, left=True)
    solve(A, k=4, tol=1e-8, left=True, max_products=60, checkpoint=path)
    resumed = solve(A, k=4, tol=1e-8, left=True, checkpoint=path)
    torch.testing.assert_close(resumed.values, whole.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(resumed.condition, whole.condition, atol=0, rtol=1e-4)


@pytest.mark.skipif(not LAB.is_dir(), reason=f"the lab's networks are not at {LAB}")
def test_published_jacobian():
    """The matrix by two methods, and through the network: eigenvalues of J itself, by real part."""
    import denoisers

    J = torch.eye(900).double() - torch.from_numpy(np.load(LAB / "Jacobian_30.npy")).double().reshape(
        900, 900
    )
    exact = torch.linalg.eigvals(J)
    exact = exact[exact.real.argsort(descending=True)]
    published = torch.tensor([1.7849, 1.4418, 1.3660, 1.2980, 1.2913, 1.2830]).double()
    found = solve(J, k=6, tol=1e-8, left=True)
    assert found.converged.all() and found.complete and not found.defective.any()
    assert (found.values.real - published).abs().max() < 5e-5
    assert ((found.values - exact[:6]).abs() <= 2 * found.errors + 1e-13).all()
    dense = dense_schur(as_operator(J), 6)
    values = certify_full(Space(dense.vectors.shape[-1]), dense, ComplexTarget(6, "largest")).values
    torch.testing.assert_close(values, exact[:6], atol=1e-10, rtol=0)
    net = denoisers.load(LAB / "bfdncnn20_bsd400_gray_0-100.npz")
    y = torch.from_numpy(np.load(LAB / "noisy_im_30.npy")).float().reshape(1, 1, 30, 30)
    through = solve(net, y, k=6)
    assert through.converged.all() and through.complete
    assert (through.values.real - published).abs().max() < 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("method", ["dense", "krylov-schur"])
def test_jordan_blocks_are_defective_with_left_vectors_too(value, k, method):
    """The leading left vectors of a Jordan block are orthogonal to its leading right ones."""
    J = value * torch.eye(6, dtype=torch.float64) + torch.diag(torch.ones(5, dtype=torch.float64), 1)
    for M in (J, J.T.contiguous()):
        for left in (False, True):
            pairs = spectral.top_eigs_full(M, k=k, left=left, method=method)
            assert pairs.defective.all() and pairs.errors.isfinite().all()
        assert pairs.left.isfinite().all() and pairs.left_residuals.isfinite().all()
        assert (pairs.condition >= 10).all() and pairs.condition.isfinite().all()


def test_a_bound_tried_at_an_eigenvalue():
    """Where the projected matrix less the place that is tried is singular to the last digit."""
    H, C = np.diag([0.0, -1.0]), np.full((1, 2), 1e-9)
    tests = _Tests(H, C, 1, 0.1, 1e-8, magnitude=False)
    assert tests.reached(0.0) and tests.reached(-1.0)
