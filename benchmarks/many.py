"""Many images in one call, and one image at many noise levels.

    python -m benchmarks.many [--write] [--images 32] [--side 40] [-k 8]

Crops of the shipped photograph through the shipped network at sigma = 0.15, tol 1e-4: one call with
batched=True against one call an image, interleaved; then one crop at noise levels from 0.3 down, each solve
started from the basis of the level before, against cold starts.  --write puts the tables into docs/many.md.
"""

import time

import torch
from torch import Tensor, nn

import denoisers
import spectral
from benchmarks.page import Page, table
from denoisers.images.folder import photograph

TOL = 1e-4
LEVELS = (0.3, 0.25, 0.2, 0.16, 0.13, 0.1)


def crops(images: int, side: int) -> Tensor:
    """Squares spread over the photograph, (images, 1, side, side)."""
    picture = torch.from_numpy(photograph())[0, 0]
    corners = torch.randint(
        0, picture.shape[0] - side, (images, 2), generator=torch.Generator().manual_seed(0)
    )
    return torch.stack([picture[None, a : a + side, b : b + side] for a, b in corners.tolist()])


def noisy(x: Tensor, sigma: float) -> Tensor:
    """x + sigma z, the same z whatever sigma."""
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def batch(model: nn.Module, images: int, side: int, k: int, rounds: int) -> str:
    """One call against many: time, products, and the largest difference of their eigenvalues."""
    y = noisy(crops(images, side), 0.15)
    seconds: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(rounds):
        began = time.perf_counter()
        together = spectral.top_eigs(model, y, k, tol=TOL, method="lanczos", batched=True)
        seconds["one"].append(time.perf_counter() - began)
        began = time.perf_counter()
        alone = [spectral.top_eigs(model, image[None], k, tol=TOL, method="lanczos") for image in y]
        seconds["many"].append(time.perf_counter() - began)
    apart = max((a.values - b).abs().max().item() for a, b in zip(alone, together.values, strict=True))
    scale = together.values.abs().max().item()
    if apart > 2 * TOL * scale or not together.converged.all():
        raise ArithmeticError(f"the batch's eigenvalues differ from those of single calls by {apart:.1e}")
    solves = [one.spent["solve"] for one in alone]
    one, many = (min(taken) for taken in seconds.values())
    head = ["", "seconds", "products to solve, an image", "to be sure"]
    sure = sum(o.spent["completeness"] for o in alone) / images
    many_solved = f"{sum(solves) / images:.0f} ({min(solves)} to {max(solves)})"
    rows = [
        ["one call", f"{one:.1f}", str(together.spent["solve"]), str(together.spent["completeness"])],
        [f"{images} calls", f"{many:.1f}", many_solved, f"{sure:.0f}"],
    ]
    return (
        f"{table(head, rows)}\n\n{images} images of {side}x{side}, k = {k}: one call takes {one / many:.2f} "
        f"of the time; eigenvalues differ by {apart:.0e} at most; {torch.get_num_threads()} threads."
    )


def sweep(model: nn.Module, side: int, k: int) -> str:
    """Products at each noise level, from a cold start and from the basis of the level before."""
    x = crops(1, side)
    head = ["sigma", "lambda_1", "cold", "warm", "least overlap with the level before"]
    rows, before = [], None
    for sigma in LEVELS:
        y = noisy(x, sigma)
        cold = spectral.top_eigs(model, y, k, tol=TOL, method="lanczos")
        warm, overlap = cold, "-"
        if before is not None:
            warm = spectral.top_eigs(model, y, k, tol=TOL, method="lanczos", start=before.vectors)
            overlap = f"{spectral.match(before, warm).overlap.min():.2f}"
            if (warm.values - cold.values).abs().max() > 2 * TOL * cold.values.max():
                raise ArithmeticError(f"warm and cold starts differ at sigma = {sigma}")
        before = warm
        rows.append(
            [f"{sigma:g}", f"{warm.values[0]:.3f}", *(str(p.spent["solve"]) for p in (cold, warm)), overlap]
        )
    return table(head, rows)


if __name__ == "__main__":
    page = Page("docs/many.md", __doc__, images=32, side=40, k=8, rounds=2)
    options = page.options
    network = denoisers.load("photos").to(memory_format=torch.channels_last)
    page.tell("batch", batch(network, options.images, options.side, options.k, options.rounds))
    page.tell("sweep", sweep(network, 2 * options.side, options.k))
