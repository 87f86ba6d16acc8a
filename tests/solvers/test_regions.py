"""mask=, output_mask= and orthogonal_to= against dense LAPACK on the restricted matrix."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spectral
from spectral.errors import CheckpointError, OptionError
from spectral.operators import Subspace, as_operator
from spectral.solvers import LOBPCG
from tests.helpers.against_dense import EPS, sought
from tests.helpers.spectra import KINDS, matrix, spectrum

METHODS = ("lanczos", "lobpcg", "chebyshev", "dense")
many = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32 - 1)


def restriction(n, seed, data, name="mask"):
    """A mask, from one pixel to all or None, and constraints, fewer than leave nothing, or None; E' too."""
    rng = np.random.default_rng(seed)
    m = data.draw(st.one_of(st.just(1), st.just(n), st.integers(1, n)), label=name)
    mask = None
    if data.draw(st.booleans()):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[torch.as_tensor(rng.permutation(n)[:m])] = True
    inside = n if mask is None else m
    rows = None
    if data.draw(st.booleans()):
        rank = data.draw(st.one_of(st.just(0), st.just(inside - 1), st.integers(0, inside - 1)))
        mixed = rng.standard_normal((rank + 2, rank)) @ rng.standard_normal((rank, n))  # two of them depend
        rows = torch.as_tensor(mixed)
    return mask, rows, basis_of(n, mask, rows)


def basis_of(n, mask, rows):
    """An orthonormal basis of what is left, by LAPACK alone."""
    E = np.eye(n) if mask is None else np.eye(n)[mask.numpy()]
    if rows is not None and rows.numel():
        U, s, _ = np.linalg.svd(E @ rows.double().numpy().T)
        E = U[:, (s > 1e-9 * max(s.max(), 1e-300)).sum() :].T @ E
    return E


def check(found, M, E, mask, rows, which, k):
    """Pairs of E S E' as they are told in all entries."""
    S = E @ (M + M.T) @ E.T / 2
    exact = sought(np.linalg.eigvalsh(S), which)[:k]
    eps = EPS[found.vectors.dtype]
    scale = max(np.abs(exact).max(), 1e-300)
    slack = 300 * len(M) ** 0.5 * eps * np.linalg.norm(M, 2) + 1e-300
    V = found.vectors.double().numpy()
    values = found.values.numpy()
    if which == "magnitude":
        values, exact = np.sort(np.abs(values)), np.sort(np.abs(exact))
    assert np.abs(values - exact).max() <= 2 * found.tol * scale + slack
    if mask is not None:
        assert (found.vectors[:, ~mask] == 0).all()
    if rows is not None:
        sizes = np.linalg.norm(rows.double().numpy(), axis=1)
        assert (np.abs(V @ rows.double().numpy().T) <= 100 * eps * sizes).all()
    assert np.abs(V @ V.T - np.eye(k)).max() < 300 * eps
    residuals = np.linalg.norm((V @ E.T) @ S - found.values.numpy()[:, None] * (V @ E.T), axis=1)
    assert (np.abs(residuals - found.residuals.numpy()) <= 0.1 * residuals + slack).all()
    assert (found.restriction == "") == (len(E) == len(M))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@many
@given(st.integers(2, 70), seeds, st.sampled_from(KINDS), st.data())
def test_eigenpairs_are_those_of_the_restricted_matrix(method, dtype, n, seed, kind, data):
    rng = np.random.default_rng(seed)
    M = torch.as_tensor(matrix(spectrum(kind, n, rng), rng)).to(dtype)
    mask, rows, E = restriction(n, seed + 1, data)
    k = data.draw(st.integers(1, len(E)))
    which = data.draw(st.sampled_from(["largest", "smallest", "magnitude"]))
    A = as_operator(M, symmetric=True)
    tol = 1e-5 if dtype == torch.float32 else 1e-8
    rows = None if rows is None else rows.to(dtype)
    found = spectral.top_eigs(
        A, k=k, which=which, tol=tol, method=method, seed=seed % 1000, mask=mask, orthogonal_to=rows
    )
    check(found, M.double().numpy(), E, mask, rows, which, k)
    assert found.products == A.count
    if k < len(E):
        with pytest.raises(OptionError, match=f"1 to d = {len(E)}"):
            spectral.top_eigs(A, k=len(E) + 1, method=method, mask=mask, orthogonal_to=rows)


