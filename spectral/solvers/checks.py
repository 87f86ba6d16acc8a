"""Whether an operator is what it says: linear, deterministic, symmetric or with the right transpose."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.errors import NotDeterministicError, NotLinearError, NotSymmetricError
from spectral.linalg.krylov import product
from spectral.operators.base import LinearOperator
from spectral.operators.space import Space

FAULT = 0.02  # relative; less is a finite difference's, and shows in the residuals


def check_operator(A: LinearOperator, *, transpose: bool = True) -> int:
    """Try an operator on random vectors x, z: four products, and one more with A' where A is not symmetric
    and `transpose` asks for it.

        A (x - 2 z) = A x - 2 A z,    A x = A x again,    <z, A x> = <A' z, x>

    Each must hold to 2 % of its terms, or what products in half precision round.  Returns the products spent.

    Raises:
        NotLinearError, NotDeterministicError, NotSymmetricError: one does not hold.
        NotFiniteError: a product holds NaN or infinity.
    """
    generator = torch.Generator().manual_seed(0)
    norms, fault = A.codomain.norms, max(FAULT, 10 * A.eps)
    x, z = (_random(A, A.domain, generator) for _ in range(2))
    Ax, Az, both = product(A, torch.cat([x, z, x - 2 * z], dim=1))[0].double().split(1, 1)
    size = norms(Ax) + 2 * norms(Az)
    if (norms(both - Ax + 2 * Az) > fault * size).any():
        raise NotLinearError(
            f"{A!r} is not linear: A (x - 2 z) is not A x - 2 A z; of a network pass (model, y)"
        )
    if (norms(product(A, x)[0].double() - Ax) > fault * size).any():
        raise NotDeterministicError(f"two products of {A!r} with one vector differ: fix its random draws")
    if not (A.symmetric or transpose):
        return 4
    if A.symmetric:
        u, back, spent = z, Az, 4
    else:
        u = _random(A, A.codomain, generator)
        back, spent = product(A.T, u)[0].double(), 5
    # The scalar product of a normal vector with an image is as large as that image.
    apart = (A.codomain.dots(u.double(), Ax) - A.domain.dots(back, x.double())).abs()
    if (apart > fault * (norms(Ax) + A.domain.norms(back))).any():
        what = "is not symmetric" if A.symmetric else "and its transpose contradict each other"
        raise NotSymmetricError(f"{A!r} {what}: <u, A x> is not <A' u, x>; correct its products")
    return spent


def check_matrix(A: LinearOperator, M: Tensor, x: Tensor, Ax: Tensor) -> None:
    """That A's columns M (*batch, r, n) are those of a linear map, by one product Ax (*batch, 1, r) with
    x (*batch, 1, n), and symmetric where A is told to be; all whole and float64, as strict as above.

    Raises:
        NotLinearError, NotSymmetricError: they are not.
    """
    fault, summed = max(FAULT, 10 * A.eps), x @ M.mT
    if ((summed - Ax).norm(dim=-1) > fault * (summed.norm(dim=-1) + Ax.norm(dim=-1))).any():
        raise NotLinearError(
            f"{A!r} is not linear: A x is not the sum of x_j A e_j; of a network pass (model, y)"
        )
    if A.symmetric and ((M - M.mT).norm(dim=(-2, -1)) > 2 * fault * M.norm(dim=(-2, -1))).any():
        raise NotSymmetricError(f"{A!r} is not symmetric: its matrix is not; correct its products")


def _random(A: LinearOperator, space: Space, generator: torch.Generator) -> Tensor:
    return space.normal(*(A.batch or (1,)), 1, generator=generator).to(A.device, A.dtype)
