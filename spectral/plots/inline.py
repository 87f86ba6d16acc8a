"""Small pictures in HTML for notebooks, without matplotlib: lines as SVG, images as PNG in the page itself.

They cost milliseconds and kilobytes; `plot()` has the figures with axes.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

Line = tuple[str, Sequence[float]]  # a name, and a value for each x
Panel = tuple[str, Tensor, bool]  # what is above it, an image (..., H, W), whether zero is its middle

MOST = 6  # images in a row
SIDE = 96  # pixels, at most
WIDTH, HEIGHT, EDGE = 300, 100, 14
COLOURS = ("#1f5fa8", "#d9741a", "#333333")  # as in `style`, which imports matplotlib
POSITIVE, NEGATIVE = (178.0, 24.0, 43.0), (33.0, 102.0, 172.0)  # the ends of RdBu
WHITE = 247.0


def lines(x: Sequence[float], named: Sequence[Line], what: str, log: bool = False) -> str:
    """Lines over x with the ends of both scales written beside them; "" where there is nothing to draw.

    Args:
        x: at least two, in any order; points that are not finite, or not positive on a logarithmic scale, are
            left out.
        named: one line each, at most three.
        what: is drawn over what, in words.
        log: whether the scale of y is logarithmic.
    """
    drawn = [
        [(a, math.log10(b) if log else b) for a, b in sorted(zip(x, y, strict=True)) if _fits(b, log)]
        for _, y in named
    ]
    heights = [b for line in drawn for _, b in line]
    if len(x) < 2 or len(heights) < 2:
        return ""
    low, high = min(heights), max(heights)
    across = (WIDTH - 2 * EDGE) / (max(x) - min(x) or 1.0)
    up = (HEIGHT - 2 * EDGE) / (high - low or 1.0)
    paths = ""
    for colour, line in zip(COLOURS, drawn, strict=False):
        points = [
            (f"{EDGE + across * (a - min(x)):.1f}", f"{HEIGHT - EDGE - up * (b - low):.1f}") for a, b in line
        ]
        joined = " ".join(f"{a},{b}" for a, b in points)
        paths += f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if len(points) <= 40:
            paths += "".join(f'<circle cx="{a}" cy="{b}" r="2" fill="{colour}"/>' for a, b in points)
    top, bottom = (f"{10**end if log else end:.4g}" for end in (high, low))
    names = "".join(
        f' <span style="color: {colour}">{html.escape(name)}</span>'
        for colour, (name, _) in zip(COLOURS, named, strict=False)
        if name
    )
    scale = ", logarithmic" if log else ""
    return (
        f'<div style="font-size: 85%">{html.escape(what)}: {bottom} to {top}{scale}, over {min(x):.4g} to '
        f'{max(x):.4g}{names}<br><svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'style="background: white">{paths}</svg></div>'
    )


def images(panels: Sequence[Panel]) -> str:
    """The first six images side by side, in grey or colour, or red and blue about zero."""
    shown = "".join(
        '<span style="display: inline-block; margin: 4px; text-align: center; font-size: 85%">'
        f'{html.escape(name)}<br><img alt="{html.escape(name)}" width="{SIDE}" '
        f'style="image-rendering: pixelated" src="data:image/png;base64,{_png(x, signed)}"></span>'
        for name, x, signed in panels[:MOST]
    )
    return f"<div>{shown}</div>"


def is_image(shape: Sequence[int]) -> bool:
    """Whether (..., H, W) or (..., 3, H, W), the rest of length 1, can be looked at."""
    leading = list(shape[:-2])
    if leading[-1:] == [3]:
        leading.pop()
    return len(shape) >= 2 and min(shape[-2:]) >= 2 and all(side == 1 for side in leading)


def _fits(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _png(x: Tensor, signed: bool) -> str:
    """A PNG in base64 of at most SIDE pixels to a side, its own scale from black to white, or about zero."""
    from PIL import Image  # noqa: PLC0415  not for those who print

    planes = x.detach().to("cpu", torch.float32).reshape(-1, *x.shape[-2:]).nan_to_num()
    if signed or len(planes) != 3:
        planes = planes.mean(0, keepdim=True)
    shrink = max(1.0, max(planes.shape[-2:]) / SIDE)
    height, width = (max(1, round(side / shrink)) for side in planes.shape[-2:])
    planes = adaptive_avg_pool2d(planes, (height, width))
    if signed:
        t = planes[0] / planes.abs().max().clamp(min=1e-30)
        end = torch.where(t.unsqueeze(-1) > 0, torch.tensor(POSITIVE), torch.tensor(NEGATIVE))
        pixels = WHITE + t.abs().unsqueeze(-1) * (end - WHITE)
    else:
        low, high = planes.min(), planes.max()
        pixels = 255 * ((planes - low) / (high - low).clamp(min=1e-30)).permute(1, 2, 0)
        pixels = pixels.squeeze(-1)
    png = io.BytesIO()
    Image.fromarray(pixels.round().to(torch.uint8).numpy()).save(png, format="PNG")
    return base64.b64encode(png.getvalue()).decode("ascii")
