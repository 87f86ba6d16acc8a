"""The distribution: what it says of itself, what it holds, under which licence, and its help."""

import fnmatch
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from setuptools.config.pyprojecttoml import read_configuration
from typer.testing import CliRunner

import denoisers
import spectral
from benchmarks.peers.__main__ import short
from denoisers.commands import networks, spectra
from denoisers.commands.examples import EXAMPLES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
APPS = {"spectral": spectra.app, "denoisers": networks.app}
DATA = {".png", ".jpg", ".npz", ".npy", ".json", ".safetensors"}  # what has no room for a licence of its own


def test_one_version():
    assert spectral.__version__ == denoisers.__version__
    assert "version" not in PROJECT["project"]
    assert read_configuration(ROOT / "pyproject.toml")["project"]["version"] == spectral.__version__
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.M)


@pytest.mark.parametrize("command", PROJECT["project"]["scripts"])
def test_ctrl_c_while_a_command_imports_is_no_traceback(tmp_path, command):
    """A torch that is interrupted in the middle."""
    (tmp_path / "torch.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    module, function = PROJECT["project"]["scripts"][command].split(":")
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; {module}.{function}()", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("command", PROJECT["project"]["scripts"])
def test_a_command_shows_its_help(command, monkeypatch, capsys):
    module, function = PROJECT["project"]["scripts"][command].split(":")
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        getattr(importlib.import_module(module), function)()
    shown = {"spectral": "eigs", "denoisers": "sample"}[command]
    assert ended.value.code == 0 and shown in capsys.readouterr().out


def releases(name):
    """A constraints file, by package."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def floors():
    """The oldest release that pyproject.toml admits, by package, of what is needed and what tests need."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["test"]]
    return {re.match(r"[\w-]+", line)[0]: re.search(r">=([\d.]+)", line)[1] for line in wanted}


def same(a, b):
    """Whether two releases differ in zeros at most."""
    return re.sub(r"(\.0)+$", "", a) == re.sub(r"(\.0)+$", "", b)


def test_every_floor_is_what_test_oldest_installs():
    tried = releases("constraints-oldest.txt")
    missing = {name for name in floors() if name not in tried}
    assert missing <= {"nbclient", "ipykernel"}  # only tests of notebooks need them
    assert all(same(floors()[name], tried[name]) for name in tried)


def test_the_upper_bound_of_torch_is_what_test_newest_installs():
    newest = releases("constraints-newest.txt")["torch"]
    (line,) = [line for line in PROJECT["project"]["dependencies"] if line.startswith("torch")]
    major, minor = newest.split(".")[:2]
    assert line.endswith(f"<{major}.{int(minor) + 1}")
    assert f"torch 2.9 to {major}.{minor} are tried" in (ROOT / "README.md").read_text()


def test_promised_releases_are_told_once():
    told = (ROOT / "docs/dependencies.md").read_text()
    for line in PROJECT["project"]["dependencies"]:
        name, floor = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
        assert name.lower() in told.lower() and floor in told, line
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    for python in re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"])):
        assert f'"{python}"' in workflow


def test_workflows_run_targets_that_there_are():
    """But for `site`, whose target comes with the pages that it builds."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {name for line in re.findall(r"^([a-z][a-z -]*):", makefile, re.M) for name in line.split()}
    run = re.findall(r"make ([a-z-]+)|target: ([a-z-]+)", (ROOT / ".github/workflows/tests.yml").read_text())
    assert (
        {"check", "test", "test-oldest", "test-newest", "test-wheel"}
        <= {a or b for a, b in run}
        <= targets | {"site"}
    )


def test_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.M)[1].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^  .*\b{name}\b", shown, re.M) for name in phony)


def patterns():
    """Of the table of docs/licences.md."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/licences.md").read_text(), re.M)


def test_every_file_of_data_has_a_licence():
    folders = [ROOT / name for name in ("spectral", "denoisers", "docs", "benchmarks", "tests", "tools")]
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in DATA and "_build" not in path.parts and path.parent.name != "__pycache__"
    ]
    kept = [name for name in found if not fnmatch.fnmatch(name, "docs/figures/*.safetensors")]  # not tracked
    assert kept and not [name for name in kept if sum(fnmatch.fnmatch(name, p) for p in patterns()) != 1]
    assert all(any(fnmatch.fnmatch(name, p) for name in kept) for p in patterns())


def test_what_ships_is_declared():
    """A file that no pattern of pyproject.toml names would be left out in silence."""
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("spectral", "denoisers"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                name = path.relative_to(ROOT / package).as_posix()
                assert any(fnmatch.fnmatch(name, p) for p in declared[package]), path


def test_the_readme_says_what_was_measured():
    """Its table is the one that docs/peers.md holds, in short."""
    assert short() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("program", APPS)
def test_every_command_has_examples(program):
    names = typer.main.get_command(APPS[program]).commands
    assert {f"{program} {name}" for name in names} == {key for key in EXAMPLES if key.startswith(program)}
    for name, command in names.items():
        assert all(example in command.epilog for example in EXAMPLES[f"{program} {name}"])


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in EXAMPLES[command]:
        program, *arguments = shlex.split(line)
        result = CliRunner().invoke(APPS[program], arguments)
        assert result.exit_code == 0, (line, result.output)
        if "--json" in arguments:
            json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("program", "words", "completed"),
    [
        ("spectral", "spectral tr", "trace"),
        ("spectral", "spectral eigs --betw", "--between"),
        ("denoisers", "denoisers ev", "evaluate"),
    ],
)
def test_shells_complete(program, words, completed):
    asked = {
        f"_{program.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    told = CliRunner().invoke(APPS[program], [], prog_name=program, env=asked)
    assert told.exit_code == 0 and told.stdout.split() == [completed]
