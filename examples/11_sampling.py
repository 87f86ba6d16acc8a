r"""
Sampling and inpainting with a denoiser
=======================================

A blind denoiser holds a prior: its residual is the score (Miyasawa 1961),

.. math:: f(y) - y = \sigma^2\, \nabla \log p_\sigma(y)

Climb it, coarse to fine, adding a little noise back, and images of the prior come
out; climb it within the images that have measured values, and a linear inverse
problem is solved (Kadkhodaie and Simoncelli 2021).
"""

import matplotlib.pyplot as plt
import torch

import denoisers
from denoisers.evaluation import psnr
from denoisers.images import photograph
from denoisers.images.calpha import synthesize
from denoisers.sampling import Inpainting

model = denoisers.load("calpha")  # trained on C^alpha images
draws = denoisers.sample(model, (1, 32, 32), count=8, beta=0.1, sigma_end=0.02, seed=1, every=8)
print(draws)

# %%
# One draw on its way, denoised in one shot; below, all eight, and beneath them what the
# network was trained on. It is small: its draws are smooth where they should be, and
# paler.

frames = draws.trajectory[0, torch.linspace(0, draws.trajectory.shape[1] - 1, 8).long()]
fig, axes = plt.subplots(3, 8, figsize=(8, 3.3))
real = torch.from_numpy(synthesize(8, size=32, alpha=2, seed=9))
for row, images, name in zip(
    axes,
    (frames, draws.images, real),
    ("one draw", "draws", "C^alpha images"),
    strict=True,
):
    for axis, image in zip(row, images, strict=True):
        axis.imshow(image[0], vmin=0, vmax=1)
        axis.set_axis_off()
    row[0].set_title(name, loc="left")
plt.show()

# %%
# Inpainting: a hole of 12 x 12 pixels in a photograph, by a network of photographs.
# Every draw has the pixels that were measured, to rounding; their mean is nearer to the
# truth, each of them sharper.

x = torch.from_numpy(photograph())[..., 112:160, 212:260]
hole = Inpainting.hole(48, 12)
found = denoisers.solve(
    denoisers.load("photos"),
    hole,
    hole.measure(x).expand(4, -1, -1),
    beta=0.4,
    sigma_end=0.02,
    seed=2,
)
print(found)

mean = found.images.mean(0, keepdim=True)
measured = hole.adjoint(hole.measure(x)) + 0.5 * (~hole.mask)
panels = [
    ("measured", measured),
    *((f"draw {i}", d[None]) for i, d in enumerate(found.images[:2], 1)),
    ("mean of 4", mean),
    ("truth", x),
]
fig, axes = plt.subplots(1, 5, figsize=(8.5, 2))
for axis, (name, image) in zip(axes, panels, strict=True):
    axis.imshow(image[0, 0], vmin=0, vmax=1)
    axis.set_title(
        name if name in ("measured", "truth") else f"{name}, {psnr(image, x).item():.1f} dB"
    )
    axis.set_axis_off()
plt.show()
