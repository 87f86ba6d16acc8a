"""Images by name, and the noise that is theirs."""

import pytest
import torch

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.survey.images import Images, noise
from spectral.words import digest

SHAPE = torch.Size((1, 40, 40))


def test_noise_belongs_to_a_name_and_a_seed():
    first = noise("a.png", 0, SHAPE)
    torch.manual_seed(5)
    noise("b.png", 0, SHAPE)
    assert torch.equal(noise("a.png", 0, SHAPE), first)
    others = [noise("b.png", 0, SHAPE), noise("a.png", 1, SHAPE)]
    correlation = [float((first * other).mean()) for other in others]
    assert max(map(abs, correlation)) < 0.1  # four standard errors
    assert abs(float(first.std()) - 1) < 0.1 and abs(float(first.mean())) < 0.1


def test_values_are_read_when_they_are_needed():
    calls = []

    def load():
        calls.append(1)
        return torch.zeros(1, 4, 4)

    held = Images({"a": load, "b": torch.ones(1, 4, 4)})
    assert not calls and held.names == ["a", "b"]
    assert held.read("a").shape == (1, 4, 4) and len(calls) == 1
    assert Images([("b", torch.ones(2))]).read("b").sum() == 2


def test_a_mapping_may_read_by_itself():
    class Files(dict):
        def __getitem__(self, name):
            return torch.full((2,), float(name))

    assert Images(Files({"3": None})).read("3").tolist() == [3, 3]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {1: torch.zeros(2)},
        {"": torch.zeros(2)},
        [("a", 0), ("a", 0)],
        torch.zeros(3, 1, 8, 8),
        [torch.zeros(1, 8, 8)],
        None,
    ],
)
def test_names_are_texts_and_differ(given):
    with pytest.raises(OptionError):
        Images(given)


def test_what_is_no_image_is_refused():
    held = Images(
        {
            "whole": torch.zeros(2, dtype=torch.int64),
            "nan": torch.tensor([0.0, float("nan")]),
            "array": torch.zeros(2).numpy(),
        }
    )
    with pytest.raises(ShapeError, match="whole"):
        held.read("whole")
    with pytest.raises(ShapeError, match=r"array is no floating-point tensor with entries, but ndarray"):
        held.read("array")
    with pytest.raises(NotFiniteError, match="nan"):
        held.read("nan")


def test_digests_tell_tensors_apart():
    x = torch.arange(6.0)
    others = [x.reshape(2, 3), x.double(), x + 1e-6, x.flip(0)]
    assert len({digest(t) for t in (x, *others)}) == 5
    assert digest(x) == digest(torch.arange(12.0).reshape(6, 2)[:, 0] / 2)  # whatever its strides
