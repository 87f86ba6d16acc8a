"""Eigenvalues of networks that are in half precision, beside the same ones in float32.

    python -m benchmarks.half [--write]

The top 6 of (J + J') / 2 at 64x64 pixels of the shipped photograph, sigma = 0.15, of the shipped networks and
of a conditional UNet with random weights, each converted as a whole, y too.  `tol` is 1e-4 throughout: a
half-precision solve asks for what its products allow, and says so.  --write puts the table into
docs/products.md.
"""

import torch
from torch import nn

import denoisers
import spectral
from benchmarks.page import Page, records
from denoisers.images.folder import photograph
from denoisers.networks import ConditionalUNet

K, SIGMA = 6, 0.15


def _conditional() -> nn.Module:
    torch.manual_seed(0)
    return ConditionalUNet(width=16, scales=2)


NETWORKS = {
    "photos": (lambda: denoisers.load("photos"), {}),
    "calpha": (lambda: denoisers.load("calpha"), {}),
    "conditional UNet": (_conditional, {"sigma": SIGMA}),
}


def rows(name: str) -> list[dict[str, str]]:
    """A row for each precision."""
    make, keywords = NETWORKS[name]
    x = torch.from_numpy(photograph())[..., 60:124, 180:244]
    y = x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        pairs = spectral.top_eigs(
            make().to(dtype), y.to(dtype), K, method="lanczos", max_products=1000, model_kwargs=keywords
        )
        if not pairs.converged.all():
            raise ArithmeticError(f"{name} in {dtype} has not converged")
        found.append((str(dtype).removeprefix("torch."), pairs))
    first = found[0][1]
    told = []
    for dtype, pairs in found:
        apart = (pairs.values - first.values).abs().max().item()
        told.append(
            {
                "network": name,
                "precision": dtype,
                "**products**": str(pairs.products),
                "to float32's": f"{pairs.products / first.products:.2f}",
                "worst residual": f"{pairs.residuals.max():.0e}",
                "asked for": f"{pairs.tolerance.max():.0e}",
                "lambda_1": f"{pairs.values[0]:.4f}",
                "largest difference from float32": "" if pairs is first else f"{apart:.0e}",
                "largest error told": f"{pairs.errors.max():.0e}",
                "complete": "yes" if pairs.complete else "no",
            }
        )
    return told


if __name__ == "__main__":
    page = Page("docs/products.md", __doc__)
    page.tell("half", records([row for name in NETWORKS for row in rows(name)]))
