r"""
What else the picture could have been
=====================================

A denoiser returns one image, the mean of all those that could have given y. The
Jacobian knows the others to second order (Miyasawa 1961; Manor and Michaeli 2024):

.. math:: \mathrm{Cov}[x\,|\,y] = \sigma^2 J, \qquad x \approx f(y) + \sum_k \sigma \sqrt{\lambda_k} t_k e_k

``posterior`` returns the principal components with certified eigenpairs, the share of
the variance that they explain, and pixel deviations.
"""

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model, sigma = denoisers.load("photos"), 0.3
x = torch.from_numpy(photograph())[..., 112:152, 216:256]
y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

components = spectral.posterior(model, y, sigma, k=6, products=400)
print(components)

# %%
# Walks from the mean along the first four, from minus to plus three standard
# deviations.

components.plot()

# %%
# Is it true? The error that was made, x - f(y), has coordinates along each component;
# over their stated deviations they should look like draws of N(0, 1). A network whose J
# is not symmetric is no exact conditional mean, and then they are larger.

scores = components.scores(x)
fig, axis = plt.subplots(figsize=(5, 2.4))
axis.axhspan(-1.96, 1.96, color="C0", alpha=0.12, lw=0)
axis.bar(range(1, 7), scores, width=0.4)
axis.set(xlabel="component", ylabel="score of the true error", title="band: 95 % of N(0, 1)")
plt.show()
