r"""
A network of your own
=====================

Any ``nn.Module`` or callable :math:`y \mapsto f(y)` will do: colour, a noise level,
attention, normalisation, control flow. What belongs to your model travels in
``model_kwargs``. Here is one that was written a minute ago, trained on the spot on
disks, and asked at one of them. At 24 x 24 pixels LAPACK can check every digit.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import spectral
from denoisers.images import Disks


class Mine(nn.Module):
    """y minus the noise that two small branches predict in it, told its level."""

    def __init__(self, width=16):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.wide = nn.Sequential(
            nn.AvgPool2d(4),
            nn.Conv2d(2, width, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=4),
        )
        self.last = nn.Sequential(
            nn.GroupNorm(4, 2 * width), nn.GELU(), nn.Conv2d(2 * width, 1, 3, padding=1)
        )

    def forward(self, y, level):
        z = torch.cat([y - 0.5, torch.full_like(y, 4 * level)], 1)
        return y - self.last(torch.cat([self.fine(z), self.wide(z)], 1))


# %%
# 250 steps of Adam on fresh disks: a few seconds, and a denoiser that works, if not
# well.

torch.manual_seed(0)
mine, disks, sigma = Mine(), Disks(24), 0.2
adam = torch.optim.Adam(mine.parameters(), 3e-3)
for step in range(250):
    x = torch.from_numpy(disks(16, seed=1, first=16 * step))
    loss = (mine(x + sigma * torch.randn(x.shape), sigma) - x).square().mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
print(f"noise {sigma}, error {loss.sqrt():.3f}, root mean squares per pixel")

# %%
# The ten largest eigenpairs, and the same from the whole matrix.

x = torch.from_numpy(disks(1, seed=2))
y = x + sigma * torch.randn(x.shape)
pairs = spectral.top_eigs(mine, y, k=10, tol=1e-6, model_kwargs={"level": sigma})
print(pairs)

J = torch.func.jacrev(lambda v: mine(v.view_as(y), sigma).flatten())(y.flatten())
exact = torch.linalg.eigvalsh((J + J.T).double().detach() / 2).flip(0)
print(f"off LAPACK by {(pairs.values - exact[:10]).abs().max():.0e}")

# %%
# Five parameters make a disk: its place, its radius, two intensities. A perfect
# denoiser would keep five directions.

fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), width_ratios=[1, 2.2])
axes[0].imshow(y[0, 0], vmin=0, vmax=1)
axes[0].set(title="y", xticks=[], yticks=[])
axes[1].plot(range(1, 41), exact[:40], ".-", label="LAPACK, 576 products")
axes[1].plot(
    range(1, 11),
    pairs.values,
    "o",
    ms=8,
    mfc="none",
    label=f"top_eigs, {pairs.products} products",
)
axes[1].axvline(5.5, color="0.8", zorder=0)
axes[1].set(xlabel="k", ylabel=r"$\lambda_k$")
axes[1].legend()
plt.show()

# %%
pairs.plot()
