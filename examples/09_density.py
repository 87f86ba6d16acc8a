r"""
The density of all eigenvalues
==============================

Twenty eigenpairs tell the top of a spectrum. How all of it lies, how many directions
are kept, how many are negative, is told by stochastic Lanczos quadrature: a random
unit vector v sees the spectral measure

.. math:: \sum_i \langle v, e_i \rangle^2\, \delta(\lambda - \lambda_i)

and a few Lanczos steps replace it by a Gauss rule. Twenty vectors give a mean and an
error.
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")
x = torch.from_numpy(photograph())[..., 110:142, 210:242]
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
J = spectral.jacobian(model, y)

density = spectral.spectral_density(J, method="slq", probes=20)
for threshold in (1.0, 0.5, 0.1, 0.0):
    low, high = density.count_above(threshold).interval(0.95)
    print(f"eigenvalues above {threshold}: {low:.1f} to {high:.1f} of 1024, 95 %")

# %%
# Bands are 95 % intervals. Orange ticks are top pairs that a first Lanczos run
# resolved, put back exactly.

density.plot(threshold=0.5)

# %%
# At 32 x 32 pixels the matrix takes fewer products than the probes did, so that the
# default method forms it: all values are had, and whether that was true.

exact = spectral.spectral_density(J)
print(exact)
grid = torch.linspace(exact.ends[0] - 0.05, exact.ends[1] + 0.05, 400, dtype=torch.float64)
counts = density.count_above(grid)
low, high = counts.interval(0.95)

fig, axis = plt.subplots(figsize=(5, 3))
axis.fill_between(
    grid,
    low.clamp(min=0.5),
    high.clamp(min=0.5),
    alpha=0.3,
    lw=0,
    label="95 % interval",
)
axis.plot(
    grid,
    exact.count_above(grid).value.clamp(min=0.5),
    color="C1",
    lw=1,
    label="exact",
)
axis.set(yscale="log", xlabel=r"$\lambda$", ylabel="eigenvalues above")
axis.legend()
plt.show()
