"""A survey finds what single solves find, once, whatever stops it and whatever its images are."""

from functools import partial

import pytest
import torch

import spectral
from spectral.errors import CheckpointError, OptionError
from spectral.survey import run as run_module
from spectral.survey.claims import Claims
from spectral.survey.images import noise
from spectral.survey.solver import Solver
from tests.helpers.interrupted import interrupted
from tests.helpers.small_survey import SIGMAS, network, picture, pictures, unreadable

MODEL = network()


def survey(tmp_path, images, sigmas=SIGMAS, k=4, model=MODEL, **options):
    # Without what takes products and is tested elsewhere.
    options = {"batch": 4, "rank_products": 0, "confidence": 0} | options
    return spectral.survey(model, images, sigmas, k, out=tmp_path / "out", **options)


@pytest.fixture
def solved(monkeypatch):
    """(name, sigma) of every image that a solver was asked for, batch by batch."""
    calls = []
    solve = Solver.__call__

    def told(self, names, images, sigma, start):
        calls.append([(name, sigma) for name in names])
        return solve(self, names, images, sigma, start)

    monkeypatch.setattr(Solver, "__call__", told)
    return calls


def states(tmp_path):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*.safetensors")}


def test_values_are_those_of_the_matrix(tmp_path):
    found = survey(tmp_path, pictures(5), rank_products=100, confidence=0.99)
    for name in ("000", "004"):
        for sigma in SIGMAS:
            x = picture(int(name))
            y = x + sigma * noise(name, 0, x.shape)
            J = torch.autograd.functional.jacobian(network().double(), y.double()[None]).reshape(144, 144)
            S = (J + J.T) / 2
            truth = torch.linalg.eigvalsh(S).flip(0)[:4]
            row = next(row for row in found.rows if (row.image, row.sigma) == (name, sigma))
            assert row.values == pytest.approx(truth.tolist(), rel=1e-5)
            rank = float(S.trace() ** 2 / S.square().sum())
            assert abs(row.effective_rank - rank) < 4 * row.effective_rank_stderr < 0.4 * rank
            assert row.complete and row.converged and row.residual < 1e-4
            pairs = found.spectrum(name, sigma)
            assert pairs.vectors.shape == (4, 1, 12, 12) and float(pairs.asymmetry) == row.asymmetry
    assert found.converged and found.values.shape == (5, 2, 4)


def test_order_and_batch_change_nothing(tmp_path):
    images = pictures(3)
    first = survey(tmp_path / "a", images)
    second = survey(tmp_path / "b", list(images.items())[::-1], SIGMAS[::-1], batch=1)
    assert second.images == first.images[::-1]
    torch.testing.assert_close(first.values, second.values.flip(0), rtol=1e-5, atol=0)


def test_nothing_is_solved_twice(tmp_path, solved):
    survey(tmp_path, pictures(5))
    assert sorted(pair for batch in solved for pair in batch) == [
        (f"{i:03d}", sigma) for i in range(5) for sigma in sorted(SIGMAS)
    ]
    before = states(tmp_path)
    solved.clear()
    again = survey(tmp_path, pictures(5))
    assert not solved and states(tmp_path) == before and len(again.rows) == 10


def test_images_and_levels_can_be_added(tmp_path, solved):
    survey(tmp_path, pictures(3))
    solved.clear()
    found = survey(tmp_path, pictures(4), [*SIGMAS, 0.15])
    assert sorted(pair for batch in solved for pair in batch) == [
        ("000", 0.15),
        ("001", 0.15),
        ("002", 0.15),
        ("003", 0.1),
        ("003", 0.15),
        ("003", 0.2),
    ]
    assert len(found.rows) == 12 and found.sigmas == [0.1, 0.15, 0.2]


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    whole = survey(tmp_path / "whole", pictures(4), batch=2)
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "__call__", interrupted(Solver.__call__, 3))
        part = survey(tmp_path, pictures(4), batch=2)
    assert part.notes == ["interrupted"] and len(part.rows) == 4
    before = states(tmp_path / "out")
    found = survey(tmp_path, pictures(4), batch=2)
    assert states(tmp_path / "out").items() >= before.items() and not found.notes
    torch.testing.assert_close(found.values, whole.values, rtol=1e-5, atol=0)


