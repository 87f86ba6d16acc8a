"""Adapters of small networks against the textbook formulas, differentiated by autograd in float64."""

import copy
import math

import pytest
import torch
from torch import nn

import spectral
from denoisers.adapters import Decoder, Diffusion, Flow, at_layer, decoded, from_diffusers, with_respect_to
from denoisers.adapters.diffusers import schedule_of
from spectral.errors import ModelOutputError, OptionError, ShapeError
from tests.helpers.diffusion_standin import Autoencoder, Network, dense, matrix, ready, scheduler

generator = torch.Generator().manual_seed(1)
y = torch.rand(1, 2, 4, 4, generator=generator, dtype=torch.float64)
prompt, negative = torch.randn(2, 1, 3, 5, generator=generator, dtype=torch.float64)
T = 400
CUMPROD = scheduler().alphas_cumprod[T].double().item()
ALPHA, SIGMA = math.sqrt(CUMPROD), math.sqrt(1 - CUMPROD)


def textbook(kind, network, told=prompt):
    """y -> E[x | y] written out, at timestep T, images in [0, 1]."""
    flow = kind == "flow_prediction"
    alpha, sigma = (1 - T / 1000, T / 1000) if flow else (ALPHA, SIGMA)
    t = torch.tensor([T], dtype=torch.float64 if flow else torch.int64)

    def f(y):
        z = alpha * (2 * y - 1)
        F = network(z, t, told).sample
        w = {
            "epsilon": (z - sigma * F) / alpha,
            "v_prediction": alpha * z - sigma * F,
            "sample": F,
            "flow_prediction": z - sigma * F,
        }[kind]
        return (w + 1) / 2

    return f


KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision(dtype):
    """What surrounds the network stays in the precision of y: at little noise J is nearly all of that."""
    for t, least in ((5, 1e-3), (T, 0.03)):
        network = ready(Network())
        truth = dense(from_diffusers(network, scheduler(), prompt=prompt).at(timestep=t), y)
        half = from_diffusers(ready(Network(), dtype), scheduler(), prompt=prompt.float()).at(timestep=t)
        image = y.float()
        assert half(image).dtype is torch.float32
        J = spectral.jacobian(half, image)
        assert J.dtype is torch.float32 and J.eps >= torch.finfo(dtype).eps
        assert (matrix(J).double() - truth).abs().max() <= least * truth.abs().max()
        sigma_1 = spectral.top_svd(half, image, 1).values[0]
        assert abs(sigma_1 - torch.linalg.svdvals(truth)[0]) <= least * sigma_1


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians(kind):
    network, expected = ready(Network()), textbook(kind, ready(Network()))
    f = from_diffusers(network, scheduler(kind), prompt=prompt).at(timestep=T)
    torch.testing.assert_close(f(y), expected(y), rtol=0, atol=1e-13)
    J, truth = spectral.jacobian(f, y), dense(expected, y)
    assert J.method == "frozen"
    torch.testing.assert_close(matrix(J), truth, rtol=0, atol=1e-12)
    single = from_diffusers(ready(Network(), torch.float32), scheduler(kind), prompt=prompt).at(timestep=T)
    found = matrix(spectral.jacobian(single, y.float())).double()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5 * truth.abs().max().item())
    told = spectral.jacobian(f.denoiser, y, model_kwargs={"sigma": f.sigma})
    torch.testing.assert_close(matrix(told), truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_spectra_are_the_dense_ones(kind):
    f = from_diffusers(ready(Network()), scheduler(kind), prompt=prompt).at(timestep=T)
    J = dense(textbook(kind, ready(Network())), y)
    values = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)
    torch.testing.assert_close(spectral.top_eigs(f, y, k=4).values, values[:4])
    torch.testing.assert_close(spectral.top_svd(f, y, k=4).values, torch.linalg.svdvals(J)[:4])


