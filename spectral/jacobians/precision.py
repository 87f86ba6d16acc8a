"""The arithmetic inside products: what a `precision` by name is on the machine at hand."""

from __future__ import annotations

import platform
from typing import Literal, NamedTuple

import torch

from spectral.ambient import Float32
from spectral.options import choice

Precision = Literal["float64", "float32", "tf32", "bfloat16"]

PRECISIONS: dict[Precision, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}
_EPS = {"tf32": 2.0**-10}  # of the others, their dtype's


class Arithmetic(NamedTuple):
    """How products are formed.

    Attributes:
        dtype: of a program's constants and of what flows through it.
        eps: the spacing of numbers at 1 that it may come down to.
        note: what to tell of it.
    """

    dtype: torch.dtype
    eps: float
    note: str = ""


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """The fastest arithmetic on a device that is at least as exact as `precision`.

    A CPU that cannot multiply bfloat16 takes several times as long for it as for float32, which stands in.

    Raises:
        OptionError: no such precision.
    """
    choice("precision", precision, PRECISIONS)
    dtype = PRECISIONS[precision]
    eps = _EPS.get(precision, torch.finfo(dtype).eps)
    if precision == "bfloat16" and device.type == "cpu" and not _multiplies_bfloat16():
        note = "products in float32: this CPU multiplies bfloat16 no faster"
        return Arithmetic(torch.float32, torch.finfo(torch.float32).eps, note)
    return Arithmetic(dtype, eps, f"products in {precision}")


def _multiplies_bfloat16() -> bool:
    """On x86 AVX512-BF16 alone multiplies no more of them at once than AVX-512 does float32."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return torch.cpu._is_amx_tile_supported() if x86 else torch.ops.mkldnn._is_mkldnn_bf16_supported()


def float32_of(precision: Precision | None) -> Float32 | None:
    """How float32 is multiplied on a GPU in products of that precision; None for the model's own."""
    return None if precision is None else "tf32" if precision == "tf32" else "ieee"
