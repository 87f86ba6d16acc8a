import tomllib
from pathlib import Path

from setuptools.config.pyprojecttoml import read_configuration

import denoisers
import spectral

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_one_version():
    assert spectral.__version__ == denoisers.__version__
    assert "version" not in tomllib.loads(PROJECT.read_text())["project"]
    assert read_configuration(PROJECT)["project"]["version"] == spectral.__version__
