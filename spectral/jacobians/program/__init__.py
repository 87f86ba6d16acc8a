"""The Jacobian at one input as a program of linear steps with constants.

At a fixed y the derivative of a network is a fixed linear map: convolutions, gates (the 0-1 slopes of ReLU),
local slopes of smooth units, poolings, concatenations.  `record` runs the network once under torch's tracer
and keeps, of each operation that y reaches, only what its derivative needs.  No activation is kept but the
gates and slopes, and a product costs about its convolutions.
"""

from spectral.jacobians.program.cuda_graphs import Replayed
from spectral.jacobians.program.program import Chunks, Program
from spectral.jacobians.program.recorder import Recorder, record
from spectral.jacobians.program.repeat import Repeat

__all__ = ["Chunks", "Program", "Recorder", "Repeat", "Replayed", "record"]
