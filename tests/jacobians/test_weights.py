"""Whether weights are still what they were."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spectral
from spectral.errors import SpectralError
from spectral.jacobians.checksums import of_entries
from spectral.jacobians.cpu import openmp
from spectral.jacobians.weights import Weights

DTYPES = [torch.float16, torch.float32, torch.float64, torch.complex64]


def kept(p):
    model = nn.Module()
    model.p = nn.Parameter(p)
    return model, Weights(model, [])


@given(
    n=st.sampled_from([1, 2, 3, 511, 512, 513, 1024, 5000]),
    dtype=st.sampled_from(DTYPES),
    offset=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_one_bit_and_one_exchange_show(n, dtype, offset, seed):
    """Written through `.data`, which torch does not count."""
    generator = torch.Generator().manual_seed(seed)
    model, weights = kept(torch.randn(n + offset, generator=generator).to(dtype)[offset:])
    assert not weights.changed(thorough=True)
    values = model.p.data
    i, j = (int(k) for k in torch.randint(n, (2,), generator=generator))
    byte = torch.view_as_real(values) if values.is_complex() else values
    byte = byte.view(torch.uint8).flatten()
    byte[i] ^= 1
    assert weights.changed(thorough=True)
    byte[i] ^= 1
    assert not weights.changed(thorough=True)
    if values[i] != values[j]:
        values[[i, j]] = values[[j, i]]
        assert weights.changed(thorough=True)


@pytest.mark.parametrize("dim", [0, 1])
def test_channels_exchanged_show(dim):
    """Rows of a table of weights, of any length."""
    model, weights = kept(torch.randn(64, 1024))
    model.p.data = model.p.data.index_select(dim, torch.arange(64 if dim == 0 else 1024).flip(0))
    assert weights.changed(thorough=True)


def test_the_same_values_elsewhere_are_no_change():
    """As `vector_to_parameters` leaves them, at places where no word begins."""
    model, weights = kept(torch.randn(1025))
    flat = torch.cat([torch.zeros(1), model.p.detach()])
    model.p.data = flat[1:]
    assert not weights.changed(thorough=True)


@pytest.mark.parametrize("seed", range(4))
def test_compiled_checksums_tell_what_the_others_do(seed, monkeypatch):
    """Of bytes in any number, at any place, in rows or not."""
    generator = torch.Generator().manual_seed(seed)
    several = [
        torch.randn(37 * 8, generator=generator)[seed:],
        torch.randn(5, 7, generator=generator).T[1:],
        torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        torch.randn(5, generator=generator).half(),
    ]
    for level in ("compiled", "torch"):
        if level == "torch":
            monkeypatch.setattr("spectral.jacobians.cpu.openmp.vector_bytes", lambda: 0)
        for p in several:
            model, weights = kept(p.clone(memory_format=torch.preserve_format))
            model.p.data.flatten()  # looked at alone
            assert not weights.changed(thorough=True)
            model.p.data[-1].mul_(1.01)
            assert weights.changed(thorough=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_signs_do_not_make_up_for_each_other_in_compiled_checksums(dtype):
    """All choices of twelve signs, in words of three sums and rows of sums that follow one another."""
    if not openmp.vector_bytes():
        pytest.skip("no compiled checksums")
    torch.manual_seed(0)
    a_word = 8 // dtype.itemsize
    places = [64 * row + of for row in (2, 3, 4, 5) for of in (7, 8, 9)][:: a_word // 2 or 1]
    entries = [a_word * word + i for word in places for i in range(a_word)][:12]
    signs = 1 - 2 * torch.tensor([*itertools.product((0, 1), repeat=len(entries))]).to(dtype)
    weights = torch.randn(6 * 64 * a_word).to(dtype).repeat(len(signs), 1)
    weights[:, entries] *= signs
    assert len({*of_entries([*weights])}) == len(signs)


def test_raw_products_are_not_asked_for_writes_that_torch_does_not_count():
    """The contract of `apply`: the program's are those of the old weights, until somebody asks."""
    torch.manual_seed(0)
    model, y = nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 6, 6)
    J, V = spectral.jacobian(model, y), torch.rand(2, 36)
    before = J.apply(V), J.apply_transpose(V)
    model.weight.data.mul_(1.1)
    assert torch.equal(J.apply(V), before[0]) and torch.equal(J.apply_transpose(V), before[1])
    for asked in (J.check_current, lambda: J @ V[0], lambda: spectral.trace(J)):
        with pytest.raises(SpectralError, match="have changed"):
            asked()
    J = spectral.jacobian(model, y)
    with torch.no_grad():
        model.weight.mul_(1.1)  # counted
    with pytest.raises(SpectralError, match="have changed"):
        J.apply(V)
