r"""
A diffusion model, at its timesteps
===================================

A diffusion network sees :math:`z = \alpha_t w + \sigma_t n` and predicts the noise,
the image, or :math:`v = \alpha_t n - \sigma_t w`. Its conditional mean is linear in
that, so that every diffusion network is a denoiser, whose posterior covariance is

.. math:: E[w\,|\,z] = \alpha_t z - \sigma_t v(z, t), \qquad \mathrm{Cov}[x\,|\,y] = \sigma^2 J

``denoisers.adapters`` makes one of a network of diffusers, EDM, deepinv or azula, or
of any F and its schedule. The UNet below has attention and a time embedding, as those
have. It is tiny, and trained on disks for a quarter of a minute, so the answers are
those of a beginner; with ``adapters.from_diffusers(unet, scheduler)`` in its place
nothing else changes.
"""

import matplotlib.pyplot as plt
import torch

import spectral
from denoisers import adapters
from denoisers.images import Disks
from denoisers.networks import LabelledUNet

betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
signal = (1 - betas).cumprod(0)  # alpha_t^2, as DDPM has it
disks = Disks(16)

torch.manual_seed(0)
unet, steps = LabelledUNet(width=16, scales=2, channels=1, unit=1000.0), 500
adam = torch.optim.Adam(unet.parameters(), 4e-3)
slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
for step in range(steps):
    w = 2 * torch.from_numpy(disks(32, seed=1, first=32 * step)) - 1
    t = torch.randint(1000, (32,))
    alpha, level = (c.float().sqrt()[t].view(-1, 1, 1, 1) for c in (signal, 1 - signal))
    n = torch.randn(w.shape)
    loss = (unet(alpha * w + level * n, t.float()) - (alpha * n - level * w)).square().mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    slower.step()

f = adapters.Diffusion(unet.eval(), adapters.Discrete(signal.tolist()), "v")
print(
    f"trained to a loss of {loss.item():.3f}; noise levels {f.sigmas[0]:.3f} to {f.sigmas[1]:.0f} of y"
)

# %%
# One disk, at three timesteps: what the network makes of it, and the first three
# principal components of what else it might be. With much noise the brightness of all of
# it is in doubt, and which side is bright; with less the doubt draws near the disk.

x = torch.from_numpy(disks(1, seed=5, first=7))
noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
fig, axes = plt.subplots(3, 5, figsize=(7, 4.4))
for row, timestep in zip(axes, (400, 250, 100), strict=True):
    denoiser = f.at(timestep=timestep)
    y = x + denoiser.sigma * noise
    found = spectral.posterior(denoiser, y, denoiser.sigma, k=3)
    print(f"t = {timestep}, sigma = {denoiser.sigma:.2f}: {found.pairs.asymmetry_text()}")
    row[0].imshow(y[0, 0], vmin=-0.5, vmax=1.5)
    row[1].imshow(found.mean[0, 0], vmin=0, vmax=1)
    row[0].set_title(f"t = {timestep}")
    row[1].set_title("E[x | y]")
    for axis, e, deviation in zip(row[2:], found.pairs.vectors, found.deviations, strict=True):
        most = e.abs().max()
        axis.imshow(e.squeeze(), cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(f"deviation {deviation:.2f}")
for axis in axes.flat:
    axis.set_axis_off()
plt.show()
