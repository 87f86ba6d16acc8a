"""Every block of README and docs runs as it stands, the pages' blocks after README's, in one session."""

import re
import shlex
from pathlib import Path

import matplotlib as mpl
import pytest
from typer.testing import CliRunner

from denoisers.commands import networks, spectra
from spectral.estimators.trace import METHODS
from spectral.jacobians.program.rules import RULES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
APPS = {"spectral": spectra.app, "denoisers": networks.app}


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """Indented lines that call the two commands; what installs, or takes an hour, is called otherwise."""
    lines = re.findall(r"^    (?:spectral|denoisers) .*", page.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def tables():
    """What docs/extending.md adds to is afterwards as before."""
    before = [(table, dict(table)) for table in (METHODS, RULES)]
    yield
    for table, kept in before:
        table.clear()
        table.update(kept)


def test_blocks_of_python(tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    session, run = {}, 0
    for page in PAGES:
        for block in blocks(page):
            exec(compile(block, str(page), "exec"), session)
            run += 1
    assert run >= 4
    assert session["pairs"].converged.all() and Path("pairs.safetensors").is_file()


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) >= 9
    for program, *arguments in found:
        result = CliRunner().invoke(APPS[program], arguments)
        assert result.exit_code == 0, (program, arguments, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link
