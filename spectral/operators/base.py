"""The operator contract: a linear map known only by its products.

A block of vectors is a tensor of rows, (B, m, n): m vectors of length n for each of B independent problems
advanced in lock-step.  `batch` is (B,), or () where there is one problem, whose axis may then be left out.  A
subclass writes two methods, without that axis where there is no batch,

    _apply(V)            rows v -> A v      (*batch, m, n) -> (*batch, m, r)
    _apply_transpose(V)  rows u -> A' u     (*batch, m, r) -> (*batch, m, n)

and everything else (algebra, counting, dense form, SciPy) follows from them.  `interop` makes operators of
explicit matrices and callables.
"""

from __future__ import annotations

import contextlib
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from spectral.errors import NotLinearError, OptionError, ShapeError
from spectral.operators.space import Space

if TYPE_CHECKING:
    import scipy.sparse.linalg

Rows = Callable[[Tensor], Tensor]

STEP = 32  # `UnitScale` divides by powers of 2^32: operators of everyday size are left as they are
# Below it entries that matter may be no normal numbers, and products take those for zeros.
_LEAST = {dtype: 2.0**16 * torch.finfo(dtype).tiny for dtype in (torch.float32, torch.float64)}


class LinearOperator(ABC):
    """A real linear map A of shape (r, n), given by its products.

    Attributes:
        shape: (r, n), the dimensions of each problem's output and input.
        dtype, device: of the vectors that `_apply` takes.
        batch: () or (B,), the problems solved in lock-step.
        symmetric: True where A = A' is known; `apply_transpose` then is `apply`.
        codomain, domain: the spaces of A v and of v.
        eps: relative rounding of a product, |fl(A v) - A v| <= eps |A| |v|; by default the dtype's, and of
            what is made of other operators the largest of theirs.  No solver is asked for less.
        count: products so far with A or A', in vectors per problem; those of its selections too.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        batch: tuple[int, ...] = (),
        symmetric: bool = False,
        eps: float = 0.0,
        spaces: tuple[Space, Space] | None = None,
    ) -> None:
        if symmetric and shape[0] != shape[1]:
            raise ShapeError(f"an operator of shape {shape} cannot be symmetric")
        if len(batch) > 1:
            raise ShapeError(f"batch has one axis at most, got {batch}: flatten it")
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)
        self.batch, self.symmetric, self.count = batch, symmetric, 0
        self.codomain, self.domain = spaces or (Space(shape[0]), Space(shape[1]))
        self.eps = max(eps, torch.finfo(dtype).eps)
        self._whole: LinearOperator | None = None  # what this was selected from

    @abstractmethod
    def _apply(self, V: Tensor) -> Tensor:
        """A v for each row v of V (*batch, m, n)."""

    @abstractmethod
    def _apply_transpose(self, V: Tensor) -> Tensor:
        """A' u for each row u of V (*batch, m, r)."""

    # Products

    def apply(self, V: Tensor) -> Tensor:
        """A v for each row: (B, m, n) -> (B, m, r); without a batch also (m, n) -> (m, r).

        What solvers call in their loops: unlike `A @ v` it does not ask `check_current`, and of a Jacobian
        whose model's weights were written to through `.data`, which torch does not count, it may still be of
        the old ones.  Whoever writes such loops asks before and after, as the solvers do.

        Raises:
            ShapeError: V is not a block of rows of length n.
        """
        if self._alone(V):
            return self.apply(V[0])[None]
        self._check(V, self.domain.n)
        self._spend(V.shape[-2])
        return self._apply(_as_it_lies(V)) if V.shape[-2] else V.new_zeros(*V.shape[:-1], self.codomain.n)

    def apply_transpose(self, V: Tensor) -> Tensor:
        """A' u for each row: (B, m, r) -> (B, m, n); without a batch also (m, r) -> (m, n).  See `apply`.

        Raises:
            ShapeError: V is not a block of rows of length r.
        """
        if self._alone(V):
            return self.apply_transpose(V[0])[None]
        self._check(V, self.codomain.n)
        self._spend(V.shape[-2])
        if not V.shape[-2]:
            return V.new_zeros(*V.shape[:-1], self.domain.n)
        V = _as_it_lies(V)
        return self._apply(V) if self.symmetric else self._apply_transpose(V)

    def __matmul__(self, other: Any) -> Any:
        """A @ v for one vector v (*batch, n), or the product A B of two operators."""
        if isinstance(other, LinearOperator):
            return _Product(self, other)
        if isinstance(other, np.ndarray):
            raise OptionError(
                "A @ v takes a tensor: torch.as_tensor(v), or A.to_scipy() @ v, which works on arrays"
            )
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim != len(self.batch) + 1:
            raise ShapeError(
                f"A @ v takes one vector of shape {(*self.batch, self.shape[1])}, got {tuple(other.shape)}; "
                "a block of rows goes through A.apply(V)"
            )
        self.check_current()
        return self.apply(other.unsqueeze(-2)).squeeze(-2)

    def check_current(self) -> None:
        """That what it is made of is as it was; asked before `A @ v`, `dense` and what SciPy asks for.

        Solves and estimates ask at their beginning and at their end.
        """
        for part in (getattr(self, "A", None), getattr(self, "B", None)):
            if isinstance(part, LinearOperator):
                part.check_current()

    def dense(self) -> Tensor:
        """The matrix A, (*batch, r, n), column by column from n products; whole in every place."""
        self.check_current()
        chunks = []
        with self.in_step(lambda: {"call": "A.dense"}):
            for first in range(0, self.shape[1], 64):
                numbers = range(first, min(first + 64, self.shape[1]))
                E = self.domain.units(numbers, *self.batch).to(self.device, self.dtype)
                chunks.append(self.codomain.whole(self.apply(E)))
        return torch.cat(chunks, dim=-2).mT

    def select(self, index: Tensor | Sequence[int]) -> LinearOperator:
        """The operator of some of the problems, `batch` = (len(index),), in the order of `index`.

        Products with it are counted here too, so that `count` goes on telling all that was spent.

        Args:
            index: distinct numbers of problems, (p,), 0 <= number < B.

        Raises:
            ShapeError: the operator has no batch axis.
            OptionError: index is empty, repeats a number, or names a problem that is not there.
        """
        if not self.batch:
            raise ShapeError(f"{self!r} holds one problem, of which none can be selected")
        chosen = torch.as_tensor(index, device="cpu")
        if chosen.ndim != 1 or chosen.dtype not in (torch.int64, torch.int32) or len(chosen) == 0:
            raise OptionError(f"index is a list of at least one problem's number, got {index!r}")
        if chosen.min() < 0 or chosen.max() >= self.batch[0] or len(chosen.unique()) < len(chosen):
            raise OptionError(
                f"index names distinct problems from 0 to {self.batch[0] - 1}, got {chosen.tolist()}"
            )
        part = self._select(chosen.long())
        part._whole = self
        return part

    def _select(self, index: Tensor) -> LinearOperator:
        """As `select`, after its checks.  Without a better way the other problems are given zeros."""
        return _Selection(self, index)

    def _spend(self, products: int) -> None:
        self.count += products
        if self._whole is not None:
            self._whole._spend(products)

    def in_step(self, asked: Callable[[], Mapping[str, Any]]) -> contextlib.AbstractContextManager[None]:
        """What a front door works within, so that processes that share the operator are asked the same, and
        meet Ctrl-C together.

        asked: what this one is asked, in words (`spectral.words.of_call`).
        """
        return contextlib.nullcontext()

    # Algebra

    @property
    def T(self) -> LinearOperator:
        """The transpose A'."""
        return self if self.symmetric else _Transpose(self)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return _Sum(self, other)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return _Sum(self, -1.0 * other)

    def __neg__(self) -> LinearOperator:
        return -1.0 * self

    def __rmul__(self, scalar: float) -> LinearOperator:
        return _Scaled(float(scalar), self)

    def __mul__(self, scalar: float) -> LinearOperator:
        return _Scaled(float(scalar), self)

    def symmetric_part(self) -> LinearOperator:
        """(A + A') / 2; A itself where A is known to be symmetric."""
        return self if self.symmetric else _SymmetricPart(self)

    def gram(self) -> LinearOperator:
        """A' A, symmetric and non-negative, of shape (n, n)."""
        return _Gram(self)

    def to(self, dtype: torch.dtype) -> LinearOperator:
        """The same map taking and returning rows of `dtype`; products are still formed in `self.dtype`."""
        return self if dtype == self.dtype else _Cast(self, dtype)

    # SciPy

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """This operator as a scipy.sparse.linalg.LinearOperator on NumPy column vectors.

        Raises:
            ShapeError: the operator has a batch axis, which SciPy has not, or vectors in several places.
        """
        if (self.domain.n, self.codomain.n) != (self.domain.dimension, self.codomain.dimension):
            raise ShapeError("SciPy's vectors lie in one place: this operator's are shared by processes")
        if self.batch:
            raise ShapeError("SciPy operators have no batch axis: take one problem at a time")

        def columns(rows: Rows) -> Callable[[np.ndarray], np.ndarray]:
            def product(X: np.ndarray) -> np.ndarray:
                self.check_current()
                V = torch.as_tensor(np.ascontiguousarray(X.T), dtype=self.dtype, device=self.device)
                return rows(V.reshape(-1, V.shape[-1])).cpu().numpy().T.reshape(-1, *X.shape[1:])

            return product

        import scipy.sparse.linalg  # noqa: PLC0415  a fifth of a second, for SciPy's own objects alone

        forward, backward = columns(self.apply), columns(self.apply_transpose)
        return scipy.sparse.linalg.LinearOperator(
            self.shape,
            matvec=forward,
            rmatvec=backward,
            matmat=forward,
            rmatmat=backward,
            dtype=torch.empty((), dtype=self.dtype).numpy().dtype,
        )

    def __repr__(self) -> str:
        batch = f", batch={self.batch[0]}" if self.batch else ""
        return f"{type(self).__name__.lstrip('_')}({self.shape[0]}x{self.shape[1]}, {self.dtype}{batch})"

    def _alone(self, V: Tensor) -> bool:
        """Whether V holds the axis of problems, of which there is one."""
        return not self.batch and V.ndim == 3 and len(V) == 1

    def _check(self, V: Tensor, length: int) -> None:
        if V.ndim != len(self.batch) + 2 or V.shape[:-2] != self.batch or V.shape[-1] != length:
            raise ShapeError(
                f"a block of rows for {self!r} has shape {(*self.batch, 'm', length)}, got {tuple(V.shape)}"
            )
        if V.dtype != self.dtype or V.device.type != self.device.type:
            raise ShapeError(
                f"{self!r} takes {self.dtype} rows on {self.device}, got {V.dtype} on {V.device}: "
                "convert them with V.to(...), or the operator with A.to(dtype)"
            )


