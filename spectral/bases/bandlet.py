"""Bandlets: dyadic squares of coefficients, each along its own straight flow (Le Pennec and Mallat 2005)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral.bases.alpert import transforms
from spectral.bases.base import Array, Band, Basis, Pixels, as_images
from spectral.bases.wavelet import Wavelet
from spectral.errors import OptionError, ShapeError
from spectral.kernels.arrays import namespace, on_host
from spectral.kernels.rotations import apply, cheapest

Cost = Literal["oracle", "hard"]
_SMALLEST = 4  # side of the smallest squares


def wavelet_bandlets(
    shape: tuple[int, int], wavelet: str = "db4", levels: int | None = None, largest: int = 16
) -> "BandletFrame":
    """Bandlets of the second generation: warped Haar transforms of squares of wavelet coefficients."""
    return BandletFrame(Wavelet(shape, wavelet, levels), (1, 1), largest)


def pixel_bandlets(
    shape: tuple[int, int], moments: tuple[int, int] = (2, 2), largest: int = 16
) -> "BandletFrame":
    """Alpert multiwavelets with `moments` along and across the flow, on squares of pixels."""
    return BandletFrame(Pixels(shape), moments, largest)


class BandletFrame:
    """Every orthonormal basis that quadtrees of squares over the details of `base` can make.

    A band is tiled by squares of each width w = 4, 8, ..., largest that divides its sides: a 40 x 40 band
    carries a forest of 25 quadtrees over squares of 8 and 4, a 10 x 10 band stays as it is. A square is left
    as it is or takes one of 2w warped multiwavelet transforms (alpert.py).

    Raises OptionError where `largest` is not a power of two of at least 4, ShapeError where no band's sides
    are multiples of 4.
    """

    def __init__(self, base: Basis, moments: tuple[int, int] = (1, 1), largest: int = 16) -> None:
        if largest < _SMALLEST or largest & (largest - 1):
            raise OptionError(
                f"the largest square must be a power of two, at least {_SMALLEST}, got {largest}"
            )
        self.base, self.moments = base, moments
        self.widths = tuple(2**k for k in range(2, largest.bit_length()))
        self.bands = tuple(b for b in base.details if self._tiles(_SMALLEST, b))
        if not self.bands:
            raise ShapeError(
                f"no band of {type(base).__name__} on {base.shape} can be tiled by squares of {_SMALLEST}: "
                "crop the images to multiples of 4, or take fewer levels"
            )

    @staticmethod
    def _tiles(width: int, band: Band) -> bool:
        return all((side.stop - side.start) % width == 0 for side in band)

    def search(
        self,
        coefficients: Array,
        thresholds: ArrayLike,
        *,
        cost: Cost = "oracle",
        geometry_penalty: float = 0.0,
        split_penalty: float = 0.0,
    ) -> "Forests":
        """The cheapest basis for each image's `base` coefficients c (n, H, W) and each threshold T (S,).

        The cost of a basis is additive, so the quadtrees' bottom-up choice is exact. With c the coefficients
        in the basis it is sum c^2 T^2 / (c^2 + T^2) for "oracle" (the risk of the best diagonal shrinkage at
        noise T; c from the clean image), sum min(c^2, T^2) for "hard" (model selection at threshold T; c from
        the noisy image); plus T^2 geometry_penalty for each transformed square and T^2 split_penalty for each
        square parted in four. The search runs where the coefficients lie, on the CPU or a GPU.

        Raises ShapeError for coefficients of another shape, OptionError for thresholds that are not positive.
        """
        coefficients = as_images(coefficients, self.base.shape)
        if coefficients.ndim != 3:
            raise ShapeError(f"coefficients must be (n, H, W), got shape {coefficients.shape}")
        levels = np.atleast_1d(np.asarray(thresholds, coefficients.dtype)) ** 2
        if levels.ndim != 1 or not (levels > 0).all():
            raise OptionError(f"thresholds must be positive numbers (S,), got {thresholds!r}")
        hard = cost == "hard"
        grown = []
        for rows, columns in self.bands:
            band = coefficients[:, rows, columns]
            widths = [w for w in self.widths if self._tiles(w, (rows, columns))]
            quads = [self._quads(band, w, levels, geometry_penalty, hard) for w in widths]
            grown.append(_grow(quads, split_penalty * levels))
        total = self._uncovered(coefficients, levels, hard)
        for tree_cost, _, _ in grown:
            total += tree_cost
        return Forests(self, total, [depth for _, depth, _ in grown], [flow for _, _, flow in grown])

    def _quads(
        self, band: Array, width: int, levels: Array, geometry_penalty: float, hard: bool
    ) -> tuple[Array, NDArray[np.int32]]:
        """Costs and transforms (n, rows, columns, S) of a band's squares of one width, each for itself."""
        n, rows, columns = len(band), band.shape[1] // width, band.shape[2] // width
        squares = band.reshape(n, rows, width, columns, width).transpose(2, 4, 0, 1, 3).reshape(width**2, -1)
        table = transforms(width, self.moments, band)
        costs, which = cheapest(squares, table, levels, (geometry_penalty * levels).astype(band.dtype), hard)
        shape = (n, rows, columns, len(levels))
        return costs.astype(np.float64).reshape(shape), which.reshape(shape)

    def _uncovered(self, coefficients: Array, levels: Array, hard: bool) -> Array:
        """The cost (n, S) of the coefficients that no square covers."""
        bare = np.ones(self.base.shape, bool)
        for band in self.bands:
            bare[band] = False
        xp = namespace(coefficients)
        energy = coefficients[:, xp.asarray(bare)].astype(np.float64) ** 2
        costs = [xp.minimum(energy, t) if hard else energy * t / (energy + t) for t in levels.tolist()]
        return xp.stack([c.sum(axis=1) for c in costs], axis=1)


