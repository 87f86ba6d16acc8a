r"""
A solve that was interrupted, and went on
=========================================

A large solve takes hours. With ``checkpoint=`` it lives in a file, which holds the
Krylov relation

.. math:: A V^T = V^T T + X^T C + F

and the random numbers. After Ctrl-C, kill -9 or the end of a budget the same call
goes on, and it is the same solve: the products of the parts add up, and the
eigenvalues are those of a solve that nobody stopped.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

model = denoisers.load("photos")
x = torch.from_numpy(photograph())[..., 104:152, 208:256]
y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

budgets = (25, 40, 55, 70, 1000)  # products in all until each interruption
stops = []
with tempfile.TemporaryDirectory() as folder:
    kept = {"checkpoint": Path(folder) / "solve.safetensors"}
    for budget in budgets:
        pairs = spectral.top_eigs(model, y, k=10, tol=1e-5, max_products=budget, **kept)
        stops.append(pairs)
        print(f"{budget} products: {int(pairs.converged.sum())} of {pairs.k} converged")

whole = spectral.top_eigs(model, y, k=10, tol=1e-5)
print(stops[-1])
solves = stops[-1].spent["solve"], whole.spent["solve"]
print("products of the solve: {} with stops, {} without".format(*solves))
print(f"eigenvalues differ by {(stops[-1].values - whole.values).abs().max():.0e}")

# %%
# What each stop returned, marked for what it was: pairs that are not there yet say so
# by their residuals.

fig, axis = plt.subplots(figsize=(5.4, 3.2))
shades = plt.get_cmap("viridis")(torch.linspace(0.9, 0.1, len(stops)).numpy())
for budget, pairs, colour in zip((25, 40, 55, 70, "the end"), stops, shades, strict=True):
    label = f"after {budget}" if isinstance(budget, int) else "at the end"
    axis.semilogy(range(1, pairs.k + 1), pairs.residuals, "o-", ms=3, color=colour, label=label)
axis.axhline(float(whole.tolerance), color="0.6", lw=0.8, ls="--")
axis.set(xlabel="k", ylabel=r"residual $|S e_k - \lambda_k e_k|$")
axis.legend(title="products", loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
