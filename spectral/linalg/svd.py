"""The singular value decomposition of a matrix that is held, by the method that converges."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def svd(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y, sigma and Z' with M = Y diag(sigma) Z', thin: M (..., m, n).

    By divide and conquer (LAPACK's gesdd), and where that does not converge, as on graded or many times
    repeated values it may not, by QR iterations (gesvd).

    Raises:
        LinAlgError: neither converges.
        ValueError: M holds NaN.
    """
    try:
        return torch.linalg.svd(M, full_matrices=False)
    except RuntimeError:  # torch's LinAlgError is one
        import scipy.linalg  # noqa: PLC0415  a fifth of a second, and hardly ever needed

        many = M.detach().cpu().reshape(-1, *M.shape[-2:]).numpy()
        found = [scipy.linalg.svd(one, full_matrices=False, lapack_driver="gesvd") for one in many]
        parts = (torch.from_numpy(np.stack(part)).to(M) for part in zip(*found, strict=True))
        Y, sigma, Zh = (part.reshape(*M.shape[:-2], *part.shape[1:]) for part in parts)
        return Y, sigma, Zh
