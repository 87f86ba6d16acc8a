"""Input against output PSNR of oracles and estimators: Tables A, B, C and the paired gains."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.theory import gaussian
from benchmarks.theory.report import Expected, Section, cell
from spectral.bases import DCT, BandletFrame, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.kernels.calpha import synthesize
from spectral.kernels.shrinkage import risks

Array = NDArray[np.floating[Any]]
ALPHAS = (1, 2, 3, 5)
SLOPE_SLACK, GAIN_SLACK = 0.02, 0.15

Z = Expected
SLOPES_80 = {  # specification, Table A
    "DCT": (Z(0.484, 0.007), Z(0.526, 0.004), Z(0.537, 0.004), Z(0.539, 0.004)),
    "db4": (Z(0.520, 0.011), Z(0.609, 0.011), Z(0.660, 0.005), Z(0.669, 0.004)),
    "bandlet on db4": (Z(0.535, 0.010), Z(0.625, 0.011), Z(0.682, 0.006), Z(0.693, 0.005)),
    "pixel Alpert": (Z(0.526, 0.010), Z(0.602, 0.012), Z(0.693, 0.007), Z(0.723, 0.005)),
    "Gaussian reference": (Z(0.476, 0.014), Z(0.561, 0.024), Z(0.711, 0.009), Z(0.827, 0.007)),
}
GAINS_80 = {  # paired gains over db4 in dB at input PSNR 10, 20, 30
    ("bandlet on db4", 1): (Z(0.30, 0.03), Z(0.53, 0.02), Z(0.54, 0.01)),
    ("bandlet on db4", 3): (Z(0.42, 0.05), Z(0.80, 0.07), Z(0.78, 0.05)),
    ("bandlet on db4", 5): (Z(0.46, 0.05), Z(0.87, 0.07), Z(0.85, 0.05)),
    ("pixel Alpert", 5): (Z(2.03, 0.28), Z(2.73, 0.26), Z(2.72, 0.26)),
}
GAINS_256 = {
    "bandlet on db4": (Z(1.34, 0.10), Z(1.66, 0.09), Z(1.45, 0.06)),
    "pixel Alpert": (Z(1.49, 0.09), Z(2.97, 0.06), Z(3.75, 0.05)),
}
SLOPES_512 = {  # Table B
    "DCT": (Z(0.342, 0.010), Z(0.373, 0.012), Z(0.385, 0.013), Z(0.388, 0.008)),
    "db4": (Z(0.441, 0.007), Z(0.464, 0.007), Z(0.462, 0.008), Z(0.461, 0.008)),
    "bandlet on db4": (Z(0.469, 0.007), Z(0.507, 0.007), Z(0.510, 0.010), Z(0.510, 0.009)),
    "bandlet on db1": (Z(0.472, 0.011), Z(0.514, 0.010), Z(0.522, 0.007), Z(0.525, 0.007)),
}
ESTIMATORS_256 = {  # Table C, output PSNR in dB at input 10, 20, 30
    "db4, hard": (Z(24.54, 0.2), Z(31.00, 0.2), Z(38.86, 0.2)),
    "bandlet, penalised, hard": (Z(25.15, 0.2), Z(32.17, 0.2), Z(40.31, 0.2)),
    "bandlet, no penalty, hard": (Z(20.55, 0.2), Z(29.50, 0.2), Z(38.51, 0.2)),
    "oracle in the penalised basis": (Z(30.11, 0.2), Z(37.19, 0.2), Z(45.04, 0.2)),
    "pixel Alpert, hard": (Z(26.50, 0.2), Z(33.71, 0.2), Z(41.98, 0.2)),
}
INPUTS_80 = np.arange(0.0, 35.0, 2.0)  # dB
GAIN_LEVELS = np.array([10.0, 20.0, 30.0])


@dataclass(frozen=True)
class Curves:
    """Output PSNR in dB of each method, (n, S), at the input PSNRs (S,)."""

    inputs: Array
    outputs: dict[str, Array]

    def slopes(self, method: str) -> Array:
        """Straight-line slope of each image's curve over the whole window: (n,)."""
        return np.polyfit(self.inputs, self.outputs[method].T, 1)[0]

    def gains(self, method: str, base: str, at: float) -> Array:
        """Paired difference of two methods in dB at one input PSNR: (n,)."""
        return (self.outputs[method] - self.outputs[base])[:, np.flatnonzero(self.inputs == at)[0]]


