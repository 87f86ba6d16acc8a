"""Spectra that make eigensolvers fail, as hypothesis strategies and as dense matrices."""

import numpy as np
import torch
from hypothesis import strategies as st

from spectral.operators import LinearOperator, from_functions

KINDS = ("random", "cluster", "multiple", "low rank", "zero", "identity", "indefinite", "geometric", "step")


def spectrum(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n eigenvalues of one kind, in random order."""
    draw = rng.uniform(0, 1, n)
    rank = int(rng.integers(0, n + 1))
    values = {
        "random": draw,
        "cluster": np.where(np.arange(n) < (n + 1) // 2, 1 + 1e-4 * draw, 0.8 * draw),
        "multiple": rng.choice([1.0, 0.5, 0.25, -0.5], n),
        "low rank": np.where(np.arange(n) < rank, draw, 0.0),
        "zero": np.zeros(n),
        "identity": np.ones(n),
        "indefinite": rng.standard_normal(n),
        "geometric": 0.7 ** np.arange(n),
        "step": np.where(np.arange(n) < rank, 1.0, 1e-3),
    }[kind]
    return rng.permutation(values)


def matrix(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Q diag(values) Q' with Q a random orthogonal matrix."""
    Q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def posed(kind: str, n: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """A symmetric matrix of one kind, and a tolerance that its precision can give."""
    rng = np.random.default_rng(seed)
    M = matrix(spectrum(kind, n, rng), rng)
    return torch.as_tensor(M).to(dtype), 1e-5 if dtype == torch.float32 else 1e-8


def diagonal(values: torch.Tensor) -> LinearOperator:
    """diag(values), never formed."""
    return from_functions(lambda V: V * values, n=len(values), symmetric=True, dtype=values.dtype)


cases = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 100),
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["largest", "smallest", "magnitude"]),
)
