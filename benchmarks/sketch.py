"""What the field's randomised sketch returns beside `top_eigs`, on the shipped network and photograph.

    python -m benchmarks.sketch [--write]

The sketch is the two-pass randomised range finder with 30 vectors wanted, 10 extra columns and no power
iteration: Q = orth(S Omega), then the eigenpairs of Q' S Q, for S = (J + J')/2.  Its true residuals are
computed here; the recipe itself computes none.  --write puts the table into docs/peers.md.
"""

import torch
from torch import Tensor

import spectral
from benchmarks.page import Page, records
from denoisers.commands.console import load_problem
from spectral.operators import LinearOperator

WANTED, EXTRA, SHOWN = 30, 10, (1, 2, 3, 5, 10, 20, 30)
SIGMA, CROP = 0.15, (60, 180, 128)


def sketch(S: LinearOperator, wanted: int, extra: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (wanted,) and vectors (wanted, n) by the randomised range finder in two passes over S."""
    generator = torch.Generator().manual_seed(0)
    omega = torch.randn(wanted + extra, S.shape[1], generator=generator).to(S.dtype)
    Q = torch.linalg.qr(S.apply(omega).T)[0].T.contiguous()
    theta, Y = torch.linalg.eigh((Q @ S.apply(Q).T).double())
    return theta.flip(0)[:wanted], (Y.flip(1)[:, :wanted].T @ Q.double()).to(S.dtype)


def compare() -> str:
    """The comparison as Markdown."""
    problem = load_problem("photos", None, SIGMA, 0, CROP)
    pairs = spectral.top_eigs(problem.model, problem.noisy, WANTED, progress=True)
    S = spectral.jacobian(problem.model, problem.noisy).symmetric_part()
    theta, E = sketch(S, WANTED, EXTRA)
    products = S.count
    residuals = torch.linalg.vector_norm(S.apply(E).double() - theta[:, None] * E.double(), dim=-1)
    ours = pairs.vectors.flatten(1).double()
    # Cosines of the principal angles between the two spans, largest first.
    cosines = torch.linalg.svdvals(ours @ E.double().T)
    scale = pairs.values[0]
    rows = [
        {
            "k": str(k),
            "`top_eigs`": f"{pairs.values[k - 1]:.4f}",
            "residual": f"{pairs.residuals[k - 1] / scale:.0e}",
            "sketch": f"{theta[k - 1]:.4f}",
            "true residual": f"{residuals[k - 1] / scale:.2f}",
            "cosine of k-th principal angle": f"{cosines[k - 1]:.2f}",
        }
        for k in SHOWN
    ]
    spent = ", ".join(f"{name} {count}" for name, count in pairs.spent.items())
    side = CROP[2]
    return (
        f"{records(rows)}\n\n"
        f"Eigenvalues of (J + J')/2 of the shipped `photos` network on {side}x{side} pixels of the shipped "
        f"photograph at sigma = {SIGMA}; residuals relative to lambda_1. Products with (J + J')/2: sketch "
        f"{products}; `top_eigs` {pairs.products} ({spent}). Certificate: {pairs.completeness_text()}; "
        f"{pairs.asymmetry_text()}. Made by `python -m benchmarks.sketch --write`."
    )


if __name__ == "__main__":
    page = Page("docs/peers.md", __doc__)
    page.tell("sketch", compare())
