"""Operators from what is at hand: callables, tensors, arrays, sparse matrices, SciPy's operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spectral.ambient import as_outside
from spectral.errors import NotFiniteError, OptionError, ShapeError, TransposeMissingError
from spectral.operators.base import LinearOperator, Rows
from spectral.options import whole

if TYPE_CHECKING:
    import scipy.sparse.linalg


class _Matrix(LinearOperator):
    def __init__(self, matrix: Tensor, symmetric: bool) -> None:
        shape = (matrix.shape[-2], matrix.shape[-1])
        super().__init__(
            shape,
            dtype=matrix.dtype,
            device=matrix.device,
            batch=tuple(matrix.shape[:-2]),
            symmetric=symmetric,
        )
        self.matrix = matrix

    def _apply(self, V: Tensor) -> Tensor:
        return V @ self.matrix.mT

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return V @ self.matrix

    def _select(self, index: Tensor) -> LinearOperator:
        return _Matrix(self.matrix[index.to(self.device)], self.symmetric)


class _Sparse(LinearOperator):
    """Sparse matrices, one per problem, by coordinates: that layout alone has products in every dtype."""

    def __init__(self, matrices: list[Tensor], batch: tuple[int, ...], symmetric: bool) -> None:
        first = matrices[0]
        shape = (first.shape[0], first.shape[1])
        super().__init__(shape, dtype=first.dtype, device=first.device, batch=batch, symmetric=symmetric)
        self.matrices = matrices
        self.transposed = matrices if symmetric else [M.t().coalesce() for M in matrices]

    def _products(self, matrices: list[Tensor], V: Tensor) -> Tensor:
        rows = V if self.batch else V[None]
        W = torch.stack([torch.sparse.mm(M, v.mT).mT for M, v in zip(matrices, rows, strict=True)])
        return W if self.batch else W[0].contiguous()

    def _apply(self, V: Tensor) -> Tensor:
        return self._products(self.matrices, V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._products(self.transposed, V)

    def _select(self, index: Tensor) -> LinearOperator:
        return _Sparse([self.matrices[i] for i in index.tolist()], (len(index),), self.symmetric)


class _Functions(LinearOperator):
    """Callables, which may return the same memory again and again: what they return is copied."""

    def __init__(
        self,
        apply: Rows,
        apply_transpose: Rows | None,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str,
        batch: tuple[int, ...],
        symmetric: bool,
    ) -> None:
        super().__init__(shape, dtype=dtype, device=device, batch=batch, symmetric=symmetric)
        self.forward, self.backward = apply, apply_transpose

    def _apply(self, V: Tensor) -> Tensor:
        return self._product(self.forward, V, self.shape[0])

    def _apply_transpose(self, V: Tensor) -> Tensor:
        if self.backward is None:
            raise TransposeMissingError(
                f"{self!r} was given no product with its transpose: pass apply_transpose, or symmetric=True "
                "where A = A'"
            )
        return self._product(self.backward, V, self.shape[1])

    def _product(self, product: Rows, V: Tensor, length: int) -> Tensor:
        with as_outside():
            rows: Any = product(V)
        expected = (*V.shape[:-1], length)
        if not isinstance(rows, Tensor) or rows.shape != expected:
            got = tuple(rows.shape) if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
            raise ShapeError(
                f"{self!r} with rows of shape {tuple(V.shape)} gives a tensor of shape {expected}; got {got}"
            )
        return rows.to(self.dtype, copy=True)


def from_functions(
    apply: Rows,
    apply_transpose: Rows | None = None,
    n: int | tuple[int, int] = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch: tuple[int, ...] = (),
    symmetric: bool = False,
) -> LinearOperator:
    """An operator from callables on rows, `apply`: (*batch, m, n) -> (*batch, m, r), and its transpose.

    Args:
        apply: V -> A v for each row v; what it returns is copied, and may be one buffer for all products.
        apply_transpose: U -> A' u for each row u; not needed where `symmetric`.
        n: the length of a vector, or (r, n) for a rectangular A.
        dtype: of the rows.
        device: of the rows.
        batch: () or (B,).
        symmetric: promise that A = A'.

    Raises:
        OptionError: n is not positive.
    """
    r, n = (n, n) if not isinstance(n, tuple) else n
    shape = whole("n", r), whole("n", n)
    if min(shape) < 1:
        raise OptionError(f"n is the length of a vector, at least 1; got {n}")
    return _Functions(apply, apply_transpose, shape, dtype, device, batch, symmetric)


def as_operator(x: Any, *, symmetric: bool | None = None) -> LinearOperator:
    """An operator from a tensor (r, n) or (B, r, n), a NumPy array, a SciPy sparse matrix or LinearOperator.

    Tensors may be dense or sparse of any layout, arrays of any strides and byte order.

    Args:
        x: the map; a LinearOperator of this library is returned as it is.
        symmetric: promise that x = x'.  By default explicit matrices are looked at, and a SciPy
            LinearOperator is taken to be unsymmetric.

    Raises:
        ShapeError: x has no two last axes.
        OptionError: x is none of these, or is not real.
        NotFiniteError: a dense x holds NaN or infinity.
    """
    if isinstance(x, LinearOperator):
        return x
    if isinstance(x, np.ndarray):
        x = _native(x)
    if isinstance(x, Tensor):
        if x.ndim not in (2, 3):
            raise ShapeError(f"a matrix has shape (r, n) or (B, r, n), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise OptionError(f"a matrix must be real floating point, got {x.dtype}: convert it first")
        x = x.detach()
        if x.layout != torch.strided:
            return _sparse(x, symmetric)
        if not torch.isfinite(x).all():
            raise NotFiniteError("the matrix holds NaN or infinity")
        if symmetric is None:
            symmetric = x.shape[-1] == x.shape[-2] and torch.equal(x, x.mT)
        return _Matrix(x, symmetric)
    import scipy.sparse.linalg  # noqa: PLC0415

    if scipy.sparse.issparse(x):
        if symmetric is None:
            symmetric = x.shape[0] == x.shape[1] and (x != x.T).nnz == 0
        return _from_scipy(scipy.sparse.linalg.aslinearoperator(x), symmetric)
    if isinstance(x, scipy.sparse.linalg.LinearOperator):
        return _from_scipy(x, bool(symmetric))
    raise OptionError(f"cannot make an operator of a {type(x).__name__}: pass a tensor, array or operator")


def _native(x: np.ndarray) -> Tensor:
    """The array in torch's terms: strides not negative, and the machine's own byte order."""
    x = np.ascontiguousarray(x).reshape(x.shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of memory that may not be written to, such as a mapped file's
            return torch.as_tensor(x.astype(x.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise OptionError(f"a matrix must be real floating point, got {x.dtype}: convert it first") from None


def _sparse(x: Tensor, symmetric: bool | None) -> LinearOperator:
    parts = [x] if x.ndim == 2 else [x[i] for i in range(len(x))]
    parts = [part.to_sparse_coo().coalesce() for part in parts]
    if symmetric is None:
        symmetric = x.shape[-1] == x.shape[-2] and all(
            torch.equal(M.indices(), N.indices()) and torch.equal(M.values(), N.values())
            for M, N in ((M, M.t().coalesce()) for M in parts)
        )
    return _Sparse(parts, tuple(x.shape[:-2]), symmetric)


def _from_scipy(x: scipy.sparse.linalg.LinearOperator, symmetric: bool) -> LinearOperator:
    dtype = _native(np.empty(0, dtype=x.dtype)).dtype
    if not dtype.is_floating_point:
        raise OptionError(f"a SciPy operator must be real floating point, got {x.dtype}")

    def rows(product: Callable[[np.ndarray], np.ndarray]) -> Rows:
        return lambda V: _native(product(V.cpu().numpy().T).T).to(dtype)

    def transposed(U: np.ndarray) -> np.ndarray:
        try:
            return x.rmatmat(U)
        except (NotImplementedError, TypeError):  # which of them depends on how the operator was made
            raise TransposeMissingError(
                "this SciPy operator has no rmatvec: define one, or pass symmetric=True where A = A'"
            ) from None

    return _Functions(rows(x.matmat), rows(transposed), x.shape, dtype, "cpu", (), symmetric)
