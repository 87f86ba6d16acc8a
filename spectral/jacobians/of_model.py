"""What Jacobians of models share, whether an image lies in one place or in several."""

from __future__ import annotations

from abc import abstractmethod
from typing import NoReturn, Self

from torch import Tensor

from spectral.errors import ShapeError, SpectralError
from spectral.jacobians.precision import Precision
from spectral.operators.base import LinearOperator


class OfModel(LinearOperator):
    """The Jacobian of a model at one input.

    Attributes:
        input_shape, output_shape: of what lies here of an input and an output.
        notes: what was decided on the way.
        strip: (first, last, all) rows of the image that lie here; None where that is all of them.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    notes: list[str]
    strip: tuple[int, int, int] | None = None

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __reduce__(self) -> NoReturn:
        """None: what was recorded holds addresses of this process's memory and code.

        Raises:
            SpectralError: always.
        """
        raise SpectralError(
            f"the Jacobian of {self.name} belongs to this process and cannot be pickled: pickle the model "
            "and y, and make it anew where they are loaded"
        )

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's."""

    @abstractmethod
    def check_weights(self, thorough: bool = True) -> None:
        """That the model's weights are those that J was made of; see `Jacobian.check_weights`."""

    @abstractmethod
    def confirm(self, V: Tensor, U: Tensor, norm: float) -> None:
        """Multiply what was found once more by other ways; see `Jacobian.confirm`."""

    @abstractmethod
    def at_precision(self, precision: Precision) -> OfModel:
        """J with the arithmetic inside its products in another precision."""

    def symmetric_part(self) -> LinearOperator:
        """(J + J') / 2, for a model whose output has the shape of its input.

        Raises:
            ShapeError: the shapes differ.
        """
        if self.input_shape != self.output_shape:
            raise ShapeError(
                f"{self.name} maps {self.input_shape} to {self.output_shape}; a symmetric part needs equal "
                "shapes: select the image from the output, or ask for singular triplets"
            )
        return super().symmetric_part()
