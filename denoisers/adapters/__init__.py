"""Diffusion models of other packages as denoisers y -> E[x | y]."""

from denoisers.adapters.arguments import with_respect_to
from denoisers.adapters.azula import from_azula
from denoisers.adapters.decoder import Decoded, Decoder, decoded
from denoisers.adapters.deepinv import from_deepinv
from denoisers.adapters.diffusers import from_diffusers, schedule_of
from denoisers.adapters.diffusion import AtLevel, Diffusion, Seen
from denoisers.adapters.edm import from_edm
from denoisers.adapters.layers import AtLayer, at_layer
from denoisers.adapters.prediction import Level, mean_from
from denoisers.adapters.schedule import ByTime, Discrete, Exploding, Flow, Schedule

__all__ = [
    "AtLayer",
    "AtLevel",
    "ByTime",
    "Decoded",
    "Decoder",
    "Diffusion",
    "Discrete",
    "Exploding",
    "Flow",
    "Level",
    "Schedule",
    "Seen",
    "at_layer",
    "decoded",
    "from_azula",
    "from_deepinv",
    "from_diffusers",
    "from_edm",
    "mean_from",
    "schedule_of",
    "with_respect_to",
]
