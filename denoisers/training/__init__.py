"""Training of denoisers: a run is a pure function of its configuration, stopped and resumed at will."""

from denoisers.training.config import RECIPES, TrainConfig
from denoisers.training.data import clean_batches, noisy_batch
from denoisers.training.norms import calibrate
from denoisers.training.run import learning_rate, train

__all__ = [
    "RECIPES",
    "TrainConfig",
    "calibrate",
    "clean_batches",
    "learning_rate",
    "noisy_batch",
    "train",
]