def _as_it_lies(V: Tensor) -> Tensor:
    """V without torch's bits "to be negated" and "to be conjugated": kernels and messages read its memory."""
    return V.resolve_conj().resolve_neg()


class Derived(LinearOperator):
    """An operator made of others.

    Args:
        A: the first of them, which tells all that is not given.
        others: the rest.
        spaces: (codomain, domain); by default A's.
        symmetric: whether it is.
        dtype, batch: where they are not A's.
    """

    def __init__(
        self,
        A: LinearOperator,
        *others: LinearOperator,
        spaces: tuple[Space, Space] | None = None,
        symmetric: bool = False,
        dtype: torch.dtype | None = None,
        batch: tuple[int, ...] | None = None,
    ) -> None:
        spaces = spaces or (A.codomain, A.domain)
        super().__init__(
            (spaces[0].dimension, spaces[1].dimension),
            dtype=dtype or A.dtype,
            device=A.device,
            batch=A.batch if batch is None else batch,
            symmetric=symmetric,
            eps=max(X.eps for X in (A, *others)),
            spaces=spaces,
        )
        self.A = A

    def in_step(self, asked: Callable[[], Mapping[str, Any]]) -> contextlib.AbstractContextManager[None]:
        """A's."""
        return self.A.in_step(asked)