@pytest.mark.parametrize("method", ["golub-kahan", "dense"])
@many
@given(st.integers(1, 50), st.integers(2, 50), seeds, st.data())
def test_triplets_are_those_of_the_restricted_matrix(method, r, n, seed, data):
    M = np.random.default_rng(seed).standard_normal((r, n))
    mask, rows, E = restriction(n, seed + 1, data)
    output_mask = restriction(r, seed + 2, data, "output_mask")[0]
    F = basis_of(r, output_mask, None)
    exact = np.linalg.svd(F @ M @ E.T, compute_uv=False)
    k = data.draw(st.integers(1, len(exact)))
    found = spectral.top_svd(
        torch.as_tensor(M),
        k=k,
        tol=1e-8,
        method=method,
        mask=mask,
        output_mask=output_mask,
        orthogonal_to=rows,
    )
    np.testing.assert_allclose(found.values, exact[:k], atol=1e-7 * exact[0])
    U, V = found.left.numpy(), found.right.numpy()
    np.testing.assert_allclose(E.T @ (E @ V.T), V.T, atol=1e-11)
    np.testing.assert_allclose(F.T @ (F @ U.T), U.T, atol=1e-11)
    true = np.linalg.norm(F @ M @ V.T - found.values.numpy() * (F @ U.T), axis=0)
    np.testing.assert_allclose(found.left_residuals, true, atol=1e-12 * exact[0])


@pytest.mark.parametrize("method", ["krylov-schur", "dense"])
@many
@given(st.integers(2, 40), seeds, st.data())
def test_complex_pairs_are_those_of_the_restricted_matrix(method, n, seed, data):
    M = np.random.default_rng(seed).standard_normal((n, n))
    mask, rows, E = restriction(n, seed + 1, data)
    k = data.draw(st.integers(1, len(E)))
    found = spectral.top_eigs_full(
        torch.as_tensor(M), k=k, tol=1e-9, method=method, left=True, mask=mask, orthogonal_to=rows
    )
    exact = np.linalg.eigvals(E @ M @ E.T)
    for value, condition in zip(found.values.numpy(), found.condition.numpy(), strict=True):
        assert np.abs(exact - value).min() < 1e-6 * max(condition, 1) * np.abs(exact).max()
    assert (np.sort(exact.real)[::-1][:k] <= found.values.real.numpy()[:k] + 1e-5).all()
    for V in (found.vectors.numpy(), found.left.numpy(), found.schur_vectors.numpy()):
        np.testing.assert_allclose(E.T @ (E @ V.T), V.T, atol=1e-11)


def test_no_zeros_of_what_was_left_out():
    """Of positive eigenvalues the smallest are sought: no zero of entries left out is among them."""
    values = torch.linspace(1, 2, 400, dtype=torch.float64)
    mask = torch.arange(400) % 4 == 0
    rows = torch.eye(400, dtype=torch.float64)[:3]
    for method in METHODS:
        found = spectral.top_eigs(
            torch.diag(values), k=3, which="smallest", method=method, mask=mask, orthogonal_to=rows, tol=1e-8
        )
        torch.testing.assert_close(found.values, values[4:16:4], atol=1e-6, rtol=0)
        assert found.completeness.bound > 1 and found.complete
    with pytest.raises(OptionError, match=r"1 to d = 99, what the input is restricted to; got 100"):
        spectral.top_eigs(torch.diag(values), k=100, mask=mask, orthogonal_to=rows)


def test_all_beyond_a_value_and_inside_an_interval():
    values = torch.linspace(-1, 1, 600, dtype=torch.float64)
    mask = torch.arange(600) % 2 == 0
    options = {"mask": mask, "orthogonal_to": torch.eye(600, dtype=torch.float64)[598], "tol": 1e-7}
    left = values[mask][:-1]
    for method in ("lanczos", "lobpcg", "chebyshev", "dense"):
        assert (
            spectral.top_eigs(torch.diag(values), above=0.9, method=method, **options).k == (left > 0.9).sum()
        )
    inside = spectral.top_eigs(torch.diag(values), between=(0.1, 0.2), **options)
    assert inside.k == ((left > 0.1) & (left < 0.2)).sum() and inside.complete
    low = spectral.top_eigs(torch.diag(values), above=-0.9, which="smallest", **options)
    assert low.k == (left < -0.9).sum()