@dataclass(frozen=True)
class Forests:
    """The bases chosen for n images at S thresholds.

    costs is float64 (n, S), penalties included. depths and flows hold one integer array (n, rows, columns, S)
    a band, over the grid of its smallest squares: the square that covers a cell is 4 * 2^depth wide, and flow
    is its direction's number, -1 where it is left as it is. They lie where the coefficients lay.
    """

    frame: BandletFrame
    costs: Array
    depths: list[NDArray[np.int32]]
    flows: list[NDArray[np.int32]]

    def basis(self, image: int = 0, threshold: int = 0) -> "BandletBasis":
        """The basis chosen for one image at one threshold."""
        depths = [on_host(depth[image, :, :, threshold]) for depth in self.depths]
        flows = [on_host(flow[image, :, :, threshold]) for flow in self.flows]
        return BandletBasis(self.frame, depths, flows)


class BandletBasis:
    """One orthonormal basis of a `BandletFrame`: a width and a direction for each square of each band."""

    def __init__(
        self, frame: BandletFrame, depths: list[NDArray[np.int32]], flows: list[NDArray[np.int32]]
    ) -> None:
        self.frame, self.depths, self.flows = frame, depths, flows
        self.shape, self.details = frame.base.shape, frame.base.details
        self._squares = [self._transformed(level, width) for level, width in enumerate(frame.widths)]

    def _transformed(self, level: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Flat positions (m, w^2) and directions (m,) of the transformed squares of one width."""
        step = width // _SMALLEST
        inside = np.arange(width)[:, None] * self.shape[1] + np.arange(width)
        positions, directions = [np.empty(0, np.intp)], [np.empty(0, np.int32)]
        for (rows, columns), depth, flow in zip(self.frame.bands, self.depths, self.flows, strict=True):
            i, j = np.nonzero((depth[::step, ::step] == level) & (flow[::step, ::step] >= 0))
            positions.append((rows.start + i * width) * self.shape[1] + columns.start + j * width)
            directions.append(flow[::step, ::step][i, j])
        return np.concatenate(positions)[:, None] + inside.ravel(), np.concatenate(directions)

    def analysis(self, images: Array) -> Array:
        """Bandlet coefficients (..., H, W) of images (..., H, W)."""
        return self._warp(self.frame.base.analysis(images), inverse=False)

    def synthesis(self, coefficients: Array) -> Array:
        """Images (..., H, W) from bandlet coefficients (..., H, W)."""
        return self.frame.base.synthesis(self._warp(as_images(coefficients, self.shape).copy(), inverse=True))

    def _warp(self, coefficients: Array, *, inverse: bool) -> Array:
        xp, flat = namespace(coefficients), coefficients.reshape(-1, self.shape[0] * self.shape[1])
        for width, (positions, directions) in zip(self.frame.widths, self._squares, strict=True):
            table = transforms(width, self.frame.moments, coefficients)
            places = xp.asarray(positions)
            squares = flat[:, places].reshape(-1, width**2)
            apply(squares, np.tile(directions, len(flat)), table, inverse)
            flat[:, places] = squares.reshape(len(flat), *positions.shape)
        return flat.reshape(coefficients.shape)


def _grow(
    quads: list[tuple[Array, NDArray[np.int32]]], split_cost: Array
) -> tuple[Array, NDArray[np.int32], NDArray[np.int32]]:
    """Cost (n, S), depths and flows (n, rows, columns, S) of the cheapest forest of one band.

    Bottom-up: four squares merge where the merged one costs no more than the four and the split.
    """
    best, flow = quads[0]
    xp = namespace(best)
    depth, split_cost = xp.zeros_like(flow), xp.asarray(split_cost)
    for level, (cost, merged_flow) in enumerate(quads[1:], start=1):
        n, rows, columns, s = cost.shape
        split = best.reshape(n, rows, 2, columns, 2, s).sum(axis=(2, 4)) + split_cost
        merge = cost <= split
        best = xp.where(merge, cost, split)
        cells = _spread(merge, 2**level)
        depth = xp.where(cells, level, depth)
        flow = xp.where(cells, _spread(merged_flow, 2**level), flow)
    return best.sum(axis=(1, 2)), depth, flow


def _spread(x: NDArray[np.generic], factor: int) -> NDArray[np.generic]:
    """Each entry of x (n, rows, columns, S) repeated over factor x factor cells."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)
