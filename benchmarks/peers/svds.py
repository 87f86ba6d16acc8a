"""SciPy's svds (ARPACK on J'J) over J v by differences and J' u by autograd.

    J v = (f(y + h v) - f(y)) / h,    h = 1e-3.

Source: public scripts for latent diffusion models of this kind, which give J v by such differences, J' u
by one backward pass, and zeros where ARPACK does not converge.  Tuned: tol = 1e-3, since ARPACK never
reaches machine precision on products with the noise of differences; v0 fixed.
"""

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, svds
from torch import Tensor

from benchmarks.peers.answer import Answer, Network, random_rows

STEP, TOLERANCE, MOST = 1e-3, 1e-3, 40  # restarts


def by_svds(f: Network, y: Tensor, k: int) -> Answer:
    """k triplets."""
    count = 0
    with torch.no_grad():
        base = f(y)
    x = y.clone().requires_grad_()
    output = f(x)

    def forward(v: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        with torch.no_grad():
            moved = f(y + STEP * torch.as_tensor(v, dtype=y.dtype).reshape(y.shape))
            return ((moved - base) / STEP).flatten().numpy()

    def backward(u: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        given = torch.as_tensor(u, dtype=y.dtype).reshape(y.shape)
        return torch.autograd.grad(output, x, given, retain_graph=True)[0].flatten().numpy()

    J = LinearOperator((y.numel(),) * 2, matvec=forward, rmatvec=backward, dtype=np.float32)
    start = random_rows(1, y).flatten().numpy()
    try:
        U, values, Vh = svds(J, k, tol=TOLERANCE, maxiter=MOST, v0=start)
    except ArpackNoConvergence:
        zeros = torch.zeros(k, y.numel())
        return Answer(torch.zeros(k), count, zeros, zeros, says="zeros: no convergence")
    order = np.argsort(-values)
    right, left = (torch.as_tensor(np.ascontiguousarray(rows[order])) for rows in (Vh, U.T))
    return Answer(torch.as_tensor(values[order]), count, right, left, says=f"converged to tol {TOLERANCE:g}")
