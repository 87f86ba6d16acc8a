r"""
Directions of one region
========================

Which directions change one part of the picture, and nothing else? Restrict vectors to
a mask, look at the output in another, rule directions out: with :math:`E` a basis of
what is left, the operator solved is

.. math:: E^T S E \quad\mathrm{or}\quad M_{out}\, J\, E

of exactly that size, with no zeros of what was left out. Local editing of diffusion
models is two such calls (LOCO Edit, Chen et al., NeurIPS 2024).
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")
x = torch.from_numpy(photograph())[..., 118:166, 216:264]
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
mask = torch.zeros(48, 48, dtype=torch.bool)
mask[16:34, 8:32] = True

inside = spectral.top_eigs(model, y, k=4, mask=mask)
beyond = spectral.top_eigs(model, y, k=4, mask=mask, orthogonal_to=inside.vectors)
print(inside)
assert beyond.values[0] <= inside.values[3] + 1e-4  # the next four, by another question

# %%
# Directions that move the picture inside, and are orthogonal to those to which the
# outside responds most.

outside = spectral.top_svd(model, y, k=8, output_mask=~mask)
edit = spectral.top_svd(model, y, k=4, output_mask=mask, orthogonal_to=outside.right)

rows = (
    ("eigenvectors in the mask", inside.vectors),
    ("the next", beyond.vectors),
    ("edits", edit.right),
)
fig, axes = plt.subplots(3, 5, figsize=(7.2, 4.6), width_ratios=[1, 1, 1, 1, 1])
for row, (name, vectors) in zip(axes, rows, strict=True):
    row[0].imshow(y[0, 0], vmin=0, vmax=1)
    row[0].set_title(name, loc="left")
    for axis, e in zip(row[1:], vectors, strict=True):
        axis.imshow(e.squeeze(), cmap="RdBu_r", vmin=-e.abs().max(), vmax=e.abs().max())
for axis in axes.flat:
    axis.contour(mask, [0.5], colors="C1", linewidths=0.8)
    axis.set_axis_off()
plt.show()

# %%
# Along the first edit, what the network returns: the change stays where it should.

steps = (-4, -2, 0, 2, 4)
with torch.no_grad():
    walk = torch.cat([model(y + t * edit.right[0].view_as(y)) for t in steps])
change = walk - walk[2:3]
kept = change[[0, 4]][..., mask].norm() / change[[0, 4]].norm()
print(f"{100 * kept**2:.0f} % of the change's energy is inside the mask")

fig, axes = plt.subplots(2, 5, figsize=(7.2, 3.2))
for top, bottom, t, image, moved in zip(*axes, steps, walk, change, strict=True):
    top.imshow(image[0], vmin=0, vmax=1)
    top.set_title(f"t = {t}")
    bottom.imshow(moved[0], cmap="RdBu_r", vmin=-0.3, vmax=0.3)
    for axis in (top, bottom):
        axis.contour(mask, [0.5], colors="C1", linewidths=0.8)
        axis.set_axis_off()
plt.show()
