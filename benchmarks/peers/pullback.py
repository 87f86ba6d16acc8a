"""Subspace iteration on J'J by forward mode and autograd, stopped by allclose.

    U = J V,    V <- right singular vectors of U'J,    sigma = the root of its singular values,

until no entry of V changes by 1e-3, after ten steps at least and `steps` at most.

Source: Park, Kwon, Choi, Jo and Uh, NeurIPS 2023 (pullback metric of diffusion models), and its code
(Diffusion-Pullback); Chen et al., NeurIPS 2024 (LOCO-Edit) takes it over with 50 steps at most.  As
there: J V by `torch.func.jacfwd` of a -> f(x + a V) for all rows at once, U'J by
`torch.autograd.functional.jacobian`, left vectors J v of the V of the step before.  Left out: the map to
a layer's features, chunks of V, the mask. What the field tunes is the number of steps; the test passes
early where entries of unit vectors, 1 / d^(1/2) in the mean, are near 1e-3 themselves.
"""

import torch
from torch import Tensor

from benchmarks.peers.answer import Answer, Network, forward_mode, random_rows

LEAST, TOLERANCE = 10, 1e-3


def pullback(f: Network, y: Tensor, k: int, steps: int = 50) -> Answer:
    """k triplets."""
    start = random_rows(k, y).flatten(1)
    V = torch.linalg.qr(start.T)[0].T.reshape(k, *y.shape[1:])
    a, taken = torch.zeros((), dtype=y.dtype), 0
    for step in range(steps):
        before = V
        with forward_mode():
            U = torch.func.jacfwd(lambda a, V=V: f(y + a * V))(a)
        pulled = torch.autograd.functional.jacobian(lambda x, U=U: (U * f(x)).flatten(1).sum(1), y)
        _, squares, rows = torch.linalg.svd(pulled.reshape(k, -1), full_matrices=False)
        V, taken = rows.reshape(V.shape), step + 1
        if torch.allclose(before, V, atol=TOLERANCE) and step > LEAST:
            break
    left = U.flatten(1) / torch.linalg.vector_norm(U.flatten(1), dim=1, keepdim=True)
    says = "converged" if taken < steps else "not converged"
    return Answer(squares.sqrt(), 2 * k * taken, V.flatten(1), left, says=f"{says}: allclose, {taken} steps")
