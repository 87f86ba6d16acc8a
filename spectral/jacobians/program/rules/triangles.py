"""Factorisations that read one triangle of a matrix, A = A' taken for granted.

torch differentiates them as functions of all of A, forwards and backwards in different ways, and agrees with
itself where tangents are symmetric alone.  As functions of the triangle that is read,

    A -> op(tril(A) + tril(A, -1)'),

they have one derivative, that of what is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import INSTEAD, named
from spectral.jacobians.program.trace import bound


def _of_triangle(target: Any) -> Callable[..., Any]:
    @functools.wraps(target)
    def function(A: Tensor, *args: Any, **kwargs: Any) -> Any:
        told = bound(target, (A, *args), kwargs)
        lower = A.mH if told.get("upper") or told.get("UPLO") == "U" else A
        below, diagonal = lower.tril(-1), A.diagonal(dim1=-2, dim2=-1)
        diagonal = diagonal.real.to(A.dtype) if A.is_complex() else diagonal
        return target(below + below.mH + torch.diag_embed(diagonal), *args, **kwargs)

    return function


def _of_factor(target: Any, place: int) -> Callable[..., Any]:
    """Of a factor, instead, the argument at a place: L -> op(tril(L))."""

    @functools.wraps(target)
    def function(*args: Any, **kwargs: Any) -> Any:
        upper = bound(target, args, kwargs)["upper"]
        L = args[place].triu() if upper else args[place].tril()
        return target(*args[:place], L, *args[place + 1 :], **kwargs)

    return function


def _if_hermitian(target: Any) -> Callable[..., Any]:
    """Of a triangle where that is asked for, and of all of A elsewhere."""
    of_triangle = _of_triangle(target)

    @functools.wraps(target)
    def function(A: Tensor, *args: Any, **kwargs: Any) -> Any:
        hermitian = bound(target, (A, *args), kwargs)["hermitian"]
        return (of_triangle if hermitian else target)(A, *args, **kwargs)

    return function


INSTEAD.update({target: _of_factor(target, 0) for target in named("cholesky_inverse")})
INSTEAD.update({target: _of_factor(target, 1) for target in named("cholesky_solve")})
INSTEAD.update(
    {target: _of_triangle(target) for target in named("_linalg_eigh", "linalg_cholesky_ex", "cholesky")}
)
INSTEAD.update(
    {target: _if_hermitian(target) for target in named("linalg_pinv", overload="atol_rtol_tensor")}
)
