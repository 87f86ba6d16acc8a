"""Power iteration on a block by differences of the network, with QR.

    W = f(y + c V) - f(y),    V <- the Q of W's QR,    lambda = |w| / c.

Source: Manor and Michaeli, ICLR 2024 (posterior principal components of a denoiser), and its code
(GaussianDenoisingPosterior): c = 1e-6 unless told otherwise, with a switch for double precision.  As there:
all rows in one batch, 50 steps, eigenvalues from norms, so that they are positive.  Left out: the factor
sigma^2, the mask, moments beyond the second.  Tuned: rows are sorted at the end, as in the paper, where the
code sorts them at each step by the norms of the step before, which can keep two of them swapping for ever.
"""

import torch
from torch import Tensor

from benchmarks.peers.answer import Answer, Network, random_rows


def differences(f: Network, y: Tensor, k: int, c: float, steps: int = 50) -> Answer:
    """k eigenpairs, as it takes J for symmetric and not negative."""
    with torch.no_grad():
        base = f(y)
        V = random_rows(k, y)
        for _ in range(steps):
            W = (f(y + c * V) - base).flatten(1)
            size = torch.linalg.vector_norm(W, dim=1)
            Q = torch.linalg.qr((W / size[:, None]).T)[0].T
            V = Q.reshape(V.shape)
    values, order = (size / c).sort(descending=True, stable=True)
    return Answer(values, k * steps + 1, Q[order])
