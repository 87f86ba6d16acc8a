r"""
Eigenvectors at a photograph
============================

A denoiser :math:`f` shrinks the noise in :math:`y = x + \sigma n` along axes of its
own choosing, the eigenvectors of the symmetric part of its Jacobian:

.. math:: S = (J + J^T)/2, \qquad J = \partial f / \partial y, \qquad S\, e_k = \lambda_k\, e_k

They follow the picture: along edges where there are edges, slow waves where there are
none. Kadkhodaie, Guth, Simoncelli and Mallat (ICLR 2024) call them geometry-adaptive
harmonics.
"""

import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")  # 0.5 M parameters, bias-free, not told sigma
x = torch.from_numpy(photograph())[..., 108:172, 204:268]
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

# %%
# The matrix has 4096 x 4096 entries and is never formed: a solver sees products with
# :math:`J` and :math:`J^T` alone.

pairs = spectral.top_eigs(model, y, k=16)
print(pairs)

# %%
# Each line is a proof. *Residuals* come from products formed after the solve;
# *completeness* is what no eigenvalue that was not returned can exceed, at 99 %
# confidence; *asymmetry* is what S does not show of J.
#
# Below, red is positive and blue negative. Bars are the coefficients of the clean
# image: where the image may well vary, the network lets noise pass, and more
# (:math:`\lambda_k > 1`).

pairs.plot(clean=x, noisy=y)

# %%
# Every eigenvalue carries a bound on its error.

for value, error in list(zip(pairs.values.tolist(), pairs.errors.tolist(), strict=True))[:5]:
    print(f"{value:.6f} +- {error:.0e}")