def test_pairs_beyond_those_that_are_known():
    """Constraints step down a spectrum."""
    values = 0.9 ** torch.arange(300, dtype=torch.float64)
    first = spectral.top_eigs(torch.diag(values), k=4, tol=1e-9, method="lanczos")
    then = spectral.top_eigs(torch.diag(values), k=4, tol=1e-6, method="lobpcg", orthogonal_to=first.vectors)
    torch.testing.assert_close(then.values, values[4:8], atol=1e-10, rtol=0)


def test_a_preconditioner_is_restricted_too():
    """It is given whole rows, and pays as it does without a mask."""
    i = torch.arange(600, dtype=torch.float64)
    M = torch.diag(1 + i**2) + 0.1 * torch.ones(600, 600, dtype=torch.float64)
    options = {"k": 3, "which": "smallest", "tol": 1e-8, "mask": i % 3 == 0}

    def inverse(V):
        assert V.shape[-1] == 600
        return V / (1 + i**2)

    plain = spectral.top_eigs(M, method=LOBPCG(), **options)
    helped = spectral.top_eigs(M, method=LOBPCG(preconditioner=inverse), **options)
    exact = torch.linalg.eigvalsh(M[::3, ::3])[:3]
    torch.testing.assert_close(helped.values, exact, atol=1e-5, rtol=0)
    assert helped.spent["solve"] < plain.spent["solve"] / 3


