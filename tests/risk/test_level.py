import functools

import pytest
import torch
from torch import nn

from spectral.errors import OptionError
from spectral.risk import kl_bound, posterior, risk_curve, sigma_by_residual, sure
from spectral.risk.level import takes_sigma

y = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PRIOR = 0.1
LEVELS = [0.1, 0.2, 0.3]


def shrunk(image, level):
    level = torch.as_tensor(level, dtype=image.dtype).reshape(-1, 1, 1, 1)
    return PRIOR / (PRIOR + level**2) * image


def function(image, sigma=0.05):
    return shrunk(image, sigma)


class Network(nn.Module):
    def forward(self, image, sigma=0.05):
        return shrunk(image, sigma)


CONDITIONED = {
    "function": function,
    "module": Network().eval(),
    "bound method": Network().eval().forward,
    "partial": functools.partial(function),
    "partial module": functools.partial(Network().eval()),
    "keyword-only": lambda image, *, sigma=0.05: shrunk(image, sigma),
}
DOORS = {
    "sure": lambda model, **more: sure(model, y, 0.2, batched=True, method="exact", **more).value,
    "finite difference": lambda model, **more: (
        sure(model, y, 0.2, batched=True, method="finite-difference", products=64, **more).value
    ),
    "posterior": lambda model, **more: posterior(model, y, 0.2, 2, batched=True, **more).deviations,
    "risk_curve": lambda model, **more: risk_curve(model, y, [0.2], products=64, **more).bayes,
    "kl_bound": lambda model, **more: kl_bound(model, model, y, LEVELS, **more).gaps,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
@pytest.mark.parametrize("model", CONDITIONED.values(), ids=list(CONDITIONED))
def test_a_model_with_a_level_is_told_it_or_refused(door, model):
    with pytest.raises(OptionError, match='pass sigma_keyword="sigma"'):
        door(model)
    at = {level: door(functools.partial(function, sigma=level)) for level in (0.2, 0.3)}
    torch.testing.assert_close(door(model, model_kwargs={"sigma": 0.3}), at[0.3])
    if door is not DOORS["kl_bound"]:  # whose levels are several
        torch.testing.assert_close(door(model, sigma_keyword="sigma"), at[0.2])
        assert not torch.allclose(at[0.2], at[0.3])


@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
def test_a_level_told_twice_is_refused(door):
    with pytest.raises(OptionError, match="both set 'sigma'"):
        door(function, sigma_keyword="sigma", model_kwargs={"sigma": 0.3})


@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
def test_other_names(door):
    torch.testing.assert_close(
        door(lambda image, noise_level=0.05: shrunk(image, noise_level), sigma_keyword="noise_level"),
        door(function, sigma_keyword="sigma"),
    )
    # A second parameter sigma is the user's affair, once the level is told.
    door(
        lambda image, noise_level, sigma=1.0: sigma * shrunk(image, noise_level), sigma_keyword="noise_level"
    )


def test_kl_bound_tells_both_each_level():
    seen = []

    def model(image, sigma):
        seen.append(sigma)
        return shrunk(image, sigma)

    kl_bound(model, model, y, LEVELS, sigma_keyword="sigma")
    assert seen == [level for level in LEVELS for _ in range(2)]


def test_levels_image_by_image():
    levels = torch.tensor(LEVELS)
    together = sure(function, y, levels, batched=True, method="exact", sigma_keyword="sigma")
    for i, level in enumerate(LEVELS):
        alone = sure(function, y[i : i + 1], level, method="exact", sigma_keyword="sigma")
        assert together.value[i].item() == pytest.approx(alone.value, rel=1e-6)


def test_a_level_found_by_a_rule_is_told():
    found = sure(function, y[:1], "median", method="exact", sigma_keyword="sigma")
    again = sure(function, y[:1], found.sigma, method="exact", sigma_keyword="sigma")
    assert found.value == pytest.approx(again.value, rel=1e-12)
    with pytest.raises(OptionError, match="blind denoiser"):
        sure(function, y[:1], "residual", sigma_keyword="sigma")
    for call in (sigma_by_residual, lambda *a, **more: sure(*a, "residual", **more)):
        with pytest.raises(OptionError, match="not told it"):
            call(function, y[:1])
        call(function, y[:1], model_kwargs={"sigma": 0.3})


def test_whose_parameter_is_sigma():
    assert not takes_sigma(lambda image: image)
    assert not takes_sigma(lambda sigma: sigma)  # the image itself, whatever its name
    assert not takes_sigma(functools.partial(function, sigma=0.3))
    assert not takes_sigma(functools.partial(Network(), sigma=0.3))
    assert not takes_sigma(nn.Identity())
    assert not takes_sigma(torch.sin)
    assert not takes_sigma(lambda image, **anything: image)
    assert takes_sigma(functools.partial(lambda label, image, sigma=1: image, 3))
