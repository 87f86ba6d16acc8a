"""Quality of the shipped denoisers.

    python -m benchmarks.quality [--write]

calpha: against hard thresholding of an orthonormal periodised db4 transform on fresh images of its training
distribution; threshold and number of levels are the best of a fine grid for each noise level, on those very
images and their mean PSNR, which favours db4. And against the Gaussian reference of benchmarks.theory: the
error of the exact posterior of each image, its contour and its scales given. photos: on the shipped
photograph against the bias-free DnCNN of Mohan et al. (arXiv 1906.05478), trained on BSD400, where the lab's
data is at hand. All that ship: as their cards measure them.
--write puts the tables into docs/quality.md.
"""

import warnings

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.page import LAB, Page, records
from benchmarks.theory import gaussian
from denoisers import available, load, weights
from denoisers.card import measure
from denoisers.evaluation import PSNR, add_noise, psnr, psnr_table
from denoisers.images import photograph
from denoisers.images.calpha import synthesize
from denoisers.training.config import MIXED, TrainConfig

LAB_DNCNN = LAB / "bfdncnn20_bsd400_gray_0-100.npz"
CALPHA_SIGMAS = (0.05, 0.1, 0.3)
PHOTO_SIGMAS = (0.05, 25 / 255, 0.1, 0.3)
THRESHOLDS = np.arange(1.5, 6.01, 0.05)  # in units of sigma
LEVELS = (2, 3, 4)
REFERENCES = 20  # images of the Gaussian reference: two eigenproblems of some thousand pixels each


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


def of_calpha(size: int) -> str:
    """`calpha` beside the best threshold."""
    rows = [
        {
            "sigma": f"{row.sigma:g}",
            "noisy": f"{row.noisy:.2f}",
            "best db4 hard threshold": f"{db4:.2f}",
            "its threshold / sigma, levels": f"{threshold:.2f}, {levels}",
            "calpha": f"{row.denoised:.2f}",
            "gain": f"{row.denoised - db4:+.2f}",
        }
        for row, db4, threshold, levels in calpha_rows(size)
    ]
    return records(rows)


def beside_reference(
    alpha: float, size: int = 80, sigma: float = 0.1, seed: int = 2026
) -> tuple[float, dict[str, PSNR]]:
    """PSNR of the Gaussian reference on images of one smoothness, and of the networks that know it."""
    clean = torch.from_numpy(synthesize(REFERENCES, size=size, alpha=alpha, seed=seed))
    spectra = gaussian.spectra(REFERENCES, size=size, alpha=alpha, seed=seed)
    least = np.array([gaussian.risk(s, np.array([sigma]))[0] for s in spectra]) / size**2
    names = {"calpha", f"calpha-{alpha:g}"} & {*available()}
    found = {name: psnr_table(load(name), clean, [sigma], seed)[0] for name in names}
    return float(-10 * np.log10(least).mean()), found


def of_references() -> str:
    """The networks of C^alpha images beside the Gaussian reference, for each smoothness of `calpha`."""
    rows = []
    for alpha in MIXED:
        reference, found = beside_reference(alpha)
        row = {"alpha": f"{alpha:g}", "noisy": f"{found['calpha'].noisy:.2f}"}
        row["Gaussian reference"] = f"{reference:.2f}"
        for title, name in (("`calpha`", "calpha"), ("of this alpha alone", f"calpha-{alpha:g}")):
            psnr = found[name].denoised if name in found else None
            row[title] = "" if psnr is None else f"{psnr:.2f}"
            row[f"{title}, gain"] = "" if psnr is None else f"{psnr - reference:+.2f}"
        rows.append(row)
    return records(rows)


def of_all() -> str:
    """Every shipped network on what its card measures it on."""
    rows = []
    for name in available():
        model, metadata = weights.read(weights.FOLDER / f"{name}.safetensors")
        _, described, measured = measure(model, TrainConfig.from_json(metadata["training"], name))
        rows.append(
            {"network": f"`{name}`", "on": described}
            | {f"sigma {row.sigma:.3g}": f"{row.denoised:.2f}" for row in measured}
        )
    return records(rows)


def of_photos() -> str:
    """`photos`, beside the lab's network where that is at hand."""
    ours = psnr_table(load("photos"), photograph(), PHOTO_SIGMAS)
    rows = [
        {"sigma": f"{row.sigma:.3f}", "noisy": f"{row.noisy:.2f}", "photos": f"{row.denoised:.2f}"}
        for row in ours
    ]
    if LAB_DNCNN.exists():
        theirs = psnr_table(load(LAB_DNCNN), photograph(), PHOTO_SIGMAS)
        for row, mine, lab in zip(rows, ours, theirs, strict=True):
            row["bias-free DnCNN (BSD400)"] = f"{lab.denoised:.2f}"
            row["gain"] = f"{mine.denoised - lab.denoised:+.2f}"
    return records(rows)


if __name__ == "__main__":
    page = Page("docs/quality.md", __doc__)
    page.tell("all", of_all())
    page.tell("references", of_references())
    for side in (48, 80):
        page.tell(f"calpha-{side}", of_calpha(side))
    page.tell("photos", of_photos())
