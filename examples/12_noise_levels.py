r"""
A spectrum across noise levels
==============================

As the noise falls, the basis turns and sharpens. ``start=`` begins each solve where
the last one ended, ``match`` follows vectors from level to level through crossings,
by their overlaps

.. math:: |\langle e_i(\sigma),\, e_j(\sigma') \rangle|

A Krylov method forgets its start soon, so that a warm start saves some products and
not most: we count them.
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")
x = torch.from_numpy(photograph())[..., 116:156, 214:254]
noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
levels = [0.3, 0.26, 0.22, 0.19, 0.16, 0.13, 0.1]

paths, cold, warm, pairs = [], [], [], None
for sigma in levels:
    y = x + sigma * noise
    before, start = pairs, None if pairs is None else pairs.vectors
    cold.append(spectral.top_eigs(model, y, k=8, tol=1e-3).spent["solve"])
    pairs = spectral.top_eigs(model, y, k=8, tol=1e-3, start=start)
    warm.append(pairs.spent["solve"])
    # Position j continues the path that position i of the level before was on.
    links = None if before is None else spectral.match(before, pairs)
    paths.append((pairs, links))
print(f"products, cold: {sum(cold)}; warm: {sum(warm)}")

# %%
# Eigenvalues, joined where a vector went on with an overlap above one half.

fig, axis = plt.subplots(figsize=(5.4, 3.2))
for i, (found, links) in enumerate(paths):
    axis.errorbar([levels[i]] * 8, found.values, found.errors, fmt="o", ms=4, color="C0")
    for j in range(8) if links is not None else ():
        if links.overlap[j] > 0.5:
            values = paths[i - 1][0].values[j], found.values[links.index[j]]
            axis.plot(
                levels[i - 1 : i + 1],
                values,
                color="C1",
                lw=1 + 2 * (links.overlap[j].item() - 0.5),
            )
axis.set(xlabel=r"noise level $\sigma$", ylabel=r"$\lambda_k$")
axis.invert_xaxis()
plt.show()

# %%
# The first four eigenvectors at each level.

fig, axes = plt.subplots(4, len(levels), figsize=(7.5, 4.6))
for column, sigma, (found, _) in zip(axes.T, levels, paths, strict=True):
    column[0].set_title(rf"$\sigma$ = {sigma}")
    for axis, e in zip(column, found.vectors, strict=False):
        axis.imshow(e.squeeze(), cmap="RdBu_r", vmin=-e.abs().max(), vmax=e.abs().max())
        axis.set_axis_off()
plt.show()
