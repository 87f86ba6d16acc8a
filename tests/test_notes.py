"""What every front door tells of the model that it was asked about."""

import pytest
import torch
from torch import nn

import spectral

SIGMAS = [0.1, 0.2, 0.3]
DOORS = {
    "top_eigs": lambda m, y: spectral.top_eigs(m, y, 2),
    "top_svd": lambda m, y: spectral.top_svd(m, y, 2),
    "top_eigs_full": lambda m, y: spectral.top_eigs_full(m, y, 2),
    "trace": spectral.trace,
    "diagonal": spectral.diagonal,
    "frobenius_norm": spectral.frobenius_norm,
    "asymmetry": spectral.asymmetry,
    "effective_rank": spectral.effective_rank,
    "schatten_norm": lambda m, y: spectral.schatten_norm(m, y=y, p=1.0),
    "spectral_density": spectral.spectral_density,
    "sure": lambda m, y: spectral.sure(m, y, 0.1),
    "posterior": lambda m, y: spectral.posterior(m, y, 0.1, 2).pairs,
    "risk_curve": lambda m, y: spectral.risk_curve(m, y, SIGMAS),
    "kl_bound": lambda m, y: spectral.kl_bound(m, lambda y: y / 2, torch.cat([y, 1 - y]), SIGMAS),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("made", [False, True])
def test_a_model_in_training_mode_is_told(door, made):
    """Once, where it matters, in the result and what it prints; of a Jacobian that was made before, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3, padding=1))
    y = torch.rand(1, 1, 8, 8)
    if made and door in ("sure", "posterior", "risk_curve", "kl_bound"):
        pytest.skip("asked of a model alone")
    for training in (True, False):
        model.train(training)
        subject = (spectral.jacobian(model, y), None) if made else (model, y)
        result = DOORS[door](*subject)
        told = [note for note in result.notes if "was in training mode" in note]
        assert bool(told) == training and len(set(told)) == len(told)
        assert ("was in training mode" in repr(result)) == training
        assert model.training == training
