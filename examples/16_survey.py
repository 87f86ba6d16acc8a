r"""
A survey of many images
=======================

How does a spectrum vary from image to image? ``spectral.survey`` solves for every
image at every noise level, many in lock-step, and keeps a file a result: killed, or
run again with more images, it goes on from what is there; under ``torchrun`` its
processes share the work. What is told of each level are medians over images and

.. math:: \frac{(\mathrm{tr}\, S)^2}{\|S\|_F^2}, \qquad S = (J + J^T) / 2,

an effective rank: among how many directions the trace is shared.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import denoisers
import spectral
from denoisers.images import photograph

picture = torch.from_numpy(photograph())[0]
corners = [(top, left) for top in (20, 180, 340) for left in (20, 180, 340)]
crops = {
    f"{top}, {left}": picture[:, top : top + 32, left : left + 32] for top, left in corners
}

with tempfile.TemporaryDirectory() as folder:
    found = spectral.survey(
        denoisers.load("photos"),
        crops,
        [0.05, 0.1, 0.2],
        k=6,
        out=Path(folder) / "survey",
        tol=1e-3,
    )
    print(found)
    found.plot("photos")

# %%
# Image by image: of the noise on a flat sky few directions are left, of that on edges
# several times as many.

fig, axes = plt.subplots(3, 3, figsize=(5.4, 6))
for axis, crop, ranks in zip(axes.flat, crops.values(), found.effective_ranks, strict=True):
    axis.imshow(crop[0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(" ".join(f"{rank:.0f}" for rank in ranks), fontsize=9)
    axis.set_axis_off()
fig.suptitle(r"effective rank at $\sigma$ = 0.05, 0.1, 0.2", fontsize=10)
plt.show()
