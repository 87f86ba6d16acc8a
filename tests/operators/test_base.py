"""The operator contract: algebra, counting, interop and refusals, against dense matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.errors import OptionError, ShapeError, TransposeMissingError
from spectral.operators import as_operator, from_functions


def pair(r, n, seed=0, batch=()):
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(*batch, r, n, generator=generator, dtype=torch.float64)
    return M, as_operator(M)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([(), (3,)]), st.integers(0, 1000))
def test_algebra_equals_that_of_matrices(r, n, batch, seed):
    M, A = pair(r, n, seed, batch)
    N, B = pair(r, n, seed + 1, batch)
    same = {
        "itself": (A, M),
        "transpose": (A.T, M.mT),
        "twice transposed": (A.T.T, M),
        "sum": (A + B, M + N),
        "difference": (A - B, M - N),
        "scaled": (2.5 * A, 2.5 * M),
        "scaled from the right": (A * 2.5, 2.5 * M),
        "negated": (-A, -M),
        "product": (A.T @ B, M.mT @ N),
        "gram": (A.gram(), M.mT @ M),
        "symmetric part": ((A.T @ B).symmetric_part(), (M.mT @ N + N.mT @ M) / 2),
    }
    for name, (operator, matrix) in same.items():
        torch.testing.assert_close(operator.dense(), matrix, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(operator.T.dense(), matrix.mT, msg=lambda m, name=name: f"{name}': {m}")


def test_rows_and_vectors():
    M, A = pair(3, 5)
    V = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(A.apply(V), V @ M.T)
    torch.testing.assert_close(A.apply_transpose(A.apply(V)), V @ M.T @ M)
    torch.testing.assert_close(A @ V[0], M @ V[0])


def test_count_is_of_vectors_in_either_direction():
    _, A = pair(6, 6)
    S = A.symmetric_part()
    S.apply(torch.zeros(5, 6, dtype=torch.float64))
    assert (S.count, A.count) == (5, 10)
    _, B = pair(6, 6, batch=(2,))
    B.apply(torch.zeros(2, 3, 6, dtype=torch.float64))
    assert B.count == 3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.permutations(range(4)), st.integers(1, 4), st.integers(0, 1000))
def test_selections_equal_those_of_matrices(order, kept, seed):
    index = order[:kept]
    M, A = pair(5, 5, seed, (4,))
    N, B = pair(5, 5, seed + 1, (4,))
    F = from_functions(lambda V: V @ M.mT, lambda U: U @ M, n=5, dtype=torch.float64, batch=(4,))
    same = {
        "itself": (A, M),
        "transpose": (A.T, M.mT),
        "sum": (A + B, M + N),
        "scaled": (2.5 * A, 2.5 * M),
        "product": (A @ B, M @ N),
        "gram": (A.gram(), M.mT @ M),
        "symmetric part": (A.symmetric_part(), (M + M.mT) / 2),
        "cast": (A.to(torch.float32), M.float()),
        "functions": (F, M),
        "half of functions": (0.5 * F.symmetric_part(), (M + M.mT) / 4),
    }
    for name, (operator, matrix) in same.items():
        part = operator.select(torch.tensor(index))
        assert part.batch == (kept,) and part.symmetric == operator.symmetric
        torch.testing.assert_close(part.dense(), matrix[index], msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(part.T.dense(), matrix[index].mT, msg=lambda m, name=name: f"{name}': {m}")
        again = part.select([kept - 1])
        torch.testing.assert_close(again.dense(), matrix[index[-1:]])


def test_selections_count_on_the_whole():
    for A in (pair(6, 6, batch=(3,))[1], from_functions(lambda V: V, lambda V: V, n=6, batch=(3,))):
        S = A.symmetric_part()
        S.apply(torch.zeros(3, 1, 6, dtype=A.dtype))
        part = S.select([2, 0])
        part.apply(torch.zeros(2, 4, 6, dtype=A.dtype))
        part.select([1]).apply(torch.zeros(1, 8, 6, dtype=A.dtype))
        assert (part.count, S.count, A.count) == (12, 13, 26)


def test_scipy_both_ways():
    M, A = pair(4, 7)
    there = A.to_scipy()
    X = np.random.default_rng(0).standard_normal((7, 3))
    np.testing.assert_allclose(there @ X, M.numpy() @ X)
    np.testing.assert_allclose(there @ X[:, 0], M.numpy() @ X[:, 0])
    np.testing.assert_allclose(there.H @ (M.numpy() @ X), M.numpy().T @ M.numpy() @ X)
    back = as_operator(there)
    torch.testing.assert_close(back.dense(), M)
    torch.testing.assert_close(back.T.dense(), M.T)
    sparse = scipy.sparse.random(6, 6, 0.5, random_state=0, format="csr")
    torch.testing.assert_close(as_operator(sparse).dense(), torch.as_tensor(sparse.toarray()))
    assert as_operator(sparse + sparse.T).symmetric and not as_operator(sparse).symmetric


def test_known_symmetry():
    M, A = pair(5, 5)
    assert not A.symmetric and as_operator(M + M.T).symmetric
    S = as_operator(M + M.T)
    assert S.symmetric_part() is S and S.T is S and A.gram().symmetric


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cast_keeps_small_entries(dtype):
    """A unit vector of length 4 million has entries of 5e-4, whose squares float16 cannot hold."""
    n = 1 << 22
    A = from_functions(lambda V: 2 * V, n=n, symmetric=True, dtype=dtype).to(torch.float32)
    v = torch.randn(1, n)
    v /= v.norm()
    relative = ((A.apply(v) - 2 * v).norm() / 2).item()
    assert relative <= torch.finfo(dtype).eps
    assert A.apply(torch.zeros(1, n)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_tensors(layout, dtype):
    M = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    M[M.abs() < 0.5] = 0
    for dense in (M, M[:3], torch.triu(M) + torch.triu(M, 1).T):
        A = as_operator(getattr(dense, layout)())
        assert torch.equal(A.dense(), dense) and torch.equal(A.T.dense(), dense.T)
        assert A.symmetric == (dense.shape == (5, 5) and torch.equal(dense, dense.T))
    batch = torch.stack([M, 2 * M, 3 * M])
    A = as_operator(batch.to_sparse())
    assert torch.equal(A.dense(), batch) and torch.equal(A.select([2, 0]).T.dense(), batch[[2, 0]].mT)


@pytest.mark.parametrize(
    "turned",
    [
        lambda M: M[::-1],
        lambda M: M[:, ::-1],
        lambda M: M.T,
        lambda M: M[::2, ::-2],
        lambda M: M.astype(">f8"),
        lambda M: M.astype(">f4")[::-1],
        lambda M: np.stack([M, M.T])[::-1],
    ],
)
def test_arrays_of_any_strides_and_byte_order(turned):
    M = turned(np.random.default_rng(0).standard_normal((6, 6)))
    np.testing.assert_array_equal(as_operator(M).dense().numpy(), M)
    if M.ndim == 2:
        A = as_operator(scipy.sparse.linalg.LinearOperator(M.shape, lambda x: M @ x, dtype=M.dtype))
        np.testing.assert_allclose(A.dense().numpy(), M, rtol=1e-6)


def test_functions_that_share_one_buffer():
    M = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    buffer = torch.empty(40)

    def into(matrix):
        return lambda V: torch.mv(matrix, V[0], out=buffer)[None]

    A = from_functions(into(M), into(M.T), 40)
    v = torch.randn(1, 40)
    forward, backward = A.apply(v), A.apply_transpose(v)
    torch.testing.assert_close(forward, v @ M.T)
    torch.testing.assert_close(backward, v @ M)
    torch.testing.assert_close(A.symmetric_part().apply(v), v @ (M + M.T) / 2)
    identity = from_functions(lambda V: V, n=40, symmetric=True)
    assert identity.apply(v).data_ptr() != v.data_ptr()


def test_functions_without_transpose():
    A = from_functions(lambda V: V[..., :2], n=(2, 3))
    assert A.apply(torch.ones(1, 3)).shape == (1, 2)
    with pytest.raises(TransposeMissingError, match="symmetric=True"):
        A.apply_transpose(torch.ones(1, 2))
    one_way = scipy.sparse.linalg.LinearOperator((3, 3), matvec=lambda x: x, dtype=np.float64)
    with pytest.raises(TransposeMissingError, match="rmatvec"):
        as_operator(one_way).apply_transpose(torch.ones(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda A: A.apply(torch.zeros(2, 4, dtype=torch.float64)), ShapeError, "has shape"),
        (lambda A: A.apply(torch.zeros(5, dtype=torch.float64)), ShapeError, "has shape"),
        (lambda A: A.apply(torch.zeros(2, 5)), ShapeError, r"V\.to"),
        (lambda A: A @ torch.zeros(2, 5, dtype=torch.float64), ShapeError, "A.apply"),
        (lambda A: A + as_operator(torch.zeros(5, 5, dtype=torch.float64)), ShapeError, "cannot add"),
        (lambda A: A @ A, ShapeError, "cannot multiply"),
        (lambda A: A.symmetric_part(), ShapeError, "not square"),
        (lambda _: as_operator(torch.zeros(3)), ShapeError, "matrix has shape"),
        (lambda _: as_operator(torch.zeros(3, 3, dtype=torch.complex64)), OptionError, "real"),
        (lambda _: as_operator(torch.eye(3, dtype=torch.int64).to_sparse()), OptionError, "real"),
        (lambda _: as_operator(np.eye(3).astype(object)), OptionError, "real"),
        (lambda _: as_operator("A"), OptionError, "cannot make"),
        (lambda _: from_functions(lambda V: V, n=0), OptionError, "at least 1"),
        (lambda _: from_functions(lambda V: V, n=(2, 3), symmetric=True), ShapeError, "cannot be symm"),
        (lambda _: as_operator(torch.zeros(2, 3, 3)).to_scipy(), ShapeError, "no batch"),
        (lambda A: A.select([0]), ShapeError, "holds one problem"),
        (lambda _: as_operator(torch.zeros(2, 3, 3)).select([]), OptionError, "at least one"),
        (lambda _: as_operator(torch.zeros(2, 3, 3)).select([True, False]), OptionError, "number"),
        (lambda _: as_operator(torch.zeros(2, 3, 3)).select([1, 1]), OptionError, "distinct"),
        (lambda _: as_operator(torch.zeros(2, 3, 3)).select([2]), OptionError, "from 0 to 1"),
    ],
)
def test_wrong_input_is_refused(call, error, says):
    _, A = pair(3, 5)
    with pytest.raises(error, match=says):
        call(A)


@pytest.mark.filterwarnings("error")
def test_an_array_that_may_only_be_read(tmp_path):
    M = np.random.default_rng(0).standard_normal((6, 6))
    np.save(tmp_path / "M.npy", M)
    mapped = np.load(tmp_path / "M.npy", mmap_mode="r")
    torch.testing.assert_close(as_operator(mapped).dense(), torch.from_numpy(M))
