"""What makes two requests one, and what keeps them apart."""

import functools

import pytest
import torch
from torch import nn

import spectral
from spectral.errors import CheckpointError, FileContentError, OptionError
from spectral.solvers import Lanczos
from spectral.survey.folder import Folder
from spectral.survey.request import checked, fingerprint, in_words, keep
from tests.helpers.small_survey import network, picture


def words(model=None, k=4, seed=0, part="symmetric", **options):
    return in_words(model or network(), part, k, seed, checked(part, k, seed, options), model_kwargs=None)


def test_defaults_are_the_same_as_what_they_stand_for():
    assert words() == words(tol=1e-4, method="auto", which="largest")


def test_another_request_is_named(tmp_path):
    folder = Folder(tmp_path / "new")
    keep(folder, words())
    keep(folder, words())
    for other, text in (
        (words(k=5), r"with k = 4, and this one has k = 5.*give another folder"),
        (words(tol=1e-3), r"tol = 0.0001, and this one has tol = 0.001"),
        (words(seed=1), "seed = 0"),
        (words(part="svd"), "part = symmetric"),
        (words(method=Lanczos(block=2)), r"method = auto.*method = Lanczos\(block=2"),
        (words(mask=torch.ones(3)), "mask = None.*mask = tensor "),
        (words(network(1)), "another model, or of other weights"),
        (words(network(1), k=5), "k = 5"),
    ):
        with pytest.raises(CheckpointError, match=text):
            keep(folder, other)
    folder.request.write_text("{")
    with pytest.raises(FileContentError, match="damaged"):
        keep(folder, words())


def test_fingerprints():
    """Weights, buffers and settings tell; place in memory and training flags do not."""
    norm = nn.BatchNorm2d(1).eval()
    models = [network(), network(1), nn.Conv2d(1, 1, 3), norm, nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)]
    models += [functools.partial(network(2)), torch.sin, torch.cos]
    before = [fingerprint(model) for model in models]
    assert len(set(before)) == len(models)
    assert fingerprint(network()) == before[0]
    norm.running_mean += 1
    assert fingerprint(norm) != before[3]


@pytest.mark.parametrize(
    "options", [{"tol": -1}, {"method": "fast"}, {"max_products": "few"}, {"confidence": 2}, {"which": "odd"}]
)
def test_bad_options_are_told_before_images_are_read(options):
    with pytest.raises(OptionError):
        checked("symmetric", 4, 0, options)


def test_options_that_no_survey_has():
    for part, name in (
        ("symmetric", "above"),
        ("symmetric", "colour"),
        ("svd", "which"),
        ("svd", "precision"),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            checked(part, 4, 0, {name: 1})
    with pytest.raises(OptionError, match="part is one of symmetric, svd"):
        checked("full", 4, 0, {})


def test_a_module_is_known_by_its_attributes_too(tmp_path):
    """A skip's scale, a number of steps: what changes the function changes the survey."""

    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.scale = nn.Conv2d(1, 1, 3, padding=1), [scale]

        def forward(self, x):
            return self.scale[0] * self.conv(x)

    spectral.survey(Scaled(1.0), {"a": picture(0)}, [0.1], 2, out=tmp_path)
    spectral.survey(Scaled(1.0), {"a": picture(0)}, [0.1], 2, out=tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        spectral.survey(Scaled(5.0), {"a": picture(0), "b": picture(1)}, [0.1], 2, out=tmp_path)


def test_of_two_first_requests_one_is_kept(tmp_path):
    """Whatever another process has written between the look and the write."""
    folder = Folder(tmp_path)
    folder.write(folder.request, {"k": 2}, first=True)
    folder.write(folder.request, {"k": 3}, first=True)
    assert folder.read(folder.request) == {"k": 2}
