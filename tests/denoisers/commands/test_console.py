import json
import math

import pytest

from denoisers.commands.console import check_writable, print_json


def test_numbers_that_json_does_not_know_are_null(capsys):
    print_json({"a": [1.5, math.inf, (-math.inf, {"b": math.nan})], "c": None, "d": True, "e": "NaN", "f": 3})
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": None, "d": True, "e": "NaN", "f": 3}
    assert json.loads(capsys.readouterr().out) == expected


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"^the folder .*file.below cannot be written to: Not a directory$"):
        check_writable(tmp_path / "file/below")