@pytest.mark.parametrize("streams", ["together", "apart"])
def test_guidance(streams):
    network = ready(Network())
    options = {"prompt": prompt, "negative": negative, "streams": streams}
    f = from_diffusers(network, scheduler(), guidance=7.5, **options).at(timestep=T)
    with_it, without = textbook("epsilon", network), textbook("epsilon", network, negative)
    expected = lambda y: without(y) + 7.5 * (with_it(y) - without(y))  # noqa: E731
    torch.testing.assert_close(f(y), expected(y), rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix(spectral.jacobian(f, y)), dense(expected, y), rtol=0, atol=1e-12)
    for g, alone in ((0.0, without), (1.0, with_it)):
        f = from_diffusers(network, scheduler(), guidance=g, **options).at(timestep=T)
        torch.testing.assert_close(f(y), alone(y), rtol=0, atol=1e-13)
    many = torch.rand(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    f = from_diffusers(network, scheduler(), guidance=7.5, **options).at(timestep=T)
    J = spectral.jacobian(f, many, batched=True)
    rows = J.apply(torch.eye(32, dtype=torch.float64).expand(3, -1, -1))
    for i in range(3):
        torch.testing.assert_close(rows[i].T, dense(expected, many[i : i + 1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_prompt_as_the_variable(guidance):
    network = ready(Network())
    f = from_diffusers(network, scheduler(), prompt=prompt, negative=negative, guidance=guidance)
    p = torch.randn(1, 3, 5, generator=generator, dtype=torch.float64)
    g = with_respect_to("prompt", f.at(timestep=T), y)
    truth = guidance * dense(lambda p: textbook("epsilon", network, p)(y), p)
    torch.testing.assert_close(matrix(spectral.jacobian(g, p)), truth, rtol=0, atol=1e-12)
    told = with_respect_to("prompt", f, y, sigma=f.at(timestep=T).sigma)
    torch.testing.assert_close(spectral.top_svd(told, p, k=2).values, torch.linalg.svdvals(truth)[:2])
    with pytest.raises(OptionError, match="is the variable"):
        with_respect_to("prompt", f, y, prompt=p)


def test_layers():
    network = ready(Network())
    f = from_diffusers(network, scheduler(), prompt=prompt).at(timestep=T)
    h = at_layer(f, "mid_block")

    def truth(y):
        shift = network.text(prompt).tanh().mean(1) + (torch.tensor([T]) / 300).sin()
        return network.mid_block(network.conv_in(ALPHA * (2 * y - 1)) * (1 + shift[:, :, None, None]))

    torch.testing.assert_close(h(y), truth(y))
    J = spectral.jacobian(h, y)
    assert J.shape == (64, 32) and J.method == "frozen"
    torch.testing.assert_close(matrix(J), dense(truth, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectral.top_svd(h, y, k=3).values, torch.linalg.svdvals(dense(truth, y))[:3])
    assert not network.mid_block._forward_hooks
    assert at_layer(f, "model.mid_block.1").path == "denoiser.network.model.mid_block.1"
    with pytest.raises(OptionError, match=r"no layer 'middle'; among them are .*mid_block"):
        at_layer(f, "middle")
    two = nn.Sequential(copy.deepcopy(network), copy.deepcopy(network))
    with pytest.raises(OptionError, match="several layers"):
        at_layer(two, "mid_block")
    with pytest.raises(OptionError, match="ran 1 times, and call 1"):
        at_layer(f, "mid_block", call=1)(y)


def test_a_layer_is_read_in_either_stream():
    options = {"prompt": prompt, "negative": negative, "guidance": 3.0}
    network = ready(Network())
    both = from_diffusers(network, scheduler(), **options).at(timestep=T)
    apart = from_diffusers(network, scheduler(), streams="apart", **options).at(timestep=T)
    each = [at_layer(apart, "mid_block", call=i)(y) for i in range(2)]
    torch.testing.assert_close(at_layer(both, "mid_block")(y), torch.cat(each))


def test_latents_and_decoder():
    network, vae = ready(Network()), ready(Autoencoder())
    f = from_diffusers(network, scheduler(), prompt=prompt, units=None).at(timestep=T)
    assert f.sigma == pytest.approx(SIGMA / ALPHA)

    def truth(z):
        F = network(ALPHA * z, torch.tensor([T]), prompt).sample
        return (vae.decode((z - SIGMA / ALPHA * F) / 0.18 + 0.1).sample + 1) / 2

    g = decoded(f, vae)
    torch.testing.assert_close(g(y), truth(y))
    J = spectral.jacobian(g, y)
    assert J.shape == (64, 32)
    torch.testing.assert_close(matrix(J), dense(truth, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(spectral.top_svd(g, y, k=3).values, torch.linalg.svdvals(dense(truth, y))[:3])
    told = decoded(f.denoiser, Decoder(vae))
    torch.testing.assert_close(told(y, sigma=f.sigma), truth(y))
    vae.config = {"latents_mean": [0.5, -0.5], "latents_std": [2.0, 3.0]}
    mean, std = (torch.tensor(vae.config[n], dtype=y.dtype).reshape(1, 2, 1, 1) for n in vae.config)
    torch.testing.assert_close(Decoder(vae)(y), (vae.decode(y * std + mean).sample + 1) / 2)
    with pytest.raises(OptionError, match="cannot be"):
        Decoder(3)


def test_learned_variances_are_left_out():
    network = ready(Network(out=4))
    f = from_diffusers(network, scheduler(), prompt=prompt).at(timestep=T)
    z = ALPHA * (2 * y - 1)
    F = network(z, torch.tensor([T]), prompt).sample[:, :2]
    torch.testing.assert_close(f(y), ((z - SIGMA * F) / ALPHA + 1) / 2)
    with pytest.raises(ShapeError, match="twice its channels"):
        from_diffusers(ready(Network(out=3)), scheduler(), prompt=prompt).at(timestep=T)(y)


def test_conditions_in_nested_form_and_rows():
    seen = {}

    def network(z, t, *, extra, label, scale):
        seen.update(t=t, extra=extra, label=label, scale=scale)
        return z

    condition = {"extra": {"text": torch.zeros(1, 3)}, "label": torch.tensor([7]), "scale": 2}
    free = {"extra": {"text": torch.ones(1, 3)}, "label": torch.tensor([9])}
    f = Diffusion(network, Flow(), "flow", condition=condition, unconditional=free, guidance=2.0)
    f(torch.cat([y, y]), 0.3)
    assert seen["label"].tolist() == [9, 9, 7, 7] and seen["scale"] == 2
    assert seen["extra"]["text"][:, 0].tolist() == [1, 1, 0, 0] and seen["extra"]["text"].dtype == y.dtype
    assert seen["t"].shape == (4,)
    f(y, 0.3, label=torch.tensor([3]))
    assert seen["label"].tolist() == [9, 3]
    free["label"] = torch.tensor([[9, 9]])
    f = Diffusion(network, Flow(), "flow", condition=condition, unconditional=free, guidance=2.0)
    with pytest.raises(ShapeError, match="label has the shape"):
        f(y, 0.3)
    f.unconditional = {"scale": 3}
    with pytest.raises(OptionError, match="differ in scale"):
        f(y, 0.3)


def test_timesteps_are_whole_where_they_can_be():
    seen = []

    def network(z, t, **_):
        seen.append(t)
        return z

    f = Diffusion(network, schedule_of(scheduler())[0])
    f.at(timestep=T)(y)
    f(y, torch.tensor(f.at(timestep=T).sigma, dtype=torch.float32))
    f(y.bfloat16(), 0.3)
    assert [t.dtype for t in seen] == [torch.int64, torch.int64, torch.float32]
    assert seen[0].tolist() == seen[1].tolist() == [T]


def test_schedulers():
    schedule, prediction, scale = schedule_of(scheduler("flow_prediction"))
    assert isinstance(schedule, Flow) and (prediction, scale) == ("flow", 1.0)
    for kind in ("epsilon", "v_prediction"):
        edm = scheduler(kind, sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)
        del edm.alphas_cumprod
        schedule, prediction, scale = schedule_of(edm)
        level = schedule.at_ratio(2 * 0.7)
        assert level.time == pytest.approx(math.log(0.7) / 4) and scale == 0.5
        assert level.alpha / scale == pytest.approx(1 / math.sqrt(0.7**2 + 0.5**2))
        assert from_diffusers(Network(), edm, prompt=prompt).sigmas == pytest.approx((0.001, 40.0))
    video = scheduler("v_prediction", timestep_type="continuous", sigma_min=0.002, sigma_max=700.0)
    level = schedule_of(video)[0].at_ratio(0.7)
    assert level.time == pytest.approx(math.log(0.7) / 4)
    assert level.alpha == pytest.approx(1 / math.sqrt(1 + 0.7**2))


def test_errors():
    network = ready(Network())
    f = from_diffusers(network, scheduler(), prompt=prompt)
    with pytest.raises(OptionError, match=r"sigma lies in \[0.005001, 78.7\]"):
        f(y, 1e-3)
    with pytest.raises(OptionError, match="finite number"):
        f(y, float("nan"))
    with pytest.raises(OptionError, match="one for each of 1 images"):
        f(y, torch.tensor([0.1, 0.2]))
    with pytest.raises(OptionError, match="by sigma or by timestep"):
        f.at()
    with pytest.raises(OptionError, match="timestep lies in"):
        f.at(timestep=1000)
    with pytest.raises(ShapeError, match="first axis"):
        f(y[0, 0, 0], 0.1)
    with pytest.raises(ShapeError, match=r"takes images of shape \(N, 2, H, W\), got \(1, 1, 4, 4\)"):
        f(y[:, :1], 0.1)
    with pytest.raises(OptionError, match="level is fixed here"):
        spectral.posterior(f.at(timestep=T), y, 0.1, sigma_keyword="sigma")
    with pytest.raises(OptionError, match="prediction is one of"):
        from_diffusers(network, scheduler(), prediction="noise level")
    with pytest.raises(OptionError, match="prediction is one of"):
        from_diffusers(network, scheduler("bogus"))
    with pytest.raises(OptionError, match=r"needs encoder_hidden_states.*prompt="):
        spectral.top_eigs(from_diffusers(network, scheduler()).at(timestep=T), y)
    with pytest.raises(OptionError, match=r"guidance 7\.5 needs"):
        from_diffusers(network, scheduler(), prompt=prompt, guidance=7.5)
    with pytest.raises(OptionError, match="streams is one of"):
        from_diffusers(network, scheduler(), streams="both")
    with pytest.raises(OptionError, match="low < high"):
        from_diffusers(network, scheduler(), units=(1.0, 0.0))
    with pytest.raises(OptionError, match="neither alphas_cumprod"):
        from_diffusers(network, object())
    with pytest.raises(OptionError, match="parameter sigma, which nothing sets"):
        spectral.sure(f, y, 0.1)
    with pytest.raises(ModelOutputError, match="without a tensor"):
        Diffusion(lambda z, t: {}, Flow())(y, 0.1)
