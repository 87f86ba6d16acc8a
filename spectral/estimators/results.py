"""Results of sampling: a value, or a density, with errors that can be turned into intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import scipy
import torch
from torch import Tensor
from torch.nn.functional import pad

from spectral.base import Result
from spectral.errors import OptionError
from spectral.linalg.unseen import rounding
from spectral.options import number
from spectral.plots import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Number = float | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Result):
    """A mean of samples and how far it may be from the truth.

    Attributes:
        value: the estimate; a float, or a float64 tensor with one entry a problem, pixel or threshold.
        stderr: its standard error, of the same shape; rounding alone where the value is exact.
        samples: independent samples (probes) averaged; of "exact" the terms of a sum, none of them random.
        products: products with A and A' that were spent, for each problem.
        method: the estimator's name.
        dof: degrees of freedom of `stderr`, for Student's t.
        skewness: E (value - truth)^3 / stderr^3 as the samples show it, of the shape of `value`.
        confidence: of intervals where no other is named; that of the target where there was one.
        notes: what the reader should know, such as a target that the products did not reach.
    """

    value: Number
    stderr: Number
    samples: int
    products: int
    method: str
    dof: float
    skewness: Number = field(default=0.0, kw_only=True)
    confidence: float = field(default=0.95, kw_only=True)
    notes: list[str] = field(default_factory=list, kw_only=True)

    def halfwidth(self, level: float | None = None) -> Number:
        """How far the farther end of `interval(level)` is from the value: t stderr where skewness is 0.

        Raises:
            OptionError: level is not inside (0, 1).
        """
        return self._reach(level, torch.as_tensor(self.skewness, dtype=torch.float64).abs())

    def interval(self, level: float | None = None) -> tuple[Number, Number]:
        """(low, high) that cover the truth with probability `level`, by default `confidence`.

        Student's t stderr to either side, but farther on the side where skewness makes that too short: an
        estimate of positive skewness s errs low more often than high, and where it does, stderr is too small
        as well.  There Hall's transformation (1992) of Student's statistic is solved for the distance

            3/s (1 + cbrt(s (t + s/6) - 1)) stderr.

        Raises:
            OptionError: level is not inside (0, 1).
        """
        skewness = torch.as_tensor(self.skewness, dtype=torch.float64)
        return self.value - self._reach(level, -skewness), self.value + self._reach(level, skewness)

    def _reach(self, level: float | None, skewness: Tensor) -> Number:
        t, s = student_t(self.confidence if level is None else level, self.dof), skewness.clamp(min=1e-6)
        root = s * (t + s / 6) - 1
        hall = torch.where(skewness > 1e-6, 3 / s * (1 + root.sign() * root.abs() ** (1 / 3)), t)
        return plain(hall.clamp(min=t) * torch.as_tensor(self.stderr, dtype=torch.float64))

    def times(self, scale: Tensor) -> Estimate:
        """The estimate of `scale` times as much, scale (*batch) positive."""
        value, stderr = (
            x * scale.to(x).reshape((*scale.shape, *(1,) * (x.ndim - scale.ndim)))
            for x in (torch.as_tensor(y, dtype=torch.float64) for y in (self.value, self.stderr))
        )
        return replace(self, value=plain(value), stderr=plain(stderr))

    @staticmethod
    def _entry(value: Tensor) -> Number:
        return plain(value)

    def _table(self) -> tuple[str, list[tuple[str, str]]]:
        title, rows = super()._table()
        if not isinstance(self.value, Tensor):
            low, high = self.interval()
            rows.insert(1, (f"{100 * self.confidence:g} % interval", f"{low:.6g} to {high:.6g}"))
        return title, rows

    def _picture(self) -> str:
        """An image of values and one of standard errors, where they are one for each pixel."""
        if not isinstance(self.value, Tensor) or self.value.ndim < 3 or not inline.is_image(self.value.shape):
            return ""  # two axes are problems and thresholds
        error = torch.as_tensor(self.stderr).expand_as(self.value)
        return inline.images([("value", self.value, bool((self.value < 0).any())), ("stderr", error, False)])

    def sampling_text(self) -> str:
        """What the error is that of: the samples, or, of what is exact, rounding."""
        return "exact to rounding" if self.method == "exact" else f"{self.method}, {self.samples} samples"

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        spent = f"{100 * self.confidence:g} %, {self.sampling_text()}, {self.products} products"
        spent = "; ".join([spent, *self.notes])
        if isinstance(self.value, Tensor):
            v = self.value
            shape = "x".join(map(str, v.shape))
            error = torch.as_tensor(self.halfwidth())
            return (
                f"Estimate({shape}: mean {v.mean():.5g}, from {v.min():.5g} to {v.max():.5g}, each +- "
                f"{error.mean():.2g} on average; {spent})"
            )
        return f"Estimate({with_error(self.value, float(self.halfwidth()))}; {spent})"


def student_t(level: float, dof: float) -> float:
    """The t with P(|T| <= t) = level for T of Student's law with `dof` degrees of freedom.

    Raises:
        OptionError: level is not inside (0, 1).
    """
    if not 0 < number("level", level) < 1:
        raise OptionError(f"level is a probability inside (0, 1), got {level}")
    return float(scipy.special.stdtrit(dof, (1 + level) / 2))


def with_error(value: float, error: float) -> str:
    """`value +- error`, the value to the error's second digit."""
    if not 0 < error < float("inf"):
        return f"{value:.10g} +- {error:.2g}"
    exponent = int(f"{error:e}".split("e")[1])
    return (
        f"{value:.{max(0, 1 - exponent)}f} +- {error:.2g}"
        if exponent > -8
        else f"{value:.12g} +- {error:.1e}"
    )


