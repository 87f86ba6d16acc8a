"""The table says what the results do, and is read back from whatever is there."""

import csv
import math
import os
import subprocess
import sys

import pytest
import torch

import spectral
from spectral import storage
from spectral.errors import FileContentError, OptionError
from spectral.survey.table import quartiles
from tests.helpers.ranks import ROOT
from tests.helpers.small_survey import SIGMAS, network, picture, pictures


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("survey")
    return spectral.survey(network(), pictures(5, broken=2), SIGMAS, 4, out=out, batch=5)


def test_csv(found):
    with (found.folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    for line, row in zip(rows, found.rows, strict=False):
        pairs = spectral.EigenPairs.load(found.folder / line["file"])
        assert [float(line[f"lambda_{i}"]) for i in range(1, 5)] == pairs.values.tolist() == row.values
        assert (line["image"], float(line["sigma"])) == (row.image, row.sigma)
        assert float(line["bound"]) == pairs.completeness.bound and line["complete"] == str(
            bool(pairs.complete)
        )
        assert float(line["asymmetry"]) == pytest.approx(pairs.asymmetry.value)
        assert float(line["residual"]) == float(pairs.residuals.max() / pairs.values.max())
        assert int(line["products"]) == pairs.products + 10 and float(line["seconds"]) > 0
    assert rows[-1]["image"] == "002" and "truncated" in rows[-1]["error"] and not rows[-1]["lambda_1"]


def test_read_back(found, tmp_path):
    again = spectral.Survey.load(found.folder)
    assert again.rows == found.rows and again.failures == found.failures and again.request == found.request
    assert torch.equal(again.values, found.values) and again.images == ["000", "001", "003", "004"]
    assert "4 eigenvalues of 4 images at 2 noise levels" in repr(again) and "failed       002" in repr(again)
    with pytest.raises(FileContentError, match="no survey in"):
        spectral.Survey.load(found.folder / "sigma-0.1")
    (tmp_path / "survey.json").write_text('{"part": "symmetric"}')
    with pytest.raises(FileContentError, match="no survey's request"):
        spectral.Survey.load(tmp_path)
    (tmp_path / "survey.json").write_text('{"part": ["svd"], "k": 3}')
    with pytest.raises(FileContentError, match="no survey's request"):
        spectral.Survey.load(tmp_path)


def test_images_come_in_the_order_given(tmp_path):
    given = {name: picture(i) for i, name in enumerate(["b", "10", "9"])}
    found = spectral.survey(network(), given, [0.1], 2, out=tmp_path)
    assert found.images == list(given)
    values = torch.cat([found.spectrum(name, 0.1).values[None] for name in given])
    assert torch.equal(found.values[:, 0], values)
    assert spectral.Survey.load(tmp_path).images == sorted(given)


def test_rows_are_read_from_headers_alone(found, tmp_path):
    source = found.folder / found.rows[0].file
    path = tmp_path / source.name
    data = bytearray(source.read_bytes())
    data[-1] ^= 1  # a tensor's last bit: whole files are checked, headers are not
    path.write_bytes(data)
    assert storage.about_of(path, "EigenPairs") == storage.about_of(source, "EigenPairs")
    with pytest.raises(FileContentError, match="damaged"):
        spectral.EigenPairs.load(path)
    path.write_bytes(data[:-1])
    with pytest.raises(FileContentError, match="damaged"):
        storage.about_of(path, "EigenPairs")
    with pytest.raises(FileContentError, match="holds EigenPairs"):
        storage.about_of(source, "SingularTriplets")
    with pytest.raises(FileContentError):
        storage.about_of(tmp_path / "none", "EigenPairs")


def test_what_is_damaged_is_listed_and_the_rest_is_told(tmp_path):
    """Also of images and noise levels that are not asked for again."""
    spectral.survey(network(), pictures(3), [0.1], 2, out=tmp_path)
    first, second, third = sorted((tmp_path / "sigma-0.1").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    spectral.EigenPairs.load(third).save(second)  # a result, and of no survey
    (tmp_path / "failed" / "x%2Fy.json").write_text('{"image": 3}')
    found = spectral.survey(network(), {"002": picture(2)}, [0.1, 0.2], 2, out=tmp_path)
    assert [(row.image, row.sigma) for row in found.rows] == [("002", 0.1), ("002", 0.2)]
    assert [(f.image, f.sigma) for f in found.failures] == [("000", 0.1), ("001", 0.1)]
    assert "damaged" in found.failures[0].error and "says nothing" in found.failures[1].error
    assert not found.converged and "000" in (tmp_path / "table.csv").read_text()
    (tmp_path / "failed" / "x%2Fy.json").write_text('{"image": 3}')
    assert spectral.Survey.load(tmp_path).failures[0].image == "x/y"
    mended = spectral.survey(network(), pictures(3), [0.1], 2, out=tmp_path)
    assert len(mended.rows) == 4 and mended.converged


def test_the_table_is_utf_8_wherever_it_is_written(tmp_path):
    spectral.survey(network(), {"été ☀": picture(0)}, [0.1], 2, out=tmp_path)
    held = (tmp_path / "table.csv").read_bytes()
    (tmp_path / "table.csv").unlink()
    code = f"import spectral; spectral.Survey.load({str(tmp_path)!r}).write_table()"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | plain, cwd=ROOT, check=True, timeout=120)
    assert (tmp_path / "table.csv").read_bytes() == held and "été ☀".encode() in held


def test_levels(found):
    for j, level in enumerate(found.levels()):
        values = found.values[:, j]
        assert torch.equal(level.values[1], torch.quantile(values, 0.5, 0)) and level.images == 4
        assert level.values[0, 0] == torch.quantile(values[:, 0], 0.25)
        assert level.complete == level.converged == 4 and level.residual <= 1e-4
    assert torch.isnan(quartiles(torch.full((3,), math.nan, dtype=torch.float64))).all()


def test_figure(found, tmp_path):
    figure = found.plot("tiny")
    by_index, by_level, ranks = figure.axes
    assert [line.get_label() for line in by_index.lines] == ["$\\sigma$ = 0.1", "$\\sigma$ = 0.2"]
    for line, level in zip(by_index.lines, found.levels(), strict=True):
        assert line.get_ydata().tolist() == level.values[1].tolist()
    assert len(by_level.lines) == 4 and by_level.lines[0].get_xdata().tolist() == [0.1, 0.2]
    assert ranks.lines[0].get_ydata().tolist() == [float(level.effective_rank[1]) for level in found.levels()]
    figure.savefig(tmp_path / "figure.png")
    one = spectral.survey(network(), {"a": picture(0)}, [0.1], 1, out=tmp_path / "one", rank_products=0)
    assert len(one.plot().axes) == 1
    empty = spectral.survey(network(), pictures(1, broken=0), [0.1], 1, out=tmp_path / "none")
    with pytest.raises(OptionError, match="no results"):
        empty.plot()


def test_an_image_of_a_batch(found):
    x = torch.stack([picture(0), picture(1)])
    both = spectral.top_eigs(network(), x, 3, batched=True)
    one = both.image(1)
    assert torch.equal(one.values, both.values[1]) and one.vectors.shape == (3, 1, 12, 12)
    assert isinstance(one.asymmetry.value, float) and one.completeness.bound == both.completeness.bound[1]
