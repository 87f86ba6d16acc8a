"""Quality of the shipped denoisers: `python -m benchmarks.quality` prints it; --write puts it into docs.

calpha: against hard thresholding of an orthonormal periodised db4 transform on fresh images of its training
distribution; threshold and number of levels are the best of a fine grid for each noise level, on those very
images and their mean PSNR, which favours db4. photos: on the shipped photograph against the bias-free DnCNN
of Mohan et al. (arXiv 1906.05478), trained on BSD400, where the lab's data is at hand.
"""

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.page import LAB, ROOT
from denoisers import load
from denoisers.evaluation import PSNR, add_noise, psnr, psnr_table
from denoisers.images import photograph
from denoisers.images.calpha import synthesize

LAB_DNCNN = LAB / "bfdncnn20_bsd400_gray_0-100.npz"
CALPHA_SIGMAS = (0.05, 0.1, 0.3)
PHOTO_SIGMAS = (0.05, 25 / 255, 0.1, 0.3)
THRESHOLDS = np.arange(1.5, 6.01, 0.05)  # in units of sigma
LEVELS = (2, 3, 4)


def hard_threshold(noisy: NDArray[np.float64], threshold: float, levels: int) -> NDArray[np.float64]:
    """Images (N, 1, H, W) with wavelet coefficients |c| <= threshold set to zero, coarse scale kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # deep levels wrap around the image, as intended
        coarse, *details = pywt.wavedec2(noisy, "db4", mode="periodization", level=levels)
    kept = [tuple(pywt.threshold(band, threshold, "hard") for band in level) for level in details]
    return pywt.waverec2([coarse, *kept], "db4", mode="periodization")


def best_db4(clean: Tensor, noisy: Tensor, sigma: float) -> tuple[float, float, int]:
    """(mean PSNR, threshold over sigma, levels) of the best hard threshold for these very images."""

    def score(t: float, levels: int) -> float:
        estimate = torch.from_numpy(hard_threshold(noisy.double().numpy(), t * sigma, levels))
        return float(psnr(clean, estimate).mean())

    return max((score(t, levels), t, levels) for t in THRESHOLDS for levels in LEVELS)


def calpha_rows(size: int, count: int = 64, seed: int = 2026) -> list[tuple[PSNR, float, float, int]]:
    """One row a noise level: PSNR of `calpha`; PSNR, threshold over sigma and levels of the best db4."""
    clean = torch.from_numpy(synthesize(count, size=size, alpha=2.0, seed=seed))
    rows = psnr_table(load("calpha"), clean, CALPHA_SIGMAS, seed)
    return [(row, *best_db4(clean, add_noise(clean, row.sigma, seed), row.sigma)) for row in rows]


def report() -> Iterator[str]:
    """The lines of the tables."""
    for size in (48, 80):
        yield f"`calpha` on 64 fresh C^alpha images (alpha = 2, {size}x{size}), PSNR in dB:"
        yield ""
        yield "| sigma | noisy | best db4 hard threshold | its threshold / sigma, levels | calpha | gain |"
        yield "|---|---|---|---|---|---|"
        for row, db4, threshold, levels in calpha_rows(size):
            baseline = f"{db4:.2f} | {threshold:.2f}, {levels}"
            gain = f"{row.denoised - db4:+.2f}"
            yield f"| {row.sigma} | {row.noisy:.2f} | {baseline} | {row.denoised:.2f} | {gain} |"
        yield ""
    yield "`photos` on the shipped photograph (512x512, never trained on), PSNR in dB:"
    yield ""
    ours = psnr_table(load("photos"), photograph(), PHOTO_SIGMAS)
    if not LAB_DNCNN.exists():
        yield "| sigma | noisy | photos |"
        yield "|---|---|---|"
        yield from (f"| {row.sigma:.3f} | {row.noisy:.2f} | {row.denoised:.2f} |" for row in ours)
        return
    yield "| sigma | noisy | bias-free DnCNN (BSD400) | photos | gain |"
    yield "|---|---|---|---|---|"
    for row, lab in zip(ours, psnr_table(load(LAB_DNCNN), photograph(), PHOTO_SIGMAS), strict=True):
        gain = row.denoised - lab.denoised
        yield f"| {row.sigma:.3f} | {row.noisy:.2f} | {lab.denoised:.2f} | {row.denoised:.2f} | {gain:+.2f} |"


def main() -> None:
    lines = [
        "# Quality of the shipped denoisers",
        "",
        "Written by `python -m benchmarks.quality --write`.",
        "",
    ]
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if "--write" in sys.argv[1:]:
        (ROOT / "docs/quality.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
