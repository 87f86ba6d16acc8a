"""The spectra of a model at many images and noise levels, in a folder that processes share and resume."""

from spectral.survey.run import survey
from spectral.survey.table import Failure, Level, Row, Survey

__all__ = ["Failure", "Level", "Row", "Survey", "survey"]
