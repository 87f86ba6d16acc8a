r"""
C^alpha images and their oracles
================================

Two smooth regions, parted by a contour of regularity alpha: images for which theory
knows the best that a denoiser can do. Its error falls as
:math:`\sigma^{2\alpha/(\alpha+1)}`, and so, on decibel axes, does an output PSNR rise
by :math:`\alpha/(\alpha+1)` per dB of input. Between the optimum and us stand
oracles, which shrink each coefficient by

.. math:: \lambda_k = c_k^2 / (c_k^2 + \sigma^2), \qquad \mathrm{risk} = \sum_k \lambda_k \sigma^2

knowing the clean image's :math:`c_k`: no thresholding in that basis does better. And
a network, which knows nothing.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import denoisers
from denoisers.images.calpha import synthesize
from spectral.bases import DCT, Wavelet, wavelet_bandlets
from spectral.kernels.shrinkage import risks

fig, axes = plt.subplots(2, 6, figsize=(7.5, 2.7))
for row, alpha in zip(axes, (1, 4), strict=True):
    for axis, image in zip(row, synthesize(6, size=64, alpha=alpha, seed=3), strict=True):
        axis.imshow(image[0], vmin=0, vmax=1)
        axis.set_axis_off()
    row[0].set_title(f"alpha = {alpha}", loc="left")
plt.show()

# %%
# Oracles in three orthonormal bases, the last one chosen for each image by a quadtree
# of flows along its contour; and the shipped network ``calpha``, which was trained for
# a quarter of an hour on images of alpha = 2.

images = synthesize(16, size=64, alpha=2, seed=1)
decibels = np.arange(4.0, 33.0, 4.0)
sigmas = 10 ** (-decibels / 20)
flat, bandlets = images[:, 0].astype(np.float64), wavelet_bandlets((64, 64), "db4", 4)
errors = {
    "DCT oracle": risks(DCT((64, 64)).analysis(flat), sigmas),
    "wavelet oracle": risks(Wavelet((64, 64), "db4", 4).analysis(flat), sigmas),
    "bandlet oracle": bandlets.search(bandlets.base.analysis(flat), sigmas).costs,
}

model = denoisers.load("calpha")
with torch.no_grad():
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images)
    made = [(model(x + float(s) * noise) - x).square().sum((1, 2, 3)) for s in sigmas]
errors["network, no oracle"] = torch.stack(made, 1).numpy()

# %%
# Slopes over the whole window, and the optimum's, 2/3, at a height of its own.

fig, axis = plt.subplots(figsize=(5.4, 3.6))
for name, error in errors.items():
    output = (-10 * np.log10(error / 64**2)).mean(0)
    slope = np.polyfit(decibels, output, 1)[0]
    axis.plot(decibels, output - decibels, "o-", ms=3, label=f"{name}, slope {slope:.2f}")
line = 12.2 + (2 / 3 - 1) * (decibels - 16)
axis.plot(decibels, line, ":", color="0.5", label="slope 2/3")
axis.set(xlabel="input PSNR, dB", ylabel="gain in PSNR, dB")
axis.legend()
plt.show()
