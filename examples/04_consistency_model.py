r"""
Singular vectors of a consistency model
=======================================

A consistency function takes a noisy point to the end of its flow in one step. It is no conditional mean:
its Jacobian is neither symmetric nor non-negative, and its eigenvectors say little. What does is the SVD: a
unit step of the noise along :math:`v_k` moves the image by :math:`\sigma_k` along :math:`u_k`,

.. math:: J v_k = \sigma_k u_k, \qquad J^T u_k = \sigma_k v_k

The model here is tiny, and trained on the spot on 16 x 16 disks by easy consistency tuning (Geng et al.
2024).
"""

import tempfile

import matplotlib.pyplot as plt
import torch

import spectral
from denoisers.sampling import consistency
from denoisers.training import TrainConfig, train

config = TrainConfig(
    data="disks",
    network="Consistency",
    network_config={"width": 16, "scales": 2},
    objective="consistency",
    size=16,
    batch=16,
    steps=400,
    learning_rate=2e-3,
    schedule="cosine",
    noise="log-normal",
)
with tempfile.TemporaryDirectory() as folder:
    f = train(config, folder, validate_every=400)

# %%
# At one point of much noise (:math:`\sigma = 0.5`), the eight largest triplets.

y = 0.5 + 0.5 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(7))
triplets = spectral.top_svd(f, y, k=8, model_kwargs={"sigma": 0.5})
print(triplets)

# %%
# Above, noise that matters; below, what it changes. Disks come out: one step draws an image from noise.

draws = consistency(f, (1, 16, 16), count=5, levels=[1.0, 0.3], seed=1).images
with torch.no_grad():
    image = f(y, 0.5)
fig, axes = plt.subplots(3, 6, figsize=(7.5, 4.2))
for axis, (name, x) in zip(
    axes[0], [("f(y)", image[0]), *((f"draw {i}", d) for i, d in enumerate(draws, 1))], strict=True
):
    axis.imshow(x[0], vmin=0, vmax=1)
    axis.set_title(name)
for row, vectors, name in zip(axes[1:], (triplets.right, triplets.left), "vu", strict=True):
    for k, (axis, e) in enumerate(zip(row, vectors, strict=False)):
        axis.imshow(e.squeeze(), cmap="RdBu_r", vmin=-e.abs().max(), vmax=e.abs().max())
        axis.set_title(
            f"${name}_{k + 1}$" + (f", $\\sigma_{k + 1}$ = {triplets.values[k]:.2f}" if name == "v" else "")
        )
for axis in axes.flat:
    axis.set_axis_off()
plt.show()

# %%
# How far is J from symmetric? For a denoiser of these networks 0.4 to 0.6 is usual.

print(spectral.asymmetry(spectral.jacobian(f, y, model_kwargs={"sigma": 0.5})))
