"""C^alpha images as files: what `spectral synth` does."""

from pathlib import Path

import numpy as np
from PIL import Image

from spectral.errors import OptionError
from spectral.kernels.calpha import stream, synthesize
from spectral.kernels.smoothness import Kind


def write_calpha(
    out: Path,
    *,
    n: int = 16,
    size: int = 256,
    alpha: float = 3.0,
    beta: float | None = None,
    kind: Kind = "released",
    seed: int = 0,
) -> list[Path]:
    """Write images 0 ... n - 1 of `synthesize` to the folder `out`, made if need be, and return the paths.

    images.npy holds float32 (n, size, size) in full precision, written as it is made, whatever n; the others
    are 8-bit grey PNG pictures of each image, 0 black and 1 white.

    Raises OptionError, before anything is written, for n < 1 and as `synthesize`.
    """
    if n < 1:
        raise OptionError(f"n must be >= 1, got {n}")
    synthesize(0, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    arrays = out / "images.npy"
    stored = np.lib.format.open_memmap(arrays, mode="w+", dtype=np.float32, shape=(n, size, size))
    paths = [arrays]
    batch = max(1, 2**24 // size**2)
    for images in stream(n, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, batch=batch):
        start = len(paths) - 1
        stored[start : start + len(images)] = images
        for i, image in enumerate(images, start=start):
            path = out / f"{i:0{len(str(n - 1))}d}.png"
            Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8)).save(path)
            paths.append(path)
    stored.flush()
    return paths
