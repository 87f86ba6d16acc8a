"""The networks against a naive forward pass written from the paper, and against its parameter counts."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, relu

from denoisers.networks import BFCNN, BiasFreeNorm, UNet, layers

UNETS = st.builds(UNet, blocks=st.integers(1, 3), width=st.integers(1, 5), channels=st.integers(1, 3))
BFCNNS = st.builds(
    BFCNN,
    layers=st.integers(2, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 3),
    first_relu=st.booleans(),
)


def randomised(model, seed=0):
    """The model in float64 and evaluation mode, its norms as far from the identity as training makes them."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, BiasFreeNorm):
            module.running_sd.uniform_(0.5, 2)
            with torch.no_grad():
                module.gamma.uniform_(-1, 2)
    return model.double().eval()


@given(UNETS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=20)
def test_the_mean_over_flips_is_equivariant_and_no_worse(one, height, width, seed):
    averaged = UNet(**one.config, flips=True)
    averaged.load_state_dict(randomised(one, seed).state_dict())
    averaged.double().eval()
    sides = (height * one.side_multiple, width * one.side_multiple)
    x, y = torch.randn(2, 2, one.channels, *sides, dtype=torch.float64)
    flipped = [lambda t, axes=axes: t.flip(axes) for axes in ((), (2,), (3,), (2, 3))]
    with torch.no_grad():
        f, singles = averaged(y), [flip(one(flip(y))) for flip in flipped]
        torch.testing.assert_close(f, sum(singles) / 4)
        for flip in flipped:
            torch.testing.assert_close(averaged(flip(y)), flip(f))
        # Jensen: over images and their flips alike, whatever the images are.
        assert (f - x).square().sum() <= sum((s - x).square().sum() for s in singles) / 4 * (1 + 1e-12)
        torch.testing.assert_close(averaged.train()(y), one.train()(y))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("blocks", "count"), [(1, 366_080), (2, 1_825_024), (3, 7_659_264), (4, 30_993_152)])
def test_unet_has_the_parameters_of_table_1(blocks, count):
    with torch.device("meta"):
        assert parameters(UNet(blocks)) == count


def test_bfcnn_has_the_published_parameters():
    assert parameters(BFCNN()) == 702_784


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_by_a_gradient_of_its_own_is_pooling(layout):
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    ours, pooled = layers._Halved.apply(x), avg_pool2d(x, 2)
    g = torch.randn_like(ours)
    torch.testing.assert_close(ours, pooled)
    (mine,), (theirs,) = (torch.autograd.grad(out, x, g) for out in (ours, pooled))
    torch.testing.assert_close(mine, theirs)


def test_norm_in_training_divides_by_the_biased_deviation_and_keeps_the_mean():
    norm = BiasFreeNorm(3).double().train()
    x = 5 + 2 * torch.randn(4, 3, 6, 5, dtype=torch.float64)
    out = norm(x)
    for c in range(3):
        sd = ((x[:, c] - x[:, c].mean()).square().mean() + 1e-5).sqrt()
        torch.testing.assert_close(out[:, c], x[:, c] / sd * norm.gamma[c])
        torch.testing.assert_close(norm.running_sd[c], 0.9 + 0.1 * sd)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("chunk", [1, 100, layers._CHUNK])
def test_moments_and_their_derivatives_are_torchs(monkeypatch, layout, chunk):
    """Whatever share of the images is looked at at once; a mean of 50 deviations costs no digits."""
    monkeypatch.setattr(layers, "_CHUNK", chunk)
    x = (50 + torch.randn(5, 3, 6, 4, dtype=torch.float64)).to(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 3, dtype=torch.float64)
    results = []
    for moments in (layers._Moments.apply, lambda x: torch.var_mean(x, (0, 2, 3), correction=0)):
        found = moments(x)
        (slope,) = torch.autograd.grad((torch.stack(found) * weights).sum(), x)
        results.append((*found, slope))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(layers._Moments.apply(x.float())[0].double(), results[1][0], rtol=1e-5, atol=0)
    half = layers._Moments.apply(x.bfloat16())
    assert half[0].dtype == torch.float32


