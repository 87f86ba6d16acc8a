"""SPECTRAL_CPU, in processes of their own: it is read once, at import."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from spectral.errors import OptionError
from spectral.kernels import cpu

COMPILED = """
import numba, numpy as np, spectral
from spectral.jacobians.cpu import simd, winograd
import torch
@numba.njit(fastmath=True)
def double(x):
    for i in range(len(x)):
        x[i] = 2 * x[i]
double(np.ones(99, np.float32))
(code,) = double.inspect_asm().values()
offered = winograd.offered(torch.zeros(64, 64, 3, 3), torch.Size((1, 64, 96, 96)))
print(simd.BYTES, offered, *(register in code for register in ("xmm", "ymm", "zmm")))
"""


def run(level: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPECTRAL_CPU": level}
    return subprocess.run(  # noqa: PLW1510  some are to fail
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="registers of an x86")
@pytest.mark.parametrize("level", cpu.at_hand())
def test_code_has_no_wider_registers_than_named(level: str) -> None:
    width, offered, *registers = run(level, COMPILED).stdout.split()
    assert int(width) == cpu.BYTES[level] and offered == str(level != "none")
    allowed = {"none": ["xmm"], "avx2": ["xmm", "ymm"], "avx512": ["xmm", "ymm", "zmm"]}[level]
    used = [name for name, found in zip(("xmm", "ymm", "zmm"), registers, strict=True) if found == "True"]
    assert used and set(used) <= set(allowed)
    if level == "avx2":
        assert "ymm" in used


@pytest.mark.parametrize("level", ["avx", ""])
def test_an_unknown_level_is_refused_at_import(level: str) -> None:
    done = run(level, "import spectral")
    assert done.returncode and f"SPECTRAL_CPU is one of none, avx2, avx512; got '{level}'" in done.stderr


def test_a_level_too_late_for_numba_is_refused() -> None:
    code = "import numba; numba.njit(lambda x: x)(1); import spectral"
    assert "Numba has compiled code already" in run("none", code).stderr


def test_a_level_beyond_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    assert cpu.chosen(None) == cpu.chosen("avx2") == "avx2" and cpu.chosen("none") == "none"
    with pytest.raises(OptionError, match="SPECTRAL_CPU=avx512, but this CPU has no more than avx2"):
        cpu.chosen("avx512")