def sigma(input_psnr: Array) -> Array:
    """Noise standard deviation at an input PSNR in dB, peak 1: 10^(-PSNR / 20)."""
    return 10 ** (-np.asarray(input_psnr) / 20)


def to_psnr(error: Array, pixels: int) -> Array:
    """PSNR in dB, peak 1, of a total squared error over `pixels` pixels."""
    return -10 * np.log10(error / pixels)


def oracle_curves(images: Array, inputs: Array, frames: dict[str, BandletFrame], db4_levels: int) -> Curves:
    """Oracle risks of clean images (n, H, W) as PSNR: DCT, db4 and the best basis of each frame."""
    shape, levels = (images.shape[1], images.shape[2]), sigma(inputs)
    errors: dict[str, Array] = {
        "DCT": risks(DCT(shape).analysis(images), levels),
        "db4": risks(Wavelet(shape, "db4", db4_levels).analysis(images), levels),
    }
    for name, frame in frames.items():
        errors[name] = frame.search(frame.base.analysis(images), levels).costs
    return Curves(inputs, {name: to_psnr(e, shape[0] * shape[1]) for name, e in errors.items()})


def curves_80(n: int, references: int, seed: int) -> dict[int, Curves]:
    """`released` 80x80 over 0..34 dB; the Gaussian reference on the first `references` images."""
    inputs = INPUTS_80
    out = {}
    for alpha in ALPHAS:
        images = synthesize(n, size=80, alpha=alpha, seed=seed).astype(np.float64)
        frames = {
            "bandlet on db4": wavelet_bandlets((80, 80), "db4", 4),
            "pixel Alpert": pixel_bandlets((80, 80)),
        }
        curves = oracle_curves(images, inputs, frames, 4)
        spectra = gaussian.spectra(references, size=80, alpha=alpha, seed=seed)
        errors = np.stack([gaussian.risk(s, sigma(inputs)) for s in spectra])
        curves.outputs["Gaussian reference"] = to_psnr(errors, 80 * 80)
        out[alpha] = curves
    return out


def curves_512(n: int, seed: int) -> dict[int, Curves]:
    """`exact` 512x512, mean removed, over -24..6 dB."""
    shape, inputs = (512, 512), np.arange(-24.0, 7.0, 3.0)
    frames = {f"bandlet on {w}": wavelet_bandlets(shape, w, 7, 32) for w in ("db4", "db1")}
    out = {}
    for alpha in ALPHAS:
        images = synthesize(n, size=512, alpha=alpha, kind="exact", seed=seed).astype(np.float64)
        images -= images.mean(axis=(1, 2), keepdims=True)
        out[alpha] = oracle_curves(images, inputs, frames, 7)
    return out


def table_a(curves: dict[int, Curves]) -> list[Section]:
    """Slopes, paired gains and the order of the bases at 80x80."""
    slopes = [
        cell(name, f"alpha = {alpha}", curves[alpha].slopes(name), expected, SLOPE_SLACK)
        for name, row in SLOPES_80.items()
        for alpha, expected in zip(ALPHAS, row, strict=True)
    ]
    slopes += [
        cell(name, f"alpha = {alpha}", found.slopes(name))
        for alpha, found in curves.items()
        for name in found.outputs
        if name not in SLOPES_80
    ]
    n, references = (len(curves[1].outputs[name]) for name in ("db4", "Gaussian reference"))
    gains = [
        cell(
            f"{name} - db4, alpha = {a}", f"{at:g} dB", curves[a].gains(name, "db4", at), expected, GAIN_SLACK
        )
        for (name, a), row in GAINS_80.items()
        for at, expected in zip(GAIN_LEVELS, row, strict=True)
    ]
    order = [
        cell(
            f"{better} - {worse}, alpha = {a}",
            f"{at:g} dB",
            curves[a].gains(better, worse, at),
            least=0.0,
        )
        for a in (3, 5)
        for worse, better in pairwise(("DCT", "db4", "bandlet on db4", "pixel Alpert"))
        for at in (20.0, 30.0)
    ]
    setting = f"`released`, 80x80, {n} images, J = 4, squares up to 16."
    window = "least squares over input PSNR 0..34 dB in steps of 2 dB, per image"
    return [
        Section(
            "Table A: oracle slopes",
            f"{setting} Slope: {window}. Gaussian reference: {references} images.",
            slopes,
        ),
        Section("Paired gains in output PSNR (dB)", setting, gains),
        Section("Order of the bases: mean gains in dB, which must be positive", setting, order),
    ]