def test_norm_in_evaluation_uses_the_running_deviation_alone():
    norm = BiasFreeNorm(2).eval()
    norm.running_sd.copy_(torch.tensor([0.5, 4.0]))
    x = torch.randn(1, 2, 3, 3)
    expected = x * norm.gamma[:, None, None] / torch.tensor([0.5, 4.0])[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    assert norm.running_sd.tolist() == [0.5, 4.0]


def test_gamma_starts_small():
    gamma = BiasFreeNorm(4000).gamma.detach()
    assert gamma.abs().max() == pytest.approx(0.025)
    inside = gamma.abs() < 0.025
    # P(|g| < a) = erf(a / (sd sqrt(2))), and sd sqrt(2) = 2 / 24.
    assert float(inside.float().mean()) == pytest.approx(math.erf(0.025 * 12), abs=0.03)


def naive_unet(model, y):
    """The paper's UNet written out: a dictionary of weights and functional calls."""
    sds = iter(buffer for _, buffer in model.named_buffers())
    by_block = dict(model.named_parameters())

    def layers(prefix):
        return [tensor for name, tensor in by_block.items() if name.startswith(prefix)]

    def block(x, tensors, first_plain=False, last_bare=False):
        if first_plain:
            x, tensors = relu(conv2d(x, tensors[0], padding=1)), tensors[1:]
        while len(tensors) >= 2:
            x = conv2d(x, tensors[0], padding=1)
            x = relu(x / next(sds)[:, None, None] * tensors[1][:, None, None])
            tensors = tensors[2:]
        return conv2d(x, tensors[0], padding=1) if last_bare else x

    x, skips = y, []
    for b in range(model.config["blocks"]):
        x = block(x, layers(f"encoder.{b}."), first_plain=b == 0)
        skips.append(x)
        x = avg_pool2d(x, 2)
    x = block(x, layers("middle."))
    for b in range(model.config["blocks"]):
        up = conv_transpose2d(x, layers(f"up.{b}.")[0], stride=2)
        x = block(
            torch.cat([up, skips.pop()], 1),
            layers(f"decoder.{b}."),
            last_bare=b == model.config["blocks"] - 1,
        )
    return y - x


@settings(max_examples=15, deadline=None)
@given(UNETS, st.integers(1, 3), st.integers(1, 3))
def test_unet_is_the_naive_definition(model, rows, columns):
    randomised(model)
    y = torch.randn(2, model.channels, rows * model.side_multiple, columns * model.side_multiple).double()
    torch.testing.assert_close(model(y), naive_unet(model, y))


def naive_bfcnn(model, y):
    tensors = list(model.parameters())
    sds = list(model.buffers())
    x = conv2d(y, tensors[0], padding=1)
    if model.config["first_relu"]:
        x = relu(x)
    for i, sd in enumerate(sds):
        weight, gamma = tensors[1 + 2 * i : 3 + 2 * i]
        x = relu(conv2d(x, weight, padding=1) / sd[:, None, None] * gamma[:, None, None])
    return y - conv2d(x, tensors[-1], padding=1)


@settings(max_examples=15, deadline=None)
@given(BFCNNS, st.integers(1, 7), st.integers(1, 7))
def test_bfcnn_is_the_naive_definition(model, rows, columns):
    randomised(model)
    y = torch.randn(2, model.channels, rows, columns).double()
    torch.testing.assert_close(model(y), naive_bfcnn(model, y))


@settings(max_examples=20, deadline=None)
@given(st.one_of(UNETS, BFCNNS), st.floats(1e-3, 1e3))
def test_networks_are_homogeneous_of_degree_one_in_evaluation(model, scale):
    randomised(model)
    y = torch.randn(1, model.channels, 8, 16).double()
    torch.testing.assert_close(model(scale * y), scale * model(y), rtol=1e-9, atol=1e-9 * scale)


def test_homogeneity_fails_in_training_mode():
    model = randomised(UNet(1, 4)).train()
    y = torch.randn(1, 1, 8, 8).double()
    assert not torch.allclose(model(10 * y), 10 * model(y), rtol=1e-3)


def test_receptive_field_of_three_blocks_is_92_to_100():
    model = randomised(UNet(3, 2)).float()
    with torch.no_grad():  # positive weights: no path cancels, no gate closes
        for p in model.parameters():
            p.abs_()
    widths = []
    for column in range(120, 128):
        y = torch.ones(1, 1, 8, 248).requires_grad_()
        model.noise(y)[0, 0, 4, column].backward()
        reached = y.grad[0, 0].abs().amax(0).nonzero().flatten()
        widths.append(int(reached[-1] - reached[0] + 1))
    assert (min(widths), max(widths)) == (92, 100)


def test_initial_noise_prediction_is_finite_and_has_gradients():
    model = UNet(2, 8).train()
    model(torch.rand(4, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 1, 10, 16), (1, 1, 16, 10)])
def test_unet_refuses_sides_it_cannot_halve(shape):
    with pytest.raises(ValueError, match="multiples of 4, got"):
        UNet(2, 2)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((16, 16), "y[None, None] adds the axes"),
        ((1, 16, 16), "y[None] adds the axis"),
        ((1, 3, 16, 16), "load a network with that many channels"),
        ((1, 1, 1, 16, 16), "merge axes with y.reshape"),
    ],
)
def test_networks_refuse_other_axes_and_channels(shape, way):
    with pytest.raises(ValueError, match=rf"shape \(N, 1, H, W\), got .*: {re.escape(way)}"):
        BFCNN(3, 2)(torch.zeros(shape))


@pytest.mark.parametrize(
    "make",
    [lambda: UNet(0), lambda: UNet(width=0), lambda: BFCNN(1), lambda: BFCNN(channels=0)],
)
def test_networks_refuse_impossible_sizes(make):
    with pytest.raises(ValueError, match="needs"):
        make()
