"""Eigenvalues of networks that are in half precision, beside the same ones in float32.

    python -m benchmarks.half [--write]

The top 6 of (J + J') / 2 at 64x64 pixels of the shipped photograph, sigma = 0.15, of the shipped networks and
of a conditional UNet with random weights, each converted as a whole, y too.  `tol` is 1e-4 throughout: a
half-precision solve asks for what its products allow, and says so.  --write puts the table into
docs/products.md.
"""

import argparse

import torch
from torch import nn

import denoisers
import spectral
from benchmarks.page import ROOT, insert, table
from denoisers.images.folder import photograph
from denoisers.networks import ConditionalUNet

K, SIGMA = 6, 0.15
HEAD = [
    *("network", "precision", "**products**", "to float32's", "worst residual", "asked for"),
    *("lambda_1", "largest difference from float32", "largest error told", "complete"),
]


def _conditional() -> nn.Module:
    torch.manual_seed(0)
    return ConditionalUNet(width=16, scales=2)


NETWORKS = {
    "photos": (lambda: denoisers.load("photos"), {}),
    "calpha": (lambda: denoisers.load("calpha"), {}),
    "conditional UNet": (_conditional, {"sigma": SIGMA}),
}


def rows(name: str) -> list[list[str]]:
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
            [
                *(name, dtype, str(pairs.products), f"{pairs.products / first.products:.2f}"),
                *(f"{pairs.residuals.max():.0e}", f"{pairs.tolerance.max():.0e}", f"{pairs.values[0]:.4f}"),
                *("" if pairs is first else f"{apart:.0e}", f"{pairs.errors.max():.0e}"),
                "yes" if pairs.complete else "no",
            ]
        )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/products.md")
    options = parser.parse_args()
    text = table(HEAD, [row for name in NETWORKS for row in rows(name)])
    print(text)
    if options.write:
        insert(ROOT / "docs/products.md", "half", text)


if __name__ == "__main__":
    main()