def table_b(curves: dict[int, Curves]) -> list[Section]:
    """Slopes in the asymptotic window."""
    cells = [
        cell(name, f"alpha = {alpha}", curves[alpha].slopes(name), expected, SLOPE_SLACK)
        for name, row in SLOPES_512.items()
        for alpha, expected in zip(ALPHAS, row, strict=True)
    ]
    n = len(curves[1].outputs["db4"])
    note = (
        f"`exact`, 512x512, {n} images, mean removed, J = 7, squares up to 32. Slope: least squares over "
        "input PSNR -24..6 dB in steps of 3 dB, per image."
    )
    return [Section("Table B: oracle slopes in the asymptotic window", note, cells)]


def table_c(n: int, seed: int) -> list[Section]:
    """Estimators and paired oracle gains on `exact` 256x256 images, alpha = 3."""
    shape = (256, 256)
    clean = synthesize(n, size=256, alpha=3, kind="exact", seed=seed).astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal(clean.shape)
    wavelet = Wavelet(shape, "db4", 5)
    bandlets, alpert = BandletFrame(wavelet, largest=32), pixel_bandlets(shape)
    oracles = oracle_curves(clean, GAIN_LEVELS, {"bandlet on db4": bandlets, "pixel Alpert": alpert}, 5)
    gains = [
        cell(f"{name} - db4", f"{at:g} dB", oracles.gains(name, "db4", at), expected, GAIN_SLACK)
        for name, row in GAINS_256.items()
        for at, expected in zip(GAIN_LEVELS, row, strict=True)
    ]
    cells = []
    for at, s in zip(GAIN_LEVELS, sigma(GAIN_LEVELS), strict=True):
        outputs = _estimators(clean, clean + s * noise, float(s), wavelet, bandlets, alpert)
        for name, row in ESTIMATORS_256.items():
            expected = row[list(GAIN_LEVELS).index(at)]
            cells.append(cell(name, f"{at:g} dB", outputs[name], expected))
    setting = (
        f"`exact`, 256x256, alpha = 3, {n} images, J = 5, squares up to 32 (wavelet domain), 16 (pixels)."
    )
    thresholds = (
        "T = 3.5 sigma with penalties T^2 and T^2/7 in the wavelet domain, sigma sqrt(2 ln d) and no penalty "
        "in the pixel domain."
    )
    return [
        Section("Table C: estimators, output PSNR (dB) at input PSNR", f"{setting} {thresholds}", cells),
        Section("Paired oracle gains in output PSNR (dB)", setting, gains),
    ]


def _estimators(
    clean: Array, noisy: Array, s: float, wavelet: Wavelet, bandlets: BandletFrame, alpert: BandletFrame
) -> dict[str, Array]:
    """Output PSNR (n,) of each row of Table C at noise s."""
    universal = s * np.sqrt(2 * np.log(noisy[0].size))
    hard = wavelet.synthesis(_hard(wavelet.analysis(noisy), 3.5 * s))
    penalised, oracle = _best_basis(clean, noisy, s, bandlets, 3.5 * s, penalties=(1.0, 1 / 7))
    free, _ = _best_basis(clean, noisy, s, bandlets, 3.5 * s)
    pixels, _ = _best_basis(clean, noisy, s, alpert, universal)
    return {
        "db4, hard": to_psnr(((hard - clean) ** 2).sum((1, 2)), clean[0].size),
        "bandlet, penalised, hard": penalised,
        "bandlet, no penalty, hard": free,
        "oracle in the penalised basis": oracle,
        "pixel Alpert, hard": pixels,
    }


def _best_basis(
    clean: Array,
    noisy: Array,
    s: float,
    frame: BandletFrame,
    threshold: float,
    penalties: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Array]:
    """Output PSNR (n,) of hard thresholding, and of oracle shrinkage, in the noisy image's best basis."""
    forests = frame.search(
        frame.base.analysis(noisy),
        [threshold],
        cost="hard",
        geometry_penalty=penalties[0],
        split_penalty=penalties[1],
    )
    errors = np.empty((2, len(noisy)))
    for i, (x, y) in enumerate(zip(clean, noisy, strict=True)):
        basis = forests.basis(i)
        truth = basis.analysis(x)
        errors[0, i] = ((_hard(basis.analysis(y), threshold) - truth) ** 2).sum()
        errors[1, i] = risks(truth[None], [s])[0, 0]
    hard, oracle = to_psnr(errors, clean[0].size)
    return hard, oracle


def _hard(c: Array, threshold: float) -> Array:
    return c * (np.abs(c) > threshold)
