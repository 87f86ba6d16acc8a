"""SURE against the true error and an independent reference; posterior components on held-out images."""

from __future__ import annotations

import torch
from torch import Tensor

import denoisers
from benchmarks.estimators.common import PAGE, SIGMA, percent, photograph, publish
from benchmarks.page import table
from denoisers.images import calpha
from spectral.estimators.probes import sampler
from spectral.jacobians import jacobian
from spectral.plots import estimates as figures
from spectral.risk import posterior, risk_curve, sure

SIGMAS = [0.03, 0.06, 0.12, 0.25, 0.5]


def unseen(count: int, side: int) -> Tensor:
    """C^alpha images of a seed that no training uses, alpha = 2."""
    return torch.as_tensor(calpha.synthesize(count, size=side, alpha=2.0, seed=987_654))


def reference(probes: int = 20) -> list[str]:
    """SURE and its divergence beside torch.autograd alone on the same Rademacher probes, float64.

    div = mean of z' J' z, each by one backward pass.  Promised: equal to 1e-9.
    """
    model, y, _ = photograph(slice(200, 264), slice(200, 264))
    model, y = model.double(), y.double()
    found = sure(model, y, SIGMA, method="hutchinson", products=probes, seed=6)
    Z = sampler(jacobian(model, y), seed=7)(probes)
    y.requires_grad_()
    forms = [(torch.autograd.grad(model(y), y, z.reshape(y.shape))[0].flatten() @ z).item() for z in Z]
    divergence, d = sum(forms) / probes, y.numel()
    residual = (y - model(y)).square().sum().item()
    value = (residual + 2 * SIGMA**2 * divergence) / d - SIGMA**2
    rows, missed = [], []
    for name, mine, theirs in (
        ("divergence", float(found.divergence), divergence),
        ("SURE", float(found), value),
    ):
        apart = abs(mine - theirs) / abs(theirs)
        rows.append([name, f"{mine:.12g}", f"{theirs:.12g}", f"{apart:.0e}"])
        if apart > 1e-9:
            missed.append(f"{name}: {apart:.1e} from the reference")
    head = [f"photos, 64x64, {probes} probes", "this package", "torch.autograd", "relative difference"]
    publish("reference", table(head, rows))
    return missed


def curve() -> list[str]:
    """The shipped network over noise levels, 64 images it has not seen.

    Promised: at every level the mean of SURE within its interval of the mean squared error.
    """
    found = risk_curve(denoisers.load("calpha"), unseen(64, 80), SIGMAS, seed=1)
    figures.risk(found, "calpha, 64 images of 80x80").savefig(PAGE.parent / "risk.png")
    mse, estimated, bayes = (getattr(found, name).mean(-1) for name in ("mse", "sure", "bayes"))
    gap = found.gap("sure")
    low, high = (torch.as_tensor(bound) for bound in gap.interval())
    value, half = torch.as_tensor(gap.value), torch.as_tensor(gap.halfwidth())
    rows = [
        [
            f"{sigma:g}", f"{mse[i]:.3e}", f"{estimated[i]:.3e}",
            f"{value[i]:+.1e} +- {half[i]:.1e}", percent(found.covered()[i].item()),
            f"{bayes[i]:.3e}",
        ]
        for i, sigma in enumerate(SIGMAS)
    ]  # fmt: skip
    head = ["sigma", "true", "SURE", "SURE - true (95 %)", "one image's interval covers", "sigma^2 tr J / d"]
    note = f"{found.products / len(SIGMAS):.0f} products an image and level.\n\n"
    publish("risk", note + table(head, rows))
    return [f"sigma {s:g}: bias" for s, a, b in zip(SIGMAS, low, high, strict=True) if not a <= 0 <= b]


def components(count: int = 16, side: int = 40, sigma: float = 0.12) -> list[str]:
    """Whether posterior components hold the truth on held-out images.

    Nothing is promised: it is the network that is judged.
    """
    clean = unseen(count, side)
    y = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    found = posterior(denoisers.load("calpha"), y, sigma, 3, tol=1e-2, batched=True, products=10)
    scores = found.scores(clean)
    rows = []
    for level in (0.5, 0.8, 0.95):
        share = found.coverage(clean, level)
        rows.append([percent(level), f"{percent(float(share))} +- {percent(float(share.halfwidth()))}"])
    asymmetry = torch.as_tensor(found.pairs.asymmetry.value).mean()  # type: ignore[union-attr]
    note = (
        "Where f is the posterior mean, scores <x - f(y), e_k> / (sigma sqrt(lambda_k)) have variance one. "
        f"`calpha` on {count} held-out images of {side}x{side}, sigma = {sigma:g}, 3 components each: root "
        f"mean square {scores.square().mean().sqrt():.2f}, asymmetry {asymmetry:.2f} on average.\n\n"
    )
    publish("posterior", note + table(["interval", "scores inside (95 %)"], rows))
    return []
