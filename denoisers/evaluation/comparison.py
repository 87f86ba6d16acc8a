"""Two networks trained on disjoint sets: whether they draw the same images, or those that they have seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from denoisers.evaluation.nearest import Nearest, cosine_similarity, nearest
from denoisers.evaluation.spread import over_images, told
from denoisers.sampling import Samples, sample
from spectral.base import Result
from spectral.errors import ShapeError
from spectral.estimators import Estimate
from spectral.solvers.search import interrupted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Samples of two networks from the same noise, beside their nearest training images.

    Networks that learned the distribution draw the same: `between` near 1, `first_nearest` and
    `second_nearest` below. Networks that learned their images by heart draw those: the other way round
    (figure 2 of arXiv 2310.02557). Similarities are cosines, uncentred as in the paper unless named so.

    Attributes:
        first, second: the samples of each network.
        between, between_centred: (B,), of corresponding samples, float64.
        first_nearest, second_nearest: for each sample the nearest image of its own network's training set.
        first_nearest_centred, second_nearest_centred: likewise, each image's mean subtracted.
    """

    first: Samples
    second: Samples
    between: Tensor
    between_centred: Tensor
    first_nearest: Nearest
    second_nearest: Nearest
    first_nearest_centred: Nearest
    second_nearest_centred: Nearest

    def similarities(self, centred: bool = False) -> dict[str, Tensor]:
        """Similarities by what is compared: "between", "first", "second", (B,) each."""
        first, second = self.neighbours(centred)
        between = self.between_centred if centred else self.between
        return {"between": between, "first": first.similarity, "second": second.similarity}

    def neighbours(self, centred: bool = False) -> tuple[Nearest, Nearest]:
        """The nearest training images of the first's samples and of the second's."""
        if centred:
            return self.first_nearest_centred, self.second_nearest_centred
        return self.first_nearest, self.second_nearest

    def mean(self, centred: bool = False) -> dict[str, Estimate]:
        """Means of `similarities` over samples, with Student's intervals."""
        return {name: over_images(each, "samples") for name, each in self.similarities(centred).items()}

    def plot(self, centred: bool = False, title: str = "") -> Figure:
        """Samples of both between their nearest training images; see `evaluation.figures.comparison`."""
        from denoisers.evaluation.figures import comparison  # noqa: PLC0415  matplotlib takes a second to import

        return comparison(self, centred, title=title)

    def __repr__(self) -> str:
        words = {
            "between": "of the two",
            "first": "first to its training set",
            "second": "second to its training set",
        }
        plain, centred = self.mean(), self.mean(centred=True)
        lines = [f"Comparison({len(self.between)} samples of each; cosine similarity, and centred)"]
        lines += [f"  {text:27} {told(plain[name])}; {told(centred[name])}" for name, text in words.items()]
        notes = [f"  note         {note}" for drawn in (self.first, self.second) for note in drawn.notes]
        return "\n".join([*lines, *notes])


def compare(
    first: Callable[..., Any],
    second: Callable[..., Any],
    first_training: Any,
    second_training: Any,
    *,
    count: int = 8,
    h0: float = 0.01,
    beta: float = 0.1,
    sigma_start: float = 1.0,
    sigma_end: float = 0.01,
    mean: float = 0.5,
    max_steps: int = 5000,
    seed: int = 0,
    progress: bool = False,
) -> Comparison:
    """Draw with both networks from the same noise, and find each sample's nearest training image.

    `denoisers.sample` with the same seed, so that start and noise of every step are the same; then
    `nearest`, which is exact.

    Args:
        first, second: blind denoisers, (B, C, H, W) -> the same.
        first_training, second_training: what each was trained on, (N, C, H, W), as `nearest` takes it; for
            the comparison to mean something with no image in common (`denoisers.images.disjoint`).
        count: B, samples of each.
        h0, beta, sigma_start, sigma_end, mean, max_steps, seed, progress: as in `denoisers.sample`.

    Raises:
        KeyboardInterrupt: Ctrl-C while images were drawn.
        OptionError, ShapeError, NotFiniteError: as `denoisers.sample` and `nearest`; the training sets have
            images of different shapes.
    """
    shapes = [tuple(images[:1].shape[1:]) for images in (first_training, second_training)]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"training sets of {shapes[0]} and of {shapes[1]}: bring them to one shape")
    drawn = []
    for model in (first, second):
        samples = sample(
            model,
            shapes[0],
            count,
            h0=h0,
            beta=beta,
            sigma_start=sigma_start,
            sigma_end=sigma_end,
            mean=mean,
            max_steps=max_steps,
            seed=seed,
            progress=progress,
        )
        if interrupted(samples.notes):
            raise KeyboardInterrupt
        drawn.append(samples)
    a, b = (samples.images for samples in drawn)
    return Comparison(
        drawn[0],
        drawn[1],
        cosine_similarity(a, b),
        cosine_similarity(a, b, centred=True),
        nearest(a, first_training),
        nearest(b, second_training),
        nearest(a, first_training, centred=True),
        nearest(b, second_training, centred=True),
    )
