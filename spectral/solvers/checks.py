"""Whether an operator is what it says: linear, deterministic, symmetric or with the right transpose."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.errors import NotDeterministicError, NotLinearError, NotSymmetricError
from spectral.operators.base import LinearOperator
from spectral.solvers.krylov import product

FAULT = 0.02  # relative; less is a finite difference's, and shows in the residuals


def check_operator(A: LinearOperator, *, transpose: bool = True, seed: int = 0) -> int:
    """Try an operator on random vectors x, z: four products, and one more with A' where A is not symmetric
    and `transpose` asks for it.

        A (x - 2 z) = A x - 2 A z,    A x = A x again,    <z, A x> = <A' z, x>

    Each must hold to 2 % of its terms, or what products in half precision round.  Returns the products spent.

    Raises:
        NotLinearError, NotDeterministicError, NotSymmetricError: one does not hold.
        NotFiniteError: a product holds NaN or infinity.
    """
    generator = torch.Generator().manual_seed(seed)
    problems, (r, n) = (A.batch or (1,))[0], A.shape
    x, z = _random(A, problems, n, generator), _random(A, problems, n, generator)
    images, _ = product(A.apply, torch.stack([x, z, x - 2 * z], dim=1), A)
    Ax, Az, both = (w.double() for w in images.unbind(1))
    fault = max(FAULT, 10 * A.eps)
    size = Ax.norm(dim=-1) + 2 * Az.norm(dim=-1)
    if ((both - Ax + 2 * Az).norm(dim=-1) > fault * size).any():
        raise NotLinearError(
            f"{A!r} is not linear: A (x - 2 z) is not A x - 2 A z; of a network pass (model, y)"
        )
    again, _ = product(A.apply, x.unsqueeze(1), A)
    if ((again[:, 0].double() - Ax).norm(dim=-1) > fault * size).any():
        raise NotDeterministicError(f"two products of {A!r} with one vector differ: fix its random draws")
    if not (A.symmetric or transpose):
        return 4
    if A.symmetric:
        u, back, spent = z, Az, 4
    else:
        u = _random(A, problems, r, generator)
        back, spent = product(A.apply_transpose, u.unsqueeze(1), A)[0][:, 0].double(), 5
    # The scalar product of a normal vector with an image is as large as that image.
    apart = ((u.double() * Ax).sum(-1) - (back * x.double()).sum(-1)).abs()
    if (apart > fault * (Ax.norm(dim=-1) + back.norm(dim=-1))).any():
        what = "is not symmetric" if A.symmetric else "and its transpose contradict each other"
        raise NotSymmetricError(f"{A!r} {what}: <u, A x> is not <A' u, x>; correct its products")
    return spent


def _random(A: LinearOperator, problems: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(problems, n, generator=generator, dtype=torch.float64).to(A.device, A.dtype)