class Network(torch.nn.Module):
    """Two convolutions with a gate, colour."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, y):
        return y - 0.5 * self.last(torch.nn.functional.relu(self.first(y)))


@pytest.fixture(scope="module")
def network():
    return Network().double()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_network(network, image):
    y = image[:1]
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:7, 1:5] = True
    J = spectral.jacobian(network, y).dense()
    inside = mask.expand(3, 8, 8).flatten()
    pairs = spectral.top_eigs(network, y, k=5, mask=mask, tol=1e-8, method="lanczos")
    S = (J + J.T)[inside][:, inside] / 2
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(S).flip(0)[:5], atol=1e-7, rtol=0)
    assert pairs.vectors.shape == (5, 1, 3, 8, 8) and (pairs.vectors[..., ~mask] == 0).all()
    M = J[inside][:, inside]
    skew = (torch.linalg.norm(M - M.T) / torch.linalg.norm(M)).item()
    assert abs(pairs.asymmetry.value - skew) < 5 * pairs.asymmetry.stderr + 0.1 * skew
    # What moves the rest least: away from the directions that move it most.
    rest = spectral.top_svd(network, y, k=3, output_mask=~mask, tol=1e-8)
    local = spectral.top_svd(
        network, y, k=3, output_mask=mask, orthogonal_to=rest.right, tol=1e-8, method="golub-kahan"
    )
    V = rest.right.flatten(1)
    P = torch.eye(192, dtype=torch.float64) - V.T @ V
    torch.testing.assert_close(local.values, torch.linalg.svdvals(J[inside] @ P)[:3], atol=1e-7, rtol=0)
    assert local.left.shape == (3, 1, 3, 8, 8) and (local.left[..., ~mask] == 0).all()
    assert "outputs 60 of 192 entries" in repr(local) and "orthogonal to 3 directions" in local.restriction


def test_a_batch(network, image):
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, :, 2:6] = True, True
    rows = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"k": 4, "tol": 1e-8, "method": "lanczos"}
    start = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    together = spectral.top_eigs(
        network, image, mask=masks, orthogonal_to=rows, batched=True, start=start, **options
    )
    shared = spectral.top_eigs(network, image, mask=masks[0], orthogonal_to=rows[0], batched=True, **options)
    for i in range(2):
        alone = spectral.top_eigs(network, image[i], mask=masks[i], orthogonal_to=rows[i], **options)
        torch.testing.assert_close(together.values[i], alone.values, atol=1e-7, rtol=0)
        assert (together.vectors[i].flatten(1) @ rows[i].flatten(1).T).abs().max() < 1e-12
        alone = spectral.top_eigs(network, image[i], mask=masks[0], orthogonal_to=rows[0], **options)
        torch.testing.assert_close(shared.values[i], alone.values, atol=1e-7, rtol=0)


def test_start_checkpoint_and_precision(network, image, tmp_path):
    y, mask = image[:1], torch.ones(8, 8).tril()
    options = {"k": 4, "mask": mask, "orthogonal_to": image[1:], "tol": 1e-6}
    cold = spectral.top_eigs(network, y, method="lanczos", **options)
    warm = spectral.top_eigs(network, y, method="lobpcg", start=cold.vectors, **options)
    assert warm.spent["solve"] < cold.spent["solve"]
    torch.testing.assert_close(warm.values, cold.values, atol=1e-5, rtol=0)
    # A start that the restriction leaves nothing of is none.
    lost = spectral.top_eigs(network, y, method="lanczos", start=(1 - mask).expand(3, 8, 8), **options)
    torch.testing.assert_close(lost.values, cold.values, atol=1e-5, rtol=0)
    path = tmp_path / "solve.safetensors"
    spectral.top_eigs(network, y, method="lanczos", checkpoint=path, max_products=10, **options)
    resumed = spectral.top_eigs(network, y, method="lanczos", checkpoint=path, **options)
    torch.testing.assert_close(resumed.values, cold.values, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="other products"):
        other = options | {"mask": mask.flip(0)}
        spectral.top_eigs(network, y, method="lanczos", checkpoint=path, **other)
    near = torch.zeros(1, 192, dtype=torch.float64)
    near[0, 0] = 0.01  # so little another constraint that products hardly tell
    near = options | {"orthogonal_to": image[1:] + near.reshape(1, 3, 8, 8)}
    with pytest.raises(CheckpointError, match="another"):
        spectral.top_eigs(network, y, method="lanczos", checkpoint=path, **near)
    with pytest.raises(CheckpointError, match="size"):
        spectral.top_eigs(network, y, method="lanczos", checkpoint=path, k=4)
    coarse = spectral.top_eigs(network, y, precision="float32", **options)
    torch.testing.assert_close(coarse.values, cold.values, atol=1e-5, rtol=0)
    assert coarse.restriction == cold.restriction


def test_a_result_says_what_was_restricted(network, image, tmp_path):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    for door in (spectral.top_eigs, spectral.top_eigs_full, spectral.top_svd):
        found = door(network, image[:1], k=2, mask=mask, orthogonal_to=image[1:])
        assert "96 of 192 entries, orthogonal to 1 direction: dimension 95" in repr(found)
        found.save(tmp_path / "found.safetensors")
        assert type(found).load(tmp_path / "found.safetensors").restriction == found.restriction
        found.plot()
        free = door(network, image[:1], k=2, mask=torch.ones(8, 8), orthogonal_to=torch.zeros(1, 192))
        assert free.restriction == "" and "restricted" not in repr(free)


def test_a_mask_of_nothing_that_responds():
    """A restricted operator that is zero, of one that is not."""
    M = torch.zeros(200, 200, dtype=torch.float64)
    M[:100, :100] = torch.eye(100)
    for method in METHODS:
        found = spectral.top_eigs(M, k=3, method=method, mask=torch.arange(200) >= 100)
        assert (found.values == 0).all() and found.converged.all()


def test_trace_and_diagonal_of_a_region(network, image):
    from spectral.operators import Compression

    J = spectral.jacobian(network, image[:1])
    part = Subspace.of(J.input_shape, torch.ones(8, 8).tril())
    inside = Compression(J, part, part)
    exact = J.dense().diagonal()[torch.ones(8, 8).tril().bool().expand(3, 8, 8).flatten()]
    assert abs(spectral.trace(inside, method="exact").value - exact.sum().item()) < 1e-9
    told = spectral.diagonal(inside, method="exact").value
    torch.testing.assert_close(part.embed(told[None])[0].sum(), exact.sum())
