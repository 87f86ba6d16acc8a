"""The figures by name, in the paper's order, and all networks of a scale."""

from benchmarks.paper import generalization, shuffled, similarity
from benchmarks.paper.consistency import CONSISTENCY
from benchmarks.paper.contours import APART, SLOPES
from benchmarks.paper.disks import DISKS
from benchmarks.paper.figure import PaperFigure
from benchmarks.paper.generalization import GENERALIZATION
from benchmarks.paper.need import Need, chain
from benchmarks.paper.networks import Scale
from benchmarks.paper.perturbed import PERTURBED
from benchmarks.paper.photograph import PHOTOGRAPH
from benchmarks.paper.ray import RAY
from benchmarks.paper.shuffled import SHUFFLED
from benchmarks.paper.similarity import SIMILARITY
from benchmarks.paper.sines import SINES
from benchmarks.paper.sizes import SIZES
from benchmarks.paper.subject import Pictures
from benchmarks.paper.trajectories import TRAJECTORIES

_ALL: tuple[PaperFigure, ...] = (
    GENERALIZATION,
    SIMILARITY,
    PHOTOGRAPH,
    SLOPES,
    DISKS,
    TRAJECTORIES,
    SIZES,
    APART,
    RAY,
    SINES,
    SHUFFLED,
    CONSISTENCY,
    PERTURBED,
)

OF_PICTURES = (generalization, similarity, shuffled)

FIGURES = {figure.name: figure for figure in _ALL}


def on_pictures(pictures: Pictures) -> dict[str, PaperFigure]:
    """Those that can be made of pictures, by name."""
    return {figure.name: figure for figure in (module.of(pictures) for module in OF_PICTURES)}


def needs(scale: Scale) -> list[Need]:
    """The networks of all figures at a scale, each once, after the one that it starts from."""
    return chain([need for figure in FIGURES.values() for need in figure.needs(scale)])
