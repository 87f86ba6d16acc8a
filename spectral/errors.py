"""Exceptions, each naming what was wrong with the input and what to do about it."""


class SpectralError(Exception):
    """Base of every exception raised on purpose here, but for files and packages that are not there."""


class ShapeError(SpectralError, ValueError):
    """A tensor, or an operator, has the wrong shape for what was asked."""


class OptionError(SpectralError, ValueError):
    """An argument lies outside its range, or contradicts another."""


class ModelOutputError(SpectralError, TypeError):
    """A model returned no tensor whose Jacobian could be taken."""


class NotDeterministicError(SpectralError, RuntimeError):
    """A model returned two different outputs for one input, so it has no Jacobian."""


class AmbiguousError(SpectralError, ValueError):
    """autograd's derivative of a model is another than that of what it computes: one has to be named."""


class NotFiniteError(SpectralError, ArithmeticError):
    """NaN or infinity came out of a model or a product."""


class NotSymmetricError(SpectralError, ArithmeticError):
    """Products contradict the symmetry, or the transpose, that an operator was given with."""


class TransposeMissingError(SpectralError, NotImplementedError):
    """A product with the transpose was needed and the operator cannot form one."""


class FileContentError(SpectralError, ValueError):
    """A file does not hold what it should: a saved result, a picture, weights."""


class NotLinearError(SpectralError, ArithmeticError):
    """Products of an operator contradict its linearity."""


class CheckpointError(SpectralError, ValueError):
    """A checkpoint, or a survey's folder, belongs to another problem than the one that would be resumed."""


class ReachError(SpectralError, ValueError):
    """A network looks further than the rows that one process can be given of an image."""


class RankError(SpectralError, RuntimeError):
    """One of the processes that share a problem has ended, fallen silent, or failed."""
