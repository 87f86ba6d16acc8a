r"""
Three meanings of "eigenvectors of J"
=====================================

The Jacobian of a trained network is not symmetric. Three questions that fall together
for the best possible denoiser come apart, and each has its own call:

.. math::
   (J + J^T)\, e / 2 = \lambda\, e
   J v = \sigma\, u, \quad J^T u = \sigma\, v
   J w = \mu\, w, \quad \mu \in \mathbb{C}
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")
x = torch.from_numpy(photograph())[..., 110:150, 210:250]
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
J = spectral.jacobian(model, y)  # recorded once, asked three times

symmetric = spectral.top_eigs(J, k=10)
singular = spectral.top_svd(J, k=10)
full = spectral.top_eigs_full(J, k=10, left=True)
print(symmetric.asymmetry_text())
print(full)

# %%
# Eigenvalues of the symmetric part bound real parts; singular values bound moduli.

index = range(1, 11)
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3))
axes[0].plot(index, singular.values, "s-", ms=4, label=r"$\sigma_k$, singular values")
axes[0].plot(index, symmetric.values, "o-", ms=4, label=r"$\lambda_k$, symmetric part")
axes[0].plot(index, full.values.real[:10], "^-", ms=4, label=r"Re $\mu_k$, J itself")
axes[0].set(xlabel="k", ylim=(0, None))
axes[0].legend()
angles = {
    r"$e_k$ to $v_k$": spectral.subspace_angles(symmetric, singular),
    r"$u_k$ to $v_k$": spectral.subspace_angles(singular.left, singular.right),
}
for name, found in angles.items():
    axes[1].plot(index, found.rad2deg(), "o-", ms=4, label=f"spans, {name}")
axes[1].set(xlabel="k", ylabel="principal angle, degrees", ylim=(0, 90))
axes[1].legend()
plt.show()

# %%
# The complex plane, the first vectors, and how far a residual can move each eigenvalue.

full.plot()
