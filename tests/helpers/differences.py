"""The derivative of any function, from its values alone: what every way of forming products is held against.

    D(h) = (f(y + h v) - f(y - h v)) / 2h,      R = (4 D(h/2) - D(h)) / 3 = f'(y) v + O(h^4)

In float64 with h = 1e-4 that leaves rounding, about 1e-11 |f|.  A kink or a jump within h of y shows: D(h)
and D(h/2) differ by more than curvature explains, or the second difference over h does not halve with h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 1e-4
SMOOTH = 1e-6  # relative; at a kink the two signs disagree by a share of the slope


@dataclass
class Truth:
    """J, (r, d) in float64, and which of its columns no kink of the function spoils, (d,)."""

    J: Tensor
    trusted: Tensor

    def error(self, found: Tensor) -> float:
        """|found - J| / |J| over the trusted columns; |found| itself where J is zero."""
        if found.shape != self.J.shape:
            raise AssertionError(f"J has shape {tuple(self.J.shape)}, found {tuple(found.shape)}")
        off = (found.double() - self.J)[:, self.trusted]
        if not torch.isfinite(off).all():
            return torch.inf
        return (off.norm() / (self.J[:, self.trusted].norm() or 1)).item()


def along(
    function: Callable[[Tensor], Tensor], y: Tensor, v: Tensor, at_y: Tensor | None = None
) -> tuple[Tensor, bool]:
    """f'(y) v, and whether f is smooth along v within h |v|, at y in float64; f may write to its input."""
    h = STEP
    far, near, ahead, beyond = (function(y + a * h * v).detach().double().clone() for a in (-1, -0.5, 0.5, 1))
    middle = function(y.clone()).detach().double().clone() if at_y is None else at_y
    wide, narrow = (beyond - far) / (2 * h), (ahead - near) / h
    bent = (beyond - 2 * middle + far) / h / 2 - 2 * (ahead - 2 * middle + near) / h
    limit = SMOOTH * max(narrow.abs().max().item(), 1e-3)
    smooth = max((wide - narrow).abs().max().item(), bent.abs().max().item()) <= limit
    return (4 * narrow - wide) / 3, smooth


def dense(function: Callable[[Tensor], Tensor], y: Tensor) -> Truth:
    """All of J at y, a column at a time: 4 d calls of the function."""
    y = y.detach().double()
    units = torch.eye(y.numel(), dtype=torch.float64).reshape(-1, *y.shape)
    at_y = function(y.clone()).detach().double().clone()
    columns, smooth = zip(*(along(function, y, v, at_y) for v in units), strict=True)
    return Truth(torch.stack([c.flatten() for c in columns], 1), torch.tensor(smooth))
