"""A recorded program beside the dense Jacobian that torch forms, and what it keeps."""

from dataclasses import fields, is_dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.jacobians.model import Model
from spectral.jacobians.program import Program, Recorder
from spectral.jacobians.program.trees import leaves


def program_of(function, y: Tensor) -> Program:
    """The program of a function at y, called as a user's model is."""
    model = Model(function, {})
    with model.ready():
        return Recorder.of(model, y).program()[0]


def dense_of(function, y: Tensor, program: Program) -> tuple[Tensor, Tensor, Tensor]:
    """The Jacobian by torch, and by the program forwards and backwards, all unit vectors in one block."""
    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.func.jacrev(function)(y).detach().reshape(-1, y.numel())
    inputs = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    outputs = torch.eye(len(exact), dtype=y.dtype).view(-1, *program.output.shape)
    return exact, program.apply(inputs).flatten(1).mT, program.transpose(outputs).flatten(1)


def tensors_in(thing: object) -> list[Tensor]:
    """Every tensor that steps hold, however deep."""
    if isinstance(thing, Tensor):
        return [thing]
    if is_dataclass(thing):
        return [t for field in fields(thing) for t in tensors_in(getattr(thing, field.name))]
    if isinstance(thing, (list, tuple, dict)):
        return [t for leaf in leaves(thing) for t in tensors_in(leaf) if leaf is not thing]
    return tensors_in(thing.arguments) if hasattr(thing, "arguments") else []
