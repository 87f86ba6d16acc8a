r"""
Eigenvectors at a photograph
============================

A denoiser :math:`f` shrinks the noise in :math:`y = x + \sigma n` along axes of its own choosing: the eigenvectors of

.. math:: S = \frac{1}{2}(J + J^T), \qquad J = \frac{\partial f}{\partial y}(y), \qquad S\, e_k = \lambda_k\, e_k.

They follow the picture: along edges where there are edges, slow waves where there are none. Kadkhodaie, Guth,
Simoncelli and Mallat (ICLR 2024) call them geometry-adaptive harmonics.
"""

import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")  # 0.5 M parameters, bias-free, blind: not told sigma
x = torch.from_numpy(photograph())[..., 60:140, 180:260]
sigma = 0.15
y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

# %%
# The matrix has 6400 x 6400 entries, and is never formed: a solver sees products with :math:`J` and :math:`J^T` alone.

pairs = spectral.top_eigs(model, y, k=20)
print(pairs)

# %%
# Each line is a proof. Residuals come from products formed after the solve; *completeness* says what no eigenvalue
# that was not returned can exceed, at 99 % confidence; *asymmetry* is what the symmetric part hides of J.
#
# An eigenvalue near 1 means that noise along :math:`e_k` passes unharmed, since the image may well vary there; the
# bars show how much of the clean image does.

pairs.plot(clean=x, noisy=y)

# %%
# Every eigenvalue comes with a bound on its error.

for value, error in list(zip(pairs.values.tolist(), pairs.errors.tolist(), strict=True))[:5]:
    print(f"{value:.6f} +- {error:.0e}")