class _Selection(Derived):
    """Some problems of A, which is applied to all, zeros in the others' place; A counts for itself."""

    def __init__(self, A: LinearOperator, index: Tensor) -> None:
        super().__init__(A, batch=(len(index),), symmetric=A.symmetric)
        self.index = index.to(A.device)

    def _through(self, product: Rows, V: Tensor) -> Tensor:
        rows = V.new_zeros(*self.A.batch, *V.shape[1:])
        rows[self.index] = V
        return product(rows)[self.index]

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self.A._apply, V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._through(self.A._apply_transpose, V)

    def _select(self, index: Tensor) -> LinearOperator:
        return _Selection(self.A, self.index[index.to(self.index.device)])


class Each(Derived):
    """One made of A, or of A and B, problem by problem: a selection is made of theirs."""

    def _select(self, index: Tensor) -> LinearOperator:
        part = copy.copy(self)
        part.batch, part.count = (len(index),), 0
        for name in ("A", "B"):
            if hasattr(self, name):
                setattr(part, name, getattr(self, name).select(index))
        return part


class _Transpose(Each):
    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A, spaces=(A.domain, A.codomain))

    def _apply(self, V: Tensor) -> Tensor:
        return self.A.apply_transpose(V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self.A.apply(V)

    @property
    def T(self) -> LinearOperator:
        return self.A


class _Sum(Each):
    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if (A.shape, A.dtype, A.batch) != (B.shape, B.dtype, B.batch):
            raise ShapeError(f"cannot add {A!r} and {B!r}")
        super().__init__(A, B, symmetric=A.symmetric and B.symmetric)
        self.B = B

    def _apply(self, V: Tensor) -> Tensor:
        return self.A.apply(V) + self.B.apply(V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self.A.apply_transpose(V) + self.B.apply_transpose(V)


class _Scaled(Each):
    def __init__(self, scalar: float, A: LinearOperator) -> None:
        super().__init__(A, symmetric=A.symmetric)
        self.scalar = scalar

    def _apply(self, V: Tensor) -> Tensor:
        return self.scalar * self.A.apply(V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self.scalar * self.A.apply_transpose(V)


class _Product(Each):
    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if (A.shape[1], A.dtype, A.batch) != (B.shape[0], B.dtype, B.batch):
            raise ShapeError(f"cannot multiply {A!r} by {B!r}")
        super().__init__(A, B, spaces=(A.codomain, B.domain))
        self.B = B

    def _apply(self, V: Tensor) -> Tensor:
        return self.A.apply(self.B.apply(V))

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self.B.apply_transpose(self.A.apply_transpose(V))


class _SymmetricPart(Each):
    def __init__(self, A: LinearOperator) -> None:
        if A.shape[0] != A.shape[1]:
            raise ShapeError(
                f"{A!r} is not square, so it has no symmetric part: its singular values are those of A.gram()"
            )
        super().__init__(A, symmetric=True)

    def _apply(self, V: Tensor) -> Tensor:
        return (self.A.apply(V) + self.A.apply_transpose(V)) / 2

    _apply_transpose = _apply


class _Gram(Each):
    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A, spaces=(A.domain, A.domain), symmetric=True)

    def _apply(self, V: Tensor) -> Tensor:
        return self.A.apply_transpose(self.A.apply(V))

    _apply_transpose = _apply


class _Cast(Each):
    """A in another dtype.  Rows entering float16 are scaled, exactly, by a power of two to unit root mean
    square: the entries of a unit vector of length 10^6 are near float16's subnormals."""

    def __init__(self, A: LinearOperator, dtype: torch.dtype) -> None:
        super().__init__(A, dtype=dtype, symmetric=A.symmetric)

    def _through(self, product: Rows, V: Tensor, space: Space) -> Tensor:
        if self.A.dtype != torch.float16:
            return product(V.to(self.A.dtype)).to(self.dtype)
        size = space.lengths(V).double().unsqueeze(-1) / math.sqrt(space.dimension)
        scale = torch.exp2(torch.log2(torch.where(size > 0, size, 1.0)).round()).to(V.dtype)
        return product((V / scale).to(self.A.dtype)).to(self.dtype) * scale

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self.A.apply, V, self.domain)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._through(self.A.apply_transpose, V, self.codomain)


class UnitScale(Each):
    """A / s of each problem, s = 2^(32 j) such that the first product's largest entry is within 2^16 of 1.

    Norms, Gram matrices and products of residuals square what an operator returns: in float32 they vanish
    below 1e-22 and overflow above 1e19, in float64 at 1e-162 and 1e154.  The front doors therefore ask all
    questions about A / s, and multiply the answers by s, which is exact.  s is told by the first product that
    is not zero, and costs none.  Once read it stays.
    """

    def __init__(self, A: LinearOperator, scale: Tensor | None = None) -> None:
        """Of A, whose `scale` (*batch) is known or told by its products.

        Raises:
            ShapeError: A has no entries.
            NotLinearError: on its first product, which is at the end of what its numbers can tell.
        """
        if 0 in A.shape:
            raise ShapeError(f"{A!r} has no entries, and so no spectrum")
        super().__init__(A, symmetric=A.symmetric)
        self._settled = scale is not None
        self._scale = torch.ones(A.batch, dtype=torch.float64) if scale is None else scale

    @property
    def scale(self) -> Tensor:
        """s, (*batch) float64 on the CPU; 1 where all products so far were zero."""
        self._settled = True
        return self._scale

    def measure(self) -> int:
        """Settle s before it is needed; products spent, 1 where none was formed yet."""
        if self._settled or self.count:
            return 0
        generator = torch.Generator().manual_seed(0)
        x = self.domain.normal(*self.batch, 1, generator=generator)
        self.apply(x.to(self.device, self.dtype))
        return 1

    def _over(self, W: Tensor, space: Space) -> Tensor:
        if not self._settled and W.shape[-2]:  # of which a place may have no entry
            size = space.largest(W).abs().amax((-2, -1)).double().cpu()
            if bool(((size > 0) & (size < _LEAST.get(self.dtype, 0))).any()):
                raise NotLinearError(
                    f"products of {self.A!r} are no larger than {float(size.max()):.0e}, where {self.dtype} "
                    f"has few digits left: ask about a multiple of it, or in a wider precision"
                )
            most = max(math.frexp(torch.finfo(self.dtype).max)[1] // STEP - 1, 0)
            power = (torch.frexp(size).exponent.double() / STEP).round().clamp(-most, most)
            told = (size > 0) & size.isfinite()
            self._scale = torch.where(told & (self._scale == 1), torch.exp2(STEP * power), self._scale)
            self._settled = bool(told.all())
        if bool((self._scale == 1).all()):
            return W
        return W * (1 / self._scale).to(W)[..., None, None]

    def _apply(self, V: Tensor) -> Tensor:
        return self._over(self.A.apply(V), self.codomain)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._over(self.A.apply_transpose(V), self.domain)

    def _select(self, index: Tensor) -> LinearOperator:
        scale = self.scale[index]
        part = cast(UnitScale, super()._select(index))
        part._scale = scale
        return part

    def __repr__(self) -> str:
        return repr(self.A)


def unit_scale(A: LinearOperator) -> UnitScale:
    """A / s; see `UnitScale`."""
    return A if isinstance(A, UnitScale) else UnitScale(A)