def test_a_solve_that_was_interrupted_is_no_result(tmp_path, monkeypatch):
    """The front doors return what they have; here it is solved again, to its end."""
    search = spectral.solvers.search._Search
    with monkeypatch.context() as patch:
        patch.setattr(search, "_report", interrupted(search._report, 5))
        part = survey(tmp_path, pictures(2))
    assert part.notes == ["interrupted"] and not part.rows
    assert survey(tmp_path, pictures(2)).converged


def test_an_image_that_fails_is_listed_and_the_others_are_done(tmp_path, solved):
    images = pictures(5, broken=1) | {"nan": torch.full((1, 12, 12), float("nan"))}
    found = survey(tmp_path, images)
    assert [(f.image, f.sigma) for f in found.failures] == [("001", None), ("nan", None)]
    assert "truncated" in found.failures[0].error and len(found.rows) == 8 and not found.converged
    solved.clear()
    mended = survey(tmp_path, images | {"001": picture(1)})
    assert {pair[0] for batch in solved for pair in batch} == {"001"}
    assert [f.image for f in mended.failures] == ["nan"] and len(mended.rows) == 10
    without = survey(tmp_path, pictures(5))
    assert not without.failures and without.converged


class Fragile(torch.nn.Module):
    """Not finite where an image is bright."""

    def forward(self, y):
        return MODEL(y) / (y.mean((1, 2, 3), keepdim=True) < 5).to(y)


def test_an_image_whose_solve_raises_does_not_take_others_along(tmp_path, solved):
    images = pictures(4) | {"bright": 10 + picture(0)}
    found = survey(tmp_path, images, model=Fragile(), batch=5)
    assert {(f.image, f.sigma) for f in found.failures} == {("bright", 0.1), ("bright", 0.2)}
    assert "NotFiniteError" in found.failures[0].error and len(found.rows) == 8
    # At the first level all five, then by halves; those of four without it went together at the second.
    assert [len(batch) for batch in solved[:2]] == [5, 2]


def test_where_memory_runs_out_fewer_go_together(tmp_path, monkeypatch):
    solve, sizes = Solver.__call__, []

    def small(self, names, images, sigma, start):
        sizes.append(len(names))
        if len(names) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return solve(self, names, images, sigma, start)

    monkeypatch.setattr(Solver, "__call__", small)
    found = survey(tmp_path, pictures(8))
    assert found.converged and len(found.rows) == 16
    assert sizes == [4, *[2] * 8]  # and no more of four


def test_a_name_whose_picture_changed_is_told(tmp_path):
    survey(tmp_path, pictures(3))
    before = states(tmp_path)
    found = survey(tmp_path, pictures(3) | {"001": picture(7)})
    assert [f.image for f in found.failures] == ["001"] and "another image of this name" in found.failures[
        0
    ].error
    assert states(tmp_path) == before


def test_a_damaged_result_is_solved_again(tmp_path, solved):
    first = survey(tmp_path, pictures(3))
    path = tmp_path / "out" / first.rows[2].file
    path.write_bytes(path.read_bytes()[:-100])
    solved.clear()
    second = survey(tmp_path, pictures(3))
    assert solved == [[(first.rows[2].image, first.rows[2].sigma)]] and second.converged
    torch.testing.assert_close(first.values, second.values, rtol=1e-5, atol=0)


