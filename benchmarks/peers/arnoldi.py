"""Arnoldi in one pass, by forward mode, with a complex128 basis.

    J Q = Q H + h q e',    lambda from H, v = Q y.

Source: Jeon, Kim and No, ICML 2025 (sharpness of diffusion models' densities and memorization), and its
code (sharpness_memorization_diffusion): eigenvalues of the score's Jacobian by as many products as are
asked for, one pass of Gram-Schmidt, and no restart or test.  Tuned: 60 steps, ten or more for each value
wanted.
"""

import torch
from torch import Tensor

from benchmarks.peers.answer import Answer, Network, forward_mode, random_rows


def arnoldi(f: Network, y: Tensor, k: int, steps: int = 60) -> Answer:
    """The k eigenpairs of J of largest modulus, complex."""
    d = y.numel()
    Q = torch.zeros(steps + 1, d, dtype=torch.complex128)
    H = torch.zeros(steps + 1, steps, dtype=torch.complex128)
    Q[0] = random_rows(1, y).flatten()
    Q[0] /= torch.linalg.vector_norm(Q[0])
    for j in range(steps):
        v = Q[j].real.to(y.dtype).reshape(y.shape)
        with forward_mode():
            w = torch.func.jvp(f, (y,), (v,))[1].flatten().to(Q.dtype)
        for i in range(j + 1):
            H[i, j] = torch.vdot(Q[i], w)
            w = w - H[i, j] * Q[i]
        H[j + 1, j] = torch.linalg.vector_norm(w)
        Q[j + 1] = w / H[j + 1, j]
    values, Y = torch.linalg.eig(H[:steps])
    order = values.abs().argsort(descending=True)[:k]
    rows = Y[:, order].T @ Q[:steps]
    return Answer(values[order], steps, rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
