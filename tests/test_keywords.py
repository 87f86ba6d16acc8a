"""The front doors' keywords: what is an option is no model's, and a model's may have any name."""

import inspect

import pytest
import torch

import spectral
from spectral.errors import OptionError
from spectral.estimators.results import Estimate
from spectral.jacobians.subject import operator_of
from spectral.risk.blackbox import FiniteDifference

y = torch.rand(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GAINS = torch.linspace(0.1, 0.7, 6, dtype=torch.float64)

# Every function that calls a model, with what it takes beside the model and y.
DOORS = {
    spectral.jacobian: (),
    spectral.sharded: (),
    spectral.top_eigs: (2,),
    spectral.top_eigs_full: (2,),
    spectral.top_svd: (2,),
    spectral.trace: (),
    spectral.diagonal: (),
    spectral.frobenius_norm: (),
    spectral.schatten_norm: (),
    spectral.asymmetry: (),
    spectral.effective_rank: (),
    spectral.spectral_density: (),
    spectral.sigma_by_residual: (),
    spectral.sure: (0.1,),
    spectral.posterior: (0.1, 2),
    operator_of: (),
    FiniteDifference: (0.1,),
}
LEVELS = {spectral.risk_curve: (y, [0.1]), spectral.kl_bound: (lambda v: v, y, [0.1, 0.2, 0.3])}
NAMES = ("start", "seed", "sigma", "k", "y", "method", "left", "block", "model", "tol", "batched")


def named(name):
    """y -> gain * y + 0.1 * y^2, the gain under a name of choice and zero unless it is given."""
    scope = {}
    exec(f"def model(image, {name}=0.0): return ({name} * image + 0.1 * image.square())", scope)
    return scope["model"]


def figures(result):
    """The numbers in a result, whatever it is."""
    if isinstance(result, (spectral.LinearOperator, FiniteDifference)):
        return result.apply(torch.eye(result.shape[1], dtype=torch.float64))
    if isinstance(result, spectral.Density):
        return result.total(lambda t: t).value
    if isinstance(result, spectral.PosteriorComponents):
        return result.deviations
    return torch.as_tensor(result.value if isinstance(result, Estimate) else result.values)


def test_every_front_door_is_here():
    doors = {spectral.top_eigs, spectral.jacobian} | {
        f
        for f in map(vars(spectral).get, spectral.__all__)
        if inspect.isfunction(f) and {"model", "model_or_operator"} & set(inspect.signature(f).parameters)
    }
    # The last writes to a folder: tests/survey.
    assert doors <= set(DOORS) | set(LEVELS) | {spectral.survey}


@pytest.mark.parametrize("door", [*DOORS, *LEVELS], ids=lambda f: f.__name__)
def test_a_misspelt_option_is_an_error(door):
    more = DOORS.get(door) or LEVELS.get(door) or ()
    first = (lambda v, **anything: v / 2,) if door in LEVELS else (lambda v, **anything: v / 2, y)
    with pytest.raises(TypeError, match="toll"):
        door(*first, *more, toll=1e-9)


@pytest.mark.parametrize("door", DOORS, ids=lambda f: f.__name__)
def test_a_models_keywords_have_any_name(door):
    # GAINS reach the model only through model_kwargs; without them the result is another one.
    expected = figures(door(lambda image: GAINS * image + 0.1 * image.square(), y, *DOORS[door]))
    for name in NAMES:
        found = door(named(name), y, *DOORS[door], model_kwargs={name: GAINS})
        torch.testing.assert_close(figures(found), expected)


@pytest.mark.parametrize("door", [*DOORS, *LEVELS], ids=lambda f: f.__name__)
@pytest.mark.parametrize("given", [3, "label", [("label", 1)], {1: 2}], ids=repr)
def test_model_kwargs_that_are_no_mapping_are_refused(door, given):
    first = (lambda v: v / 2,) if door in LEVELS else (lambda v: v / 2, y)
    with pytest.raises(OptionError, match="model_kwargs maps the names"):
        door(*first, *(DOORS | LEVELS)[door], model_kwargs=given)


def test_model_kwargs_without_a_model_are_refused():
    doors = [f for f in DOORS if "model_or_operator" in inspect.signature(f).parameters]
    assert len(doors) == 10
    for door in doors:
        with pytest.raises(OptionError, match="model_kwargs goes with a model"):
            door(torch.eye(4), model_kwargs={"sigma": 1})


def test_operators_hold_their_own_keywords():
    keywords = {"gain": GAINS}
    J = spectral.jacobian(named("gain"), y, method="jvp", model_kwargs=keywords)
    before = J.apply(torch.ones(1, 12, dtype=torch.float64))
    keywords["gain"] = 2 * GAINS
    torch.testing.assert_close(J.apply(torch.ones(1, 12, dtype=torch.float64)), before)
