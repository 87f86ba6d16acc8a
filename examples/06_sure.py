r"""
SURE picks the noise level
==========================

How strongly should an image be denoised, when nobody knows the clean one? Stein's
unbiased risk estimate

.. math:: \mathrm{MSE} = (|y - f(y)|^2 + 2 \sigma^2\, \mathrm{tr}\, J - \sigma^2 d)\,/\,d

needs y alone, and J only by its trace. Wavelet shrinkage has one knob, the noise
level s that it is made for. We turn it, and let SURE choose; the truth, which SURE
does not see, is drawn beside it.
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.classical import Thresholding
from denoisers.images import photograph
from spectral.bases import Wavelet

x = torch.from_numpy(photograph())[..., 64:160, 176:272]
y = x + 0.12 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
sigma = spectral.sigma_by_median(y).value  # from y too: 0.12 is not told
print(f"sigma by the median rule: {sigma:.3f}")

# %%
# One call an estimate; ``stderr`` contains what probing leaves open, and what no
# probing can tell.

levels = torch.logspace(-2, -0.5, 10).tolist()
basis = Wavelet((96, 96), "sym4", 4)
risks = [spectral.sure(Thresholding(basis, s, factor=1.5), y, sigma) for s in levels]
truth = [(Thresholding(basis, s, factor=1.5)(y) - x).square().mean().item() for s in levels]
best = min(range(10), key=lambda i: risks[i].value)
print(f"SURE picks s = {levels[best]:.3f}, the truth s = {levels[truth.index(min(truth))]:.3f}")

# %%
# SURE also ranks denoisers that have nothing in common: here, the shipped network.

network = denoisers.load("photos")
verdict = spectral.sure(network, y, sigma)
print(verdict)

shrunk = Thresholding(basis, levels[best], factor=1.5)(y)
fig, axes = plt.subplots(1, 4, figsize=(9, 2.7), width_ratios=[1.9, 1, 1, 1])
axes[0].errorbar(
    levels,
    [r.value for r in risks],
    [r.halfwidth(0.95) for r in risks],
    fmt="o-",
    ms=3,
    label="SURE, 95 %",
)
axes[0].plot(levels, truth, "x", label="truth")
axes[0].axhline(verdict.value, color="C2", ls="--", lw=1, label="network, SURE")
axes[0].set(xscale="log", yscale="log", xlabel="s", ylabel="mean squared error")
axes[0].legend(fontsize=7)
shown = (
    ("noisy", y),
    (f"wavelets, s = {levels[best]:.2f}", shrunk),
    ("network", network(y)),
)
for axis, (name, image) in zip(axes[1:], shown, strict=True):
    axis.imshow(image.detach()[0, 0], vmin=0, vmax=1)
    axis.set_title(name)
    axis.set_axis_off()
plt.show()
