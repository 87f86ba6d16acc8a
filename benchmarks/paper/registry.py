"""The figures by name, in the paper's order, and those that are not made."""

from benchmarks.paper.consistency import CONSISTENCY
from benchmarks.paper.contours import APART, SLOPES
from benchmarks.paper.disks import DISKS
from benchmarks.paper.figure import PaperFigure
from benchmarks.paper.generalization import GENERALIZATION
from benchmarks.paper.perturbed import PERTURBED
from benchmarks.paper.photograph import PHOTOGRAPH
from benchmarks.paper.ray import RAY
from benchmarks.paper.shuffled import SHUFFLED
from benchmarks.paper.similarity import SIMILARITY
from benchmarks.paper.sines import SINES
from benchmarks.paper.trajectories import TRAJECTORIES

_ALL: tuple[PaperFigure, ...] = (
    GENERALIZATION,
    SIMILARITY,
    PHOTOGRAPH,
    SLOPES,
    DISKS,
    TRAJECTORIES,
    APART,
    RAY,
    SINES,
    SHUFFLED,
    CONSISTENCY,
    PERTURBED,
)

FIGURES = {figure.name: figure for figure in _ALL}

MISSING = {
    "figure 15, Table 1": "the train-test gap against N for 20 to 160 pixels, by networks of 1 to 4 blocks",
}
