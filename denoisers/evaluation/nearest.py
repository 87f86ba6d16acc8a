"""Cosine similarities of images, and the most similar of a training set, exactly and a block at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral.base import Result
from spectral.errors import NotFiniteError, OptionError, ShapeError

BLOCK = 1 << 22  # numbers of a block of images: 32 MB in float64
ROWS = 1 << 11  # images of a block, at most
WIDTH = 512  # entries that float32 adds up before float64 takes over
CONSTANT = 1e-12  # of an image's norm: a deviation from its mean that is rounding

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Nearest(Result):
    """The most similar training image of each of B images.

    Attributes:
        index: (B,), its place in the training set; the first of equals.
        similarity: (B,), the cosine between the two, float64.
        images: (B, C, H, W), the training images themselves.
        centred: whether each image's mean was subtracted.
        compared: pairs whose similarity was computed in float64, the others being excluded by a bound.
    """

    index: Tensor
    similarity: Tensor
    images: Tensor
    centred: bool
    compared: int


def cosine_similarity(first: Tensor, second: Tensor, *, centred: bool = False) -> Tensor:
    """<x_i, y_i> / (|x_i| |y_i|) of corresponding images, (N, ...) each: (N,), float64.

    centred: subtract each image's mean first. An image that is 0, or constant where centred, is similar to
    none: 0. Raises ShapeError where the shapes differ, NotFiniteError for NaN or infinity.
    """
    if first.shape != second.shape:
        raise ShapeError(
            f"corresponding images have one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return torch.from_numpy(_dots(_unit(first, centred), _unit(second, centred)))


def nearest(images: Tensor, training: Any, *, centred: bool = False) -> Nearest:
    """For each image the j that maximises <x, t_j> / (|x| |t_j|), the first of equals, as float64 has it.

    A product in float32 leaves out what cannot win. With unit vectors in float64, rounded to float32 and
    multiplied in parts of w entries, whose sums are added up in float64, no similarity is off by more than

        e = g (1 + u)^2 + 2 u + u^2 + d (2^-51 + 2^-123),   u = 2^-24,  g = w u / (1 - w u),

    in whatever order a part is added up (Higham 2002, section 3.1; the terms in d are float64's own rounding,
    and underflow). An image less similar than the best known by more than e has lost; all others are
    multiplied in float64. Memory is bounded by blocks, also where all images are equal.

    Args:
        images: (B, C, H, W).
        training: (N, C, H, W), at least one; a tensor, an array, or anything else with a length that is cut
            by slices, such as a memory map: it is read once for each block of images.
        centred: subtract each image's mean first. An image that is 0, or constant where centred, is similar
            to none: 0.

    Raises:
        OptionError: there are no training images.
        ShapeError: they have another shape.
        NotFiniteError: NaN or infinity in an image, or numbers whose squares are.
    """
    if not len(training):
        raise OptionError("the nearest of no training images was asked for")
    if tuple(training[:1].shape[1:]) != tuple(images.shape[1:]):
        raise ShapeError(
            f"images of {tuple(images.shape[1:])} are compared with training images of "
            f"{tuple(training[:1].shape[1:])}"
        )
    rows = max(1, min(ROWS, BLOCK // max(1, images[:1].numel())))
    index = np.zeros(len(images), np.int64)
    best = np.full(len(images), -np.inf)
    compared = 0
    for at in range(0, len(images), rows):
        queries = _unit(images[at : at + rows], centred)
        here = slice(at, at + len(queries))
        for start in range(0, len(training), rows):
            block = _unit(training[start : start + rows], centred)
            compared += _improve(queries, block, start, index[here], best[here])
    found = [torch.as_tensor(training[int(j) : int(j) + 1]).detach().cpu() for j in index]
    shown = torch.cat(found) if found else torch.empty(0, *images.shape[1:])
    return Nearest(torch.from_numpy(index), torch.from_numpy(best), shown, centred, compared)


def rounding(entries: int) -> float:
    """The bound e of `nearest` for images of d entries."""
    u, width = 2.0**-24, min(WIDTH, entries)
    g = width * u / (1 - width * u)
    return g * (1 + u) ** 2 + 2 * u + u**2 + entries * (2.0**-51 + 2.0**-123)


def _improve(queries: Array, block: Array, start: int, index: NDArray[np.int64], best: Array) -> int:
    """Let a block of training images, from number `start`, improve on the best; how many were multiplied."""
    bound = rounding(queries.shape[1])
    rough = _rough(queries, block)
    least = np.maximum(best, rough.max(1) - bound)
    i, j = np.nonzero(rough >= (least - bound)[:, None])
    exact = np.empty(len(i))
    for at in range(0, len(i), len(block)):
        part = slice(at, at + len(block))
        exact[part] = _dots(queries[i[part]], block[j[part]])
    order = np.lexsort((j, -exact, i))
    which, first = np.unique(i[order], return_index=True)
    first = order[first]
    better = exact[first] > best[which]
    best[which[better]] = exact[first[better]]
    index[which[better]] = start + j[first[better]]
    return len(i)


def _rough(queries: Array, block: Array) -> Array:
    """Similarities (B, n) to within `rounding`."""
    total = np.zeros((len(queries), len(block)))
    a, b = queries.astype(np.float32), block.astype(np.float32)
    for at in range(0, a.shape[1], WIDTH):
        total += a[:, at : at + WIDTH] @ b[:, at : at + WIDTH].T  # NumPy's: torch's may be told to use TF32
    return total


def _dots(a: Array, b: Array) -> Array:
    """<a_i, b_i>, each the same whatever rows are beside it."""
    return np.asarray((a * b).sum(1))


def _unit(images: Any, centred: bool) -> Array:
    """Images as rows of norm 1, (n, d) in float64; rows of 0 for those without a direction."""
    held = (
        images.detach().to("cpu", torch.float64).numpy() if isinstance(images, Tensor) else np.asarray(images)
    )
    rows = held.reshape(len(held), -1).astype(np.float64)
    with np.errstate(over="ignore"):
        size = np.sqrt(_dots(rows, rows))
    if not np.isfinite(size).all():
        raise NotFiniteError(
            "similarities are of finite images: NaN, infinity or a norm beyond floats in one"
        )
    if centred:
        rows -= rows.mean(1, keepdims=True)
        spread = np.sqrt(_dots(rows, rows))
        size = np.where(spread > CONSTANT * size, spread, 0.0)
    return rows * np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)[:, None]
