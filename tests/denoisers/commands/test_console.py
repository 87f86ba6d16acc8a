import ast
import json
import math
from pathlib import Path

import pytest

import denoisers
import spectral
from denoisers.commands.console import check_writable, print_json


def test_numbers_that_json_does_not_know_are_null(capsys):
    print_json({"a": [1.5, math.inf, (-math.inf, {"b": math.nan})], "c": None, "d": True, "e": "NaN", "f": 3})
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": None, "d": True, "e": "NaN", "f": 3}
    assert json.loads(capsys.readouterr().out) == expected


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"^the folder .*file.below cannot be written to: Not a directory$"):
        check_writable(tmp_path / "file/below")


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
