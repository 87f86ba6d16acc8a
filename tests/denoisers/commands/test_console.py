import ast
import json
import math
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

import denoisers
import spectral
from denoisers.commands.console import check_writable, in_flags, name_flags, print_json
from denoisers.commands.networks import app


def test_numbers_that_json_does_not_know_are_null(capsys):
    print_json({"a": [1.5, math.inf, (-math.inf, {"b": math.nan})], "c": None, "d": True, "e": "NaN", "f": 3})
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": None, "d": True, "e": "NaN", "f": 3}
    assert json.loads(capsys.readouterr().out) == expected


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"^the folder .*file.below cannot be written to: Not a directory$"):
        check_writable(tmp_path / "file/below")


@pytest.mark.parametrize(
    "text, told",
    [
        ("overwrite=True trains anew, resume=False", "--overwrite trains anew, no --resume"),
        ("shuffled=False, not True; frozen=True", "--no-shuffled, not True; --frozen"),
        (
            "objective='denoise', start='', cache= and seed=3",
            "--objective denoise, --start '', --cache and --seed 3",
        ),
        ("sigma_max above sigma_min", "--sigma-max above --sigma-min"),
        (
            "network_config={'blocks': 2, 'sigma_min': 0.1}, not None",
            "network_config={'blocks': 2, 'sigma_min': 0.1}, not None",
        ),
        ('EDM {"sigma_max": 1}: no sigma_data, no steps', 'EDM {"sigma_max": 1}: no sigma_data, no steps'),
        (
            "no file 'sigma_min', data_seed.png or a/data_seed",
            "no file 'sigma_min', data_seed.png or a/data_seed",
        ),
        ("steps must be >= 1, got 0", "--steps must be >= 1, got 0"),
        ("network_config=None", "network_config=None"),
    ],
)
def test_keywords_are_told_as_flags_of_the_command(text, told):
    context = SimpleNamespace(command=typer.main.get_command(app), invoked_subcommand="train")
    apart = copy_context()
    apart.run(name_flags, context)
    assert apart.run(in_flags, text) == told


def test_the_library_speaks_of_keywords_and_leaves_flags_to_the_command_line():
    files = [f for package in (spectral, denoisers) for f in Path(package.__file__).parent.rglob("*.py")]
    told = [
        part.value
        for file in files
        if file.parent.name != "commands"
        for raised in ast.walk(ast.parse(file.read_text()))
        if isinstance(raised, ast.Raise)
        for part in ast.walk(raised)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert len(told) > 500 and not [text for text in told if "--" in text]