def test_a_start_that_is_damaged_is_done_without(tmp_path):
    first = survey(tmp_path, pictures(1), [0.2])
    path = tmp_path / "out" / first.rows[0].file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of a tensor
    path.write_bytes(data)
    assert survey(tmp_path, pictures(1), [0.2, 0.1]).converged


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    survey(tmp_path, pictures(1))
    left = tmp_path / "out" / "sigma-0.1" / ".000.safetensors.abcdefgh.partial"
    left.mkdir()
    survey(tmp_path, pictures(1))
    assert not left.exists()


def test_images_of_one_size_go_together(tmp_path, solved):
    images = {f"{i}": picture(i, (16, 12)[i % 2]) for i in range(6)}
    found = survey(tmp_path, images, [0.1], batch=6)
    assert sorted(map(len, solved)) == [3, 3] and len(found.rows) == 6
    assert found.spectrum("1", 0.1).vectors.shape == (4, 1, 12, 12)


def test_levels_start_from_the_one_before(tmp_path, monkeypatch):
    solve, starts = Solver.__call__, []

    def told(self, names, images, sigma, start):
        starts.append((sigma, start is not None))
        return solve(self, names, images, sigma, start)

    monkeypatch.setattr(Solver, "__call__", told)
    levels = [0.12, 0.1, 0.11]
    warm = survey(tmp_path / "warm", pictures(4), levels, batch=4)
    assert starts == [(0.12, False), (0.11, True), (0.1, True)]
    starts.clear()
    cold = survey(tmp_path / "cold", pictures(4), levels, batch=4, warm=False)
    assert not any(start for _, start in starts)
    torch.testing.assert_close(warm.values, cold.values, rtol=1e-5, atol=0)
    spent = [[level.products for level in found.levels()] for found in (warm, cold)]
    assert spent[0][2] == spent[1][2] and spent[0][0] < spent[1][0] and spent[0][1] < spent[1][1]
    starts.clear()
    survey(tmp_path / "warm", pictures(4), [*levels, 0.09], batch=4)
    assert starts == [(0.09, True)]  # from the disk


def test_parts_without_locks(tmp_path, monkeypatch):
    """Where a disk has none, each process does its own part, and their sum is all."""
    monkeypatch.setattr(Claims, "take", lambda self, name: setattr(self, "shared", False) or True)
    first = survey(tmp_path, pictures(6), [0.1], batch=2, share=(0, 2))
    assert first.images == ["000", "001", "004", "005"]
    assert survey(tmp_path, pictures(6), [0.1], batch=2, share=(1, 2)).images == [
        f"{i:03d}" for i in range(6)
    ]


def test_a_process_takes_over_what_others_have_not_begun(tmp_path):
    found = survey(tmp_path, pictures(6), [0.1], batch=2, share=(1, 3))
    assert len(found.rows) == 6 and not (tmp_path / "out" / "table.csv").exists()


def test_torchrun_tells_the_share(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run_module._share(None) == (2, 4)
    with pytest.raises(OptionError, match="rank < processes"):
        run_module._share((2, 2))
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(OptionError, match="RANK is a whole number, got 'two'"):
        run_module._share(None)
    monkeypatch.setenv("RANK", "")
    monkeypatch.delenv("WORLD_SIZE")
    assert run_module._share(None) == (0, 1)


def test_singular_triplets(tmp_path):
    found = survey(tmp_path, pictures(2), [0.1], 3, part="svd")
    x = picture(1)
    y = x + 0.1 * noise("001", 0, x.shape)
    J = torch.autograd.functional.jacobian(MODEL, y[None]).reshape(144, 144)
    assert found.rows[1].values == pytest.approx(torch.linalg.svdvals(J)[:3].tolist(), rel=1e-5)
    assert found.spectrum("001", 0.1).left.shape == (3, 1, 12, 12)


class Told(torch.nn.Module):
    """A denoiser that is told the noise level, by which it multiplies."""

    def forward(self, y, sigma=1.0):
        return sigma * MODEL(y)


def test_the_model_is_told_the_noise_level(tmp_path):
    plain = survey(tmp_path / "plain", pictures(1))
    with pytest.raises(OptionError, match="sigma_keyword"):
        survey(tmp_path / "not", pictures(1), model=Told())
    found = survey(tmp_path / "told", pictures(1), model=Told(), sigma_keyword="sigma")
    scaled = plain.values * torch.tensor(plain.sigmas)[None, :, None]
    torch.testing.assert_close(found.values, scaled, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["out", "k", "images", "tol"])
def test_a_models_keywords_have_any_name(tmp_path, name):
    scope = {"MODEL": MODEL}
    exec(f"def model(y, {name}=0.0): return {name} * MODEL(y)", scope)
    found = survey(tmp_path, pictures(1), [0.1], model=scope["model"], model_kwargs={name: 2.0})
    assert found.values.max() > 2 * 1.2  # of the model alone 1.4


def test_a_misspelt_option_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="toll"):
        survey(tmp_path, pictures(1), toll=1e-3)
    for given in (3, [("label", 1)], {1: 2}):
        with pytest.raises(OptionError, match="model_kwargs maps the names"):
            survey(tmp_path, pictures(1), model_kwargs=given)
    assert not (tmp_path / "out").exists()