def plain(x: Tensor) -> Number:
    """A float for a tensor without axes, else the tensor itself."""
    return x.item() if x.ndim == 0 else x


@dataclass(frozen=True, eq=False, repr=False)
class Density(Result):
    """The distribution of n eigenvalues (or singular values): a few known, the rest as p random measures.

    By "exact" the one measure puts 1/n at each value, which rounding has moved by at most ten times that of a
    product, 10 eps |A|: standard errors are what such moves, each by itself, can change.

    Otherwise a probe's measure puts `weights` at `nodes` and has mass one; their mean stands for the n - k
    unknown values.  Every standard error is the root of the sum of two squares: the spread between probes,
    and what the second half of the steps changed, which stands for what more of them would change (scaled so
    that Student's factor for p - 1 degrees of freedom leaves it 1.96 at 95 %); for a distribution by "kpm"
    the most that they changed within half of its resolution, range/steps, to either side.

    Attributes:
        nodes, weights: (*batch, p, m) float64, nodes ascending.
        half_nodes, half_weights: (*batch, p, m'), the same from the first half of the steps.
        deflated: (*batch, k), values found exactly and taken out of the measures.
        n: how many values in all.
        part: "symmetric" or "singular", whose values.
        method: "exact", "slq" or "kpm".
        steps: products per probe, of the operator whose values these are; n by "exact".
        products: products with A and A' that were spent, for each problem.
        eps: relative rounding of a product.
        norm: |A| by "exact", (*batch,): far above |(A + A')/2| where A is nearly skew.
        notes: what the reader should know of the model.
    """

    nodes: Tensor
    weights: Tensor
    half_nodes: Tensor
    half_weights: Tensor
    deflated: Tensor
    n: int
    part: str
    method: str
    steps: int
    products: int
    eps: float = field(default=0.0, kw_only=True)
    norm: Number = field(default=0.0, kw_only=True)
    notes: list[str] = field(default_factory=list, kw_only=True)

    @property
    def probes(self) -> int:
        """p, the number of measures."""
        return self.nodes.shape[-2]

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value that carry weight."""
        seen = torch.cat([self.nodes[self.weights > 1e-12], self.deflated.flatten()])
        return seen.min().item(), seen.max().item()

    @property
    def span(self) -> float:
        """The range of the values, what is drawn by it; a billionth of the largest where all are equal."""
        low, high = self.ends
        return max(high - low, 1e-9 * max(abs(low), abs(high))) or 1e-9

    def distribution(self, at: float | Tensor) -> Estimate:
        """The fraction of values <= `at`, a number or (q,): (*batch,) or (*batch, q).

        At a node half of its mass lies below; between nodes the function is a monotone cubic, so that it is
        smooth where the spectrum is.  But mass goes no farther than range/steps, since nodes leave gaps
        beyond twice that only where the spectrum has them, and nowhere where the rule ended early, which
        makes it exact.  By "exact" it steps at each value, and its error is the share of values within
        rounding of `at`.
        """
        below = self._count_below(at)
        return replace(below, value=below.value / self.n, stderr=below.stderr / self.n)

    def count_above(self, threshold: float | Tensor) -> Estimate:
        """How many values exceed a threshold: n (1 - distribution)."""
        below = self._count_below(threshold)
        return replace(below, value=self.n - below.value)

    def _count_below(self, at: float | Tensor) -> Estimate:
        t = torch.as_tensor(at, dtype=torch.float64, device=self.nodes.device)
        if t.isnan().any():
            raise OptionError(f"the distribution is asked for at numbers, got {at}")
        count, doubt = self._counts(t.reshape(-1)) if self.method == "exact" else self._masses(t.reshape(-1))
        shape = self.nodes.shape[:-1]
        return self._mean(count.reshape(shape + t.shape), doubt.reshape(shape[:-1] + t.shape))

    def _counts(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """How many values are <= t (q,), and how many within rounding of it."""
        nodes, close = self.nodes.unsqueeze(-2), self._rounding.unsqueeze(-1)
        below = _in_chunks(lambda t: (nodes <= t.unsqueeze(-1)).double().sum(-1), t)
        return below, _in_chunks(lambda t: ((nodes - t.unsqueeze(-1)).abs() <= close).double().sum(-1), t)

    def _masses(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of each probe how many values are <= t (q,), and what the second half of the steps changed."""
        unknown = self.n - self.deflated.shape[-1]
        known = (self.deflated.unsqueeze(-1) <= t).double().sum(-2, keepdim=True)

        def below(shift: float) -> tuple[Tensor, Tensor]:
            full = _mass_below(self.nodes, self.weights, t + shift, self.steps)
            half = _mass_below(self.half_nodes, self.half_weights, t + shift, (self.steps + 1) // 2)
            return unknown * full, unknown * (full - half).mean(-2).abs()

        mass, change = below(0.0)
        if self.method == "kpm":
            # The kernel's error is of one sign over its width, and its change passes through zero there.
            low, high = self.ends
            for shift in (-0.5, 0.5):
                change = torch.maximum(change, below(shift * (high - low) / self.steps)[1])
        return mass + known, change

    def total(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """sum_i f(lambda_i) = tr f(S), f elementwise; for polynomials of degree < 2 steps unbiased (slq)."""
        known, unknown = f(self.deflated).sum(-1, keepdim=True), self.n - self.deflated.shape[-1]
        full, half = (
            unknown * (weights * f(nodes)).sum(-1) + known
            for nodes, weights in ((self.nodes, self.weights), (self.half_nodes, self.half_weights))
        )
        if self.method != "exact":
            return self._mean(full, (full - half).mean(-1).abs())
        least = 0.0 if self.part == "singular" else -math.inf
        moved = [(self.nodes + side * self._rounding).clamp(min=least) for side in (-1, 1)]
        changes = torch.stack([(f(nodes) - f(self.nodes)).abs() for nodes in moved])
        moves = changes.amax(0).square().sum((-2, -1)).sqrt()
        return self._mean(full, torch.hypot(moves, self.eps * full.squeeze(-1).abs()))

    def curve(self, grid: Tensor, width: float | None = None) -> Estimate:
        """The density of the unknown values on a grid (q,), smoothed by a Gaussian of deviation `width`.

        (*batch, q), with integral (n - k)/n; its error is the spread between probes, none by "exact".  By
        default width is range/steps, a quarter of that for "kpm", whose nodes are smooth already, and
        range/sqrt(12 n) for "exact", the deviation of one of sqrt(n) bins.

        Raises:
            OptionError: width is not positive.
        """
        if width is None:
            points = {"exact": math.sqrt(12 * self.n), "slq": self.steps, "kpm": 4 * self.steps}[self.method]
            width = self.span / points
        if not width > 0:
            raise OptionError(f"width is a standard deviation, positive; got {width}")
        share = (self.n - self.deflated.shape[-1]) / self.n / (width * math.sqrt(2 * math.pi))

        def smoothed(t: Tensor) -> Tensor:
            kernel = torch.exp(-0.5 * ((t.unsqueeze(-1) - self.nodes.unsqueeze(-2)) / width).square())
            return share * (kernel * self.weights.unsqueeze(-2)).sum(-1)

        return self._mean(_in_chunks(smoothed, grid.double().to(self.nodes.device)))

    def distance(self, values: Tensor) -> float:
        """The Wasserstein-1 distance integral |F - G| dt to the spectrum `values`, in its units.

        Raises:
            OptionError: the density is of several problems.
        """
        if self.nodes.ndim != 2:
            raise OptionError("distance takes the density of one problem")
        values = values.double().to(self.nodes.device).sort().values
        low, high = min(self.ends[0], values[0].item()), max(self.ends[1], values[-1].item())
        edges = torch.linspace(low, high, 8193, dtype=torch.float64, device=values.device)
        middles = (edges[1:] + edges[:-1]) / 2
        exact = torch.searchsorted(values, middles, right=True) / len(values)
        mine = torch.as_tensor(self.distribution(middles).value)
        return ((mine - exact).abs().sum() * (edges[1] - edges[0])).item()

    def plot(self, threshold: float | None = None) -> Figure:
        """The curve and the count above t, with their errors; see `spectral.plots.estimates.density`."""
        from spectral.plots.estimates import density  # noqa: PLC0415  matplotlib takes a second to import

        return density(self, threshold)

    def _picture(self) -> str:
        """The curve; of a batch, the first's."""
        low, high = self.ends
        grid = torch.linspace(low, high, 160, dtype=torch.float64)
        values = torch.as_tensor(self.curve(grid).value).reshape(-1, len(grid))[0].cpu()
        floor = 0.2 / self.n / self.span
        drawn = values.clamp(min=floor).tolist()
        return inline.lines(grid.tolist(), [("", drawn)], "density per unit of value", log=True)

    def __repr__(self) -> str:
        low, high = self.ends
        batch = f"{len(self.nodes)} x " if self.nodes.ndim == 3 else ""
        known = f"{self.deflated.shape[-1]} known, " if self.deflated.shape[-1] else ""
        spent = f"{self.products} products"
        if self.method != "exact":
            spent = f"{self.probes} probes of {self.steps} steps, {spent}"
        spent = "; ".join([spent, *self.notes])
        return (
            f"Density({batch}{self.n} {self.part} values from {low:.4g} to {high:.4g}; {known}{self.method}, "
            f"{spent})"
        )

    @property
    def _rounding(self) -> Tensor:
        """How far rounding of products may move a value, (*batch, 1, 1)."""
        return rounding(self.eps, 1.0) * torch.as_tensor(self.norm)[..., None, None]

    def _mean(self, each: Tensor, change: Tensor | None = None) -> Estimate:
        """The mean over probes of (*batch, p, ...); its standard error contains the change that is given."""
        axis = self.nodes.ndim - 2
        if self.method == "exact":
            value = each.squeeze(axis)
            error = torch.zeros_like(value) if change is None else change
            return Estimate(plain(value), plain(error), self.n, self.products, "exact", math.inf)
        mean, stderr = each.mean(axis), each.std(axis) / math.sqrt(self.probes)
        if change is not None:
            # Student's factor is for the spread between few probes, and this change is no such spread.
            factor = student_t(0.95, math.inf) / student_t(0.95, self.probes - 1)
            stderr = torch.hypot(stderr, factor * change)
        return Estimate(plain(mean), plain(stderr), self.probes, self.products, self.method, self.probes - 1)


def _mass_below(nodes: Tensor, weights: Tensor, at: Tensor, steps: int) -> Tensor:
    """Each probe's mass at or below t, (*batch, p, q) for t (q,); see `Density.distribution`."""
    gaps = nodes.diff(dim=-1)
    reach = 2 * (nodes.amax(-1, keepdim=True) - nodes.amin(-1, keepdim=True)) / steps
    ended_early = (weights <= 1e-14).any(-1, keepdim=True)
    bridged = (gaps <= reach) & (gaps > 0) & ~ended_early
    rise = (weights[..., 1:] + weights[..., :-1]) / 2
    gaps = torch.where(gaps <= reach, gaps, reach / 2) * ~ended_early
    secants = torch.where(bridged, rise / torch.where(bridged, gaps, 1.0), 0.0)
    slopes = _slopes(secants, gaps, bridged)
    bends = (slopes[..., :-1] - secants) * bridged, (slopes[..., 1:] - secants) * bridged
    left, right = pad(gaps, (1, 0)).unsqueeze(-2), pad(gaps, (0, 1)).unsqueeze(-2)

    def mass(t: Tensor) -> Tensor:
        beyond = t.unsqueeze(-1) - nodes.unsqueeze(-2)
        halves = _ramp(beyond + left, left) + _ramp(beyond, right)
        straight = (halves * weights.unsqueeze(-2)).sum(-1) / 2
        u = _ramp(beyond, right)[..., :-1]
        bent = u * (1 - u) * (bends[0].unsqueeze(-2) * (1 - u) - bends[1].unsqueeze(-2) * u)
        return straight + (gaps.unsqueeze(-2) * bent).sum(-1)

    return _in_chunks(mass, at)


def _slopes(secants: Tensor, gaps: Tensor, bridged: Tensor) -> Tensor:
    """Derivatives of the distribution at the nodes that keep its cubics monotone (Fritsch, Butland 1984).

    A weighted harmonic mean of the secants to both sides, or the one secant where the other gap is open.
    """
    (a, g, left), (b, h, right) = (
        tuple(pad(x, side) for x in (secants, gaps, bridged)) for side in ((1, 0), (0, 1))
    )
    rising = (a > 0) & (b > 0)
    a_, b_ = torch.where(rising, a, 1.0), torch.where(rising, b, 1.0)
    mean = 3 * (g + h) / ((g + 2 * h) / a_ + (2 * g + h) / b_)
    return torch.where(left & right, torch.where(rising, mean, 0.0), a + b)


def _ramp(x: Tensor, length: Tensor) -> Tensor:
    """0 below 0, 1 above length, linear between; a step at x >= 0 where length = 0."""
    sloped = (x / torch.where(length > 0, length, 1.0)).clamp(0, 1)
    return torch.where(length > 0, sloped, (x >= 0).double())


def _in_chunks(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.cat([f(part) for part in at.split(128)], -1)
