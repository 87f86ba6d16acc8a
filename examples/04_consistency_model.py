r"""
Singular vectors of a consistency model
=======================================

A consistency function takes a noisy point to the end of its flow in one step. It is
no conditional mean: its Jacobian is neither symmetric nor non-negative, and its
eigenvectors say little. What does is the SVD: a unit step of the noise along
:math:`v_k` moves the image by :math:`\sigma_k` along :math:`u_k`,

.. math:: J v_k = \sigma_k u_k, \qquad J^T u_k = \sigma_k v_k

The model is tiny, and trained on the spot by easy consistency tuning (Geng et al.
2024) on sine waves of any phase and intensity: images of two degrees of freedom, so
that we know what to expect. Its body is an MLP of ours.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import spectral
from denoisers.images import Waves
from denoisers.networks import Consistency
from denoisers.sampling import consistency
from denoisers.training.objective import consistency_loss


class Body(nn.Module):
    """F(x, c): an MLP of the image and the level, and a gain of the image by the level."""

    def __init__(self, size=16, width=192):
        super().__init__()
        into, out = size**2 + 8, size**2
        layers = [nn.Linear(into, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, out))
        self.gain = nn.Linear(8, 1)

    def forward(self, x, c):
        angles = c[:, None] / 250 * torch.tensor([0.25, 0.5, 1.0, 2.0])
        level = torch.cat([angles.sin(), angles.cos()], 1)
        image = self.layers(torch.cat([x.flatten(1), level], 1)).view_as(x)
        return image + self.gain(level)[:, :, None, None] * x


# %%
# A few seconds of training, from denoising (r near 0) to consistency (r near t).

torch.manual_seed(0)
f, waves, steps = Consistency(body=Body()), Waves(16), 2000
adam = torch.optim.Adam(f.parameters(), 2e-3)
slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
for step in range(steps):
    x = torch.from_numpy(waves(64, seed=1, first=64 * step))
    t = (0.8 * torch.randn(64) - 1).exp().clamp(max=2)
    loss = consistency_loss(f, f, x, t, torch.randn(x.shape), step / steps)
    adam.zero_grad()
    loss.backward()
    adam.step()
    slower.step()
f.eval()

# %%
# At a point of much noise: two singular values stand out, and all others are what is
# left of the noise.

sigma = 0.5
x = torch.from_numpy(waves(1, seed=4, first=2))
y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
triplets = spectral.top_svd(f, y, k=6, model_kwargs={"sigma": sigma})
print(triplets)

# %%
# The right vectors say which noise matters, the left ones what it changes: the phase,
# and the intensity.

draws = consistency(f, (1, 16, 16), count=3, levels=[1.0, 0.5], sigma_min=0.001, seed=1).images
with torch.no_grad():
    shown = [("x", x[0]), ("y", y[0]), ("f(y)", f(y, sigma)[0])]
shown += [(f"draw {i}", draw) for i, draw in enumerate(draws, 1)]

fig, axes = plt.subplots(3, 6, figsize=(7.5, 4.2))
for axis, (name, image) in zip(axes[0], shown, strict=True):
    axis.imshow(image[0], vmin=0, vmax=1)
    axis.set_title(name)
for row, vectors, name in zip(axes[1:], (triplets.right, triplets.left), "vu", strict=True):
    for k, (axis, e) in enumerate(zip(row, vectors, strict=True), 1):
        axis.imshow(e.squeeze(), cmap="RdBu_r", vmin=-e.abs().max(), vmax=e.abs().max())
        value = rf", $\sigma_{k}$ = {triplets.values[k - 1]:.2f}" if name == "v" else ""
        axis.set_title(f"${name}_{k}$" + value)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()

# %%
# How much of :math:`u_1, u_2` lies in the plane that the waves span?

plane = torch.from_numpy(waves.basis()).flatten(1)
print(spectral.subspace_angles(triplets.left[:2].flatten(1), plane).rad2deg())