def test_more_values_than_an_image_has_are_refused(tmp_path):
    for part in ("symmetric", "svd"):
        with pytest.raises(OptionError, match=r"k must be from 1 to d = 144, .*; got 1000000"):
            survey(tmp_path, pictures(2), k=10**30, part=part)
    assert not (tmp_path / "out").exists()


def test_a_table_has_columns_for_what_was_found(tmp_path):
    nothing = survey(tmp_path, {"broken": unreadable}, [0.1], k=10**30)
    assert nothing.failures and "lambda" not in (tmp_path / "out" / "table.csv").read_text()


def test_another_request_is_refused(tmp_path):
    survey(tmp_path, pictures(1))
    before = states(tmp_path)
    for other in ({"k": 3}, {"model": network(1)}, {"tol": 1e-3}, {"rank_products": 10}):
        with pytest.raises(CheckpointError):
            survey(tmp_path, pictures(1), **other)
    assert states(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        {"sigmas": []},
        {"sigmas": [0.0]},
        {"sigmas": 0.1},
        {"batch": 0},
        {"k": 0},
        {"rank_products": 2},
        {"share": (1, 1)},
        {"share": 2},
    ],
)
def test_bad_requests_are_told_before_anything_is_made(tmp_path, options):
    with pytest.raises(OptionError):
        survey(tmp_path, {"a": unreadable}, **options)
    assert not (tmp_path / "out").exists()


def test_too_many_values_for_a_small_image(tmp_path):
    found = survey(tmp_path, {"small": partial(picture, 0, 2), "large": partial(picture, 0)}, k=6)
    assert {f.image for f in found.failures} == {"small"} and len(found.rows) == 2


def test_what_others_put_into_the_folder_is_left_alone(tmp_path):
    found = survey(tmp_path, pictures(2))
    (result,) = (path for path in found._folder.results() if "000" in path.name and "0.1" in str(path))
    (tmp_path / "sigma-0.2.bak").mkdir()
    (result.parent / "._000.safetensors").write_bytes(b"a desktop's")
    assert survey(tmp_path, pictures(3)).images == ["000", "001", "002"]


def test_a_changed_bit_of_a_header_is_solved_again(tmp_path):
    found = survey(tmp_path, pictures(2))
    path = found._folder.result("000", 0.1)
    data, row = path.read_bytes(), repr(found.rows[0].values[0]).encode()
    assert row in data
    path.write_bytes(data.replace(row, row[:-1] + (b"1" if row[-1:] != b"1" else b"2")))
    again = survey(tmp_path, pictures(2))
    torch.testing.assert_close(again.values, found.values, rtol=1e-6, atol=0)
    assert again.values[0, 0, 0] == again.spectrum("000", 0.1).values[0]
