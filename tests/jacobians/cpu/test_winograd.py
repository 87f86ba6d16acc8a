import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from spectral.errors import OptionError, ShapeError
from spectral.jacobians.cpu import openmp, simd
from spectral.jacobians.cpu.gates import packed, unpacked
from spectral.jacobians.cpu.winograd import Winograd, offered

pytestmark = pytest.mark.skipif(
    simd.BYTES == 0 or not openmp.at_hand(), reason="the kernel needs AVX2 and a torch with GNU OpenMP"
)

ERROR = {torch.float32: 2e-6, torch.float64: 4e-15}  # relative, of one layer
LAYOUT = torch.channels_last


def step(dtype: torch.dtype) -> int:
    """Channels in two vectors."""
    return 2 * simd.BYTES // dtype.itemsize


def normal(*size: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_block(x: Tensor, gate: Tensor) -> Tensor:
    """Image i times gate i modulo their number."""
    gate = unpacked(gate) if gate.dtype == torch.uint8 else gate
    return (x.unflatten(0, (-1, len(gate))) * gate).flatten(0, 1)


def error(
    weight: Tensor,
    x: Tensor,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
) -> float:
    """Relative to torch's convolution in float64."""
    found = Winograd(weight).apply(x, gate_in, gate_out)
    assert found.dtype == x.dtype
    assert found.is_contiguous(memory_format=LAYOUT)
    before = x.double() if gate_in is None else by_block(x.double(), gate_in)
    expected = conv2d(before, weight.double(), padding=1)
    if gate_out is not None:
        expected = by_block(expected, gate_out)
    return ((found - expected).norm() / expected.norm()).item()


@given(
    st.sampled_from([torch.float32, torch.float64]),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19)),
    st.tuples(*2 * [st.sampled_from(["", "numbers", "zeros and ones", "bits"])]),
    st.integers(1, 3),
    st.integers(0, 99),
)
@example(torch.float32, (0, 16), (1, 9, 9), ("bits", "bits"), 1, 0)
@example(torch.float32, (4, 24), (2, 9, 9), ("zeros and ones", "bits"), 1, 0)
@settings(max_examples=200, deadline=None)
def test_it_is_the_convolution(
    dtype: torch.dtype,
    more: tuple[int, int],
    size: tuple[int, int, int],
    kinds: tuple[str, str],
    blocks: int,
    seed: int,
) -> None:
    gates, height, width = size
    channels, filters = (step(dtype) // 2 + n for n in more)
    weight = normal(filters, channels, 3, 3, dtype=dtype, seed=seed)
    x = normal(blocks * gates, channels, height, width, dtype=dtype, seed=seed + 1).to(memory_format=LAYOUT)

    def gate(kind: str, many: int) -> Tensor | None:
        slopes = normal(gates, many, height, width, dtype=dtype, seed=seed + 2)
        if kind in ("", "numbers"):
            return slopes if kind else None
        return packed(slopes) if kind == "bits" and many % 8 == 0 else (slopes > 0).to(torch.int8)

    before, behind = gate(kinds[0], channels), gate(kinds[1], filters)
    assert error(weight, x, before, behind) < ERROR[dtype]
    kernel = Winograd(weight)
    there = normal(blocks * gates, filters, height, width, dtype=dtype, seed=seed + 3)
    onto = there.to(memory_format=LAYOUT, copy=True)
    found = kernel.apply(x, before, behind)
    assert torch.equal(kernel.apply(x, before, behind, onto=onto), there + found)
    turned = Winograd(weight.transpose(0, 1).flip(2, 3), turned=True)
    torch.testing.assert_close(turned.apply(x, before, behind), found)


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_tiles(dtype: torch.dtype, threads: int) -> None:
    before = torch.get_num_threads()
    weight = normal(step(dtype), step(dtype), 3, 3, dtype=dtype, seed=0)
    x = normal(3, step(dtype), 61, 47, dtype=dtype, seed=1)
    try:
        torch.set_num_threads(threads)
        assert error(weight, x) < ERROR[dtype]
    finally:
        torch.set_num_threads(before)


def test_calls_from_many_threads_do_not_meet() -> None:
    dtype = torch.float32
    kernel = Winograd(normal(step(dtype), step(dtype), 3, 3, dtype=dtype, seed=0))
    inputs = [normal(1, step(dtype), 40, 40, dtype=dtype, seed=seed) for seed in range(8)]
    alone = [kernel.apply(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(kernel.apply, inputs), alone))


def test_nothing_beside_an_image_is_read() -> None:
    dtype, width = torch.float32, step(torch.float32)
    weight = normal(width, width, 3, 3, dtype=dtype, seed=0)
    inside = normal(1, width, 6, 7, dtype=dtype, seed=1)
    around = torch.full((3, 6, 7, width), torch.nan)
    around[1] = inside[0].permute(1, 2, 0)
    assert error(weight, around.permute(0, 3, 1, 2)[1:2]) < ERROR[dtype]
    many = torch.cat([inside, torch.full_like(inside, torch.nan), inside])
    found = Winograd(weight).apply(many, gate_out=packed(torch.ones_like(inside)))
    assert torch.equal(found[0], found[2])
    assert not found[[0, 2]].isnan().any()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_slope_that_is_no_number_stays_in_its_tile(bad: float) -> None:
    dtype, width = torch.float32, step(torch.float32)
    weight, x, slope = (
        normal(*size, dtype=dtype, seed=0)
        for size in ((width, width, 3, 3), (2, width, 9, 9), (2, width, 9, 9))
    )
    slope[0, :, 0, 0] = bad  # the first place in memory
    found = Winograd(weight).apply(x, gate_in=slope)
    assert not found[0, :, :2, :2].isfinite().any()
    assert found[0, :, 4:].isfinite().all()
    assert found[0, :, :, 4:].isfinite().all()
    alone = Winograd(weight).apply(x[1:], gate_in=slope[1:])
    assert torch.equal(found[1:], alone)


def test_rounding_stays_within_three_times_the_definitions() -> None:
    width = 2 * step(torch.float32)
    weight = normal(width, width, 3, 3, dtype=torch.float32, seed=0)
    x = normal(1, width, 40, 40, dtype=torch.float32, seed=1).to(memory_format=LAYOUT)
    exact = conv2d(x.double(), weight.double(), padding=1)
    direct = ((conv2d(x, weight, padding=1) - exact).norm() / exact.norm()).item()
    assert error(weight, x) < 3 * direct


def test_a_product_added_to_what_is_there() -> None:
    width, dtype = step(torch.float32), torch.float32
    weight, x = (normal(*size, dtype=dtype, seed=0) for size in ((width, width, 3, 3), (2, width, 9, 6)))
    bits = packed(normal(1, width, 9, 6, dtype=dtype, seed=1) > 0)
    kernel, before = Winograd(weight), normal(2, width, 9, 6, dtype=dtype, seed=2).to(memory_format=LAYOUT)
    onto = before.clone(memory_format=torch.preserve_format)
    assert kernel.apply(x, gate_out=bits, onto=onto) is onto
    torch.testing.assert_close(onto, before + kernel.apply(x, gate_out=bits))
    for wrong in (before[:1], before.double(), before.contiguous()):
        with pytest.raises(ShapeError, match="onto must be"):
            kernel.apply(x, onto=wrong)


def test_what_is_infinite_is_added_once() -> None:
    """Where the last vector of filters begins within the one before, too."""
    dtype, channels = torch.float32, step(torch.float32)
    filters = channels + 3
    weight, x = (
        normal(*size, dtype=dtype, seed=0) for size in ((filters, channels, 3, 3), (1, channels, 9, 6))
    )
    slope = torch.full((1, filters, 9, 6), torch.inf)
    kernel, onto = Winograd(weight), torch.zeros(1, filters, 9, 6).to(memory_format=LAYOUT)
    expected = kernel.apply(x, gate_out=slope)
    assert expected.isinf().all()
    assert torch.equal(kernel.apply(x, gate_out=slope, onto=onto), expected)


def test_more_weights_than_the_cache_holds() -> None:
    weight, x = (normal(*size, dtype=torch.float32, seed=0) for size in ((256, 256, 3, 3), (2, 256, 33, 30)))
    assert offered(weight, x.shape)
    assert error(weight, x) < ERROR[torch.float32]


def test_only_what_it_can_do_is_offered() -> None:
    wide = step(torch.float32)
    size = torch.Size((1, wide, 40, 40))
    assert offered(torch.zeros(wide, wide, 3, 3), size)
    assert offered(torch.zeros(wide // 2, wide // 2, 3, 3, dtype=torch.float64), size)
    assert not offered(torch.zeros(wide, wide, 5, 5), size)
    assert not offered(torch.zeros(wide, wide, 3), size)
    assert not offered(torch.zeros(wide, 1, 3, 3), size)
    assert not offered(torch.zeros(1, wide, 3, 3), size)
    assert not offered(torch.zeros(wide, wide, 3, 3, dtype=torch.bfloat16), size)
    assert not offered(torch.zeros(wide, wide, 3, 3, device="meta"), size)
    assert not offered(torch.zeros(512, 512, 3, 3), size)
    assert not offered(torch.zeros(wide, wide, 3, 3), torch.Size((1, wide, 2, 2)))


def test_bad_arguments_are_refused() -> None:
    wide = step(torch.float32)
    with pytest.raises(ShapeError, match="offered"):
        Winograd(torch.zeros(wide, 3, 3, 3))
    kernel, x = Winograd(torch.zeros(wide, wide, 3, 3)), torch.zeros(2, wide, 5, 5)
    with pytest.raises(ShapeError, match="x must be"):
        kernel.apply(x.double())
    with pytest.raises(ShapeError, match="x must be"):
        kernel.apply(x[:, 1:])
    for bad in (
        x[:, :, 1:],
        x.double(),
        x.to(torch.int32),
        torch.zeros(3, wide, 5, 5),
        x[:0],
        packed(x)[1:, 1:],
    ):
        with pytest.raises(ShapeError, match="gates must be"):
            kernel.apply(x, gate_out=bad)


def test_without_torchs_threads_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "_start", lambda more: None)
    assert not offered(torch.zeros(32, 32, 3, 3), torch.Size((1, 32, 40, 40)))
    with pytest.raises(OptionError, match="OpenMP"):
        openmp.region(0, ctypes.c_void_p(), 1)
