import json
import math

from denoisers.commands.console import print_json


def test_numbers_that_json_does_not_know_are_null(capsys):
    print_json({"a": [1.5, math.inf, (-math.inf, {"b": math.nan})], "c": None, "d": True, "e": "NaN", "f": 3})
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": None, "d": True, "e": "NaN", "f": 3}
    assert json.loads(capsys.readouterr().out) == expected
