r"""
How sure is each pixel
======================

The diagonal of J is the posterior variance of each pixel over :math:`\sigma^2`. It
takes d products to read off exactly and some hundreds to estimate, each pixel with
its own error bar:

.. math:: \mathrm{Var}[x_i\,|\,y] = \sigma^2 J_{ii}
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model, sigma = denoisers.load("photos"), 0.15
x = torch.from_numpy(photograph())[..., 90:154, 200:264]
y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

diagonal = spectral.diagonal(model, y, products=600)
print(diagonal)
deviation = sigma * diagonal.value.clamp(min=0).sqrt()

# %%
# Edges are uncertain, and there the error was really made. Not so in the hair: the network
# smooths its texture away and passes nothing of it, so that J does not know what is missing.

with torch.no_grad():
    denoised = model(y)
fig, axes = plt.subplots(1, 4, figsize=(9, 2.5))
panels = (
    ("noisy", y, 1.0),
    ("denoised", denoised, 1.0),
    ("stated deviation", deviation, 0.15),
)
for axis, (name, image, most) in zip(
    axes, (*panels, ("|f(y) - x|", (denoised - x).abs(), 0.15)), strict=True
):
    axis.imshow(image.reshape(64, 64), vmin=0, vmax=most, cmap="gray" if most == 1 else "magma")
    axis.set_title(name)
    axis.set_axis_off()
plt.show()

# %%
# Pixels by their stated deviation, in eight groups of as many: what was stated against
# what was made. For the best possible denoiser, probed exactly, points lie on the line.

order = deviation.flatten().argsort().view(8, -1)
stated = deviation.flatten()[order].square().mean(1).sqrt()
made = (denoised - x).flatten()[order].square().mean(1).sqrt()
fig, axis = plt.subplots(figsize=(3.6, 3))
axis.plot(stated, made, "o")
axis.plot([0, 0.12], [0, 0.12], color="0.7", lw=0.8, zorder=0)
axis.set(
    xlabel="stated deviation",
    ylabel="root mean squared error",
    title="512 pixels a point",
)
plt.show()
