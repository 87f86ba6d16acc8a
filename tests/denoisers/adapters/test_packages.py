"""Adapters of the packages themselves, where they are installed: small networks of random weights."""

import math
import re
from pathlib import Path

import pytest
import torch

import spectral
from denoisers import adapters
from denoisers.adapters import at_layer, decoded, from_azula, from_deepinv, from_diffusers, with_respect_to
from tests.helpers.diffusion_standin import dense, matrix

F64 = torch.float64


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=F64)


def ready(module, dtype=F64):
    """Deterministic weights, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape, generator=generator)
    return module.to(dtype).eval().requires_grad_(False)


def same(f, expected, y, tolerance=1e-12):
    """f and its J are those of a formula, and the record forms J."""
    torch.testing.assert_close(f(y), expected(y), rtol=0, atol=tolerance)
    J = spectral.jacobian(f, y)
    assert J.method == "frozen"
    torch.testing.assert_close(matrix(J), dense(expected, y), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def unet(diffusers, **options):
    torch.manual_seed(0)
    shared = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 4}
    if "cross_attention_dim" in options:
        kind, down, up = diffusers.UNet2DConditionModel, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    else:
        kind, down, up = diffusers.UNet2DModel, "AttnDownBlock2D", "AttnUpBlock2D"
    blocks = {"down_block_types": ("DownBlock2D", down), "up_block_types": (up, "UpBlock2D")}
    return kind(**shared, **blocks, attention_head_dim=4, **options)


def small_vae(diffusers):
    ends = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "norm_num_groups": 4}
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    blocks = {"down_block_types": down, "up_block_types": up, "block_out_channels": (8, 16)}
    return ready(diffusers.AutoencoderKL(**ends, **blocks))


def vp(scheduler, t):
    c = scheduler.alphas_cumprod[t].double().item()
    return math.sqrt(c), math.sqrt(1 - c)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_conversions_of_schedulers(diffusers, name, kind):
    scheduler = getattr(diffusers, name)(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    f = from_diffusers(lambda z, timestep: torch.tanh(z + 1), scheduler)
    for t in (5, 300, 990):
        g, z = f.seen(timestep=t), random(1, 1, 4, 4)
        expected = scheduler.step(torch.tanh(z + 1), t, z).pred_original_sample
        torch.testing.assert_close(g(z), expected, rtol=3e-7, atol=3e-7 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EDMEulerScheduler"])
def test_conversions_of_schedulers_by_sigma(diffusers, name, kind):
    scheduler = getattr(diffusers, name)(prediction_type=kind)
    scheduler.set_timesteps(20)
    told = []

    def network(z, timestep):
        told.append(float(timestep))
        return torch.tanh(z + 1)

    f = from_diffusers(network, scheduler, units=None)
    for i in (0, 7, 18):
        t, sigma, y = scheduler.timesteps[i], scheduler.sigmas[i].item(), random(1, 1, 4, 4)
        scheduler._step_index = i
        F = torch.tanh(scheduler.scale_model_input(y, t) + 1)
        scheduler._step_index = i
        expected = scheduler.step(F, t, y).pred_original_sample
        size = expected.abs().max().item()
        torch.testing.assert_close(f(y, sigma), expected, rtol=0, atol=3e-6 * max(1, size))
        assert told[-1] == pytest.approx(t.item(), abs=0.01)  # Euler's is linear in sigma


def test_conversion_of_flows(diffusers):
    """One step from sigma to 0 ends at the mean."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    f = from_diffusers(lambda z, timestep: torch.tanh(z + timestep / 1000), scheduler, units=None)
    for sigma in (0.1, 0.6, 0.99):
        scheduler.set_timesteps(sigmas=[sigma])
        t, z = scheduler.timesteps[0], random(1, 1, 4, 4)
        expected = scheduler.step(torch.tanh(z + t / 1000), t, z).prev_sample
        torch.testing.assert_close(f.seen(timestep=t)(z), expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_unet(diffusers, kind):
    net, t = ready(unet(diffusers, in_channels=1, out_channels=1)), 300
    scheduler = diffusers.DDPMScheduler(prediction_type=kind)
    (alpha, sigma), y = vp(scheduler, t), random(1, 1, 4, 4)

    def textbook(y):
        z = alpha * (2 * y - 1)
        F = net(z, t).sample
        w = {"epsilon": (z - sigma * F) / alpha, "v_prediction": alpha * z - sigma * F, "sample": F}[kind]
        return (w + 1) / 2

    f = from_diffusers(net, scheduler).at(timestep=t)
    same(f, textbook, y)
    truth = dense(textbook, y)
    single = from_diffusers(net.float(), scheduler).at(timestep=t)
    found = matrix(spectral.jacobian(single, y.float())).double()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5 * truth.abs().max().item())
    values = torch.linalg.eigvalsh((truth + truth.T) / 2).flip(0)[:3]
    torch.testing.assert_close(
        spectral.top_eigs(single, y.float(), k=3).values.double(), values, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("streams", ["together", "apart"])
def test_unet_with_a_prompt(diffusers, streams):
    net, t = ready(unet(diffusers, in_channels=4, out_channels=4, cross_attention_dim=6)), 500
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    prompt, negative, y = random(1, 5, 6), random(1, 5, 6).flip(1), random(1, 4, 4, 4)
    alpha, sigma = vp(scheduler, t)
    options = {"negative": negative, "guidance": 7.5, "streams": streams, "units": None}
    f = from_diffusers(net, scheduler, prompt=prompt, **options).at(timestep=t)

    def textbook(y, prompt=prompt):
        free, asked = (net(alpha * y, t, encoder_hidden_states=p).sample for p in (negative, prompt))
        return y - sigma / alpha * (free + 7.5 * (asked - free))

    same(f, textbook, y)
    same(with_respect_to("prompt", f, y), lambda p: textbook(y, p), prompt)
    h = at_layer(f, "mid_block")
    J = dense(h, y)
    torch.testing.assert_close(spectral.top_svd(h, y, k=3).values, torch.linalg.svdvals(J)[:3])


def test_latents(diffusers):
    net = ready(unet(diffusers, in_channels=4, out_channels=4))
    vae = small_vae(diffusers)
    f = from_diffusers(net, diffusers.DDPMScheduler(), units=None).at(timestep=300)
    y = random(1, 4, 4, 4)
    same(decoded(f, vae), lambda y: (vae.decode(f(y) / vae.config.scaling_factor).sample + 1) / 2, y)


def test_dit(diffusers):
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_layers": 2,
        "sample_size": 4,
        "patch_size": 2,
    }
    net = ready(
        diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, num_embeds_ada_norm=10, **sizes)
    )
    scheduler, t, y = diffusers.DDPMScheduler(), torch.tensor([100]), random(1, 4, 4, 4)
    alpha, sigma = vp(scheduler, 100)
    label, none = torch.tensor([3]), torch.tensor([10])
    f = from_diffusers(
        net,
        scheduler,
        condition={"class_labels": label},
        unconditional={"class_labels": none},
        guidance=4.0,
        units=None,
    )

    def textbook(y):
        free, asked = (net(alpha * y, t, class_labels=c).sample[:, :4] for c in (none, label))
        return y - sigma / alpha * (free + 4 * (asked - free))

    same(f.at(timestep=100), textbook, y)


def test_a_flow_of_tokens(diffusers):
    """SD3: joint attention of image and text, a velocity."""
    sizes = {
        "sample_size": 4,
        "patch_size": 2,
        "num_layers": 2,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
    }
    widths = {"joint_attention_dim": 6, "caption_projection_dim": 8, "pooled_projection_dim": 6}
    net = ready(diffusers.SD3Transformer2DModel(in_channels=4, out_channels=4, **sizes, **widths))
    prompt, pooled, y, t = random(1, 5, 6), random(1, 6), random(1, 4, 4, 4), 400.0
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    f = from_diffusers(net, scheduler, prompt=prompt, condition={"pooled_projections": pooled}, units=None)

    def textbook(y):
        told = {"encoder_hidden_states": prompt, "pooled_projections": pooled}
        return 0.6 * y - 0.4 * net(0.6 * y, timestep=torch.tensor([t], dtype=F64), **told).sample

    same(f.at(timestep=t), textbook, y)


def test_deepinv():
    deepinv = pytest.importorskip("deepinv")
    torch.manual_seed(0)
    net = deepinv.models.DRUNet(1, 1, nc=(4, 4, 8, 8), nb=1, pretrained=None).double().eval()
    y = random(1, 1, 8, 8)
    same(from_deepinv(net, highest=0.5).at(sigma=0.1), lambda y: net(y, torch.tensor([0.1], dtype=F64)), y)


def test_azula():
    denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
    networks = pytest.importorskip("azula.nn.unet")
    torch.manual_seed(0)

    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Linear(1, 8)
            self.unet = networks.UNet(1, 1, hid_channels=(4, 8), hid_blocks=(1, 1), mod_features=8)

        def forward(self, z, t):
            return self.unet(z, self.embed(t[..., None]))

    net = denoise.KarrasDenoiser(Backbone(), noise.VPSchedule()).double().eval()
    f, y = from_azula(net), random(1, 1, 8, 8)
    t = torch.tensor(0.3, dtype=F64)
    alpha, _ = net.schedule(t)
    same(f.at(timestep=0.3), lambda y: (net(alpha * (2 * y - 1), t).mean + 1) / 2, y)
    sigma = f.at(timestep=0.3).sigma
    torch.testing.assert_close(f(y, sigma), f.at(timestep=0.3)(y), rtol=0, atol=1e-10)


def test_recipes_of_the_page(diffusers):
    """Blocks of docs/adapters.md that need a package, on pixels and latents of four channels."""
    page = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    pixels, *others, last = blocks
    assert len(others) == 4 and "from_azula" in last
    scheduler, net = diffusers.DDPMScheduler(), unet(diffusers, in_channels=4, out_channels=4)
    session = {"torch": torch, "spectral": spectral, "adapters": adapters, "scheduler": scheduler}
    exec(pixels, session | {"unet": ready(net, torch.float32), "x": torch.rand(1, 4, 4, 4)})
    net = unet(diffusers, in_channels=4, out_channels=4, cross_attention_dim=6)
    session |= {"unet": ready(net), "latents": random(1, 4, 4, 4), "vae": small_vae(diffusers)}
    session |= {"prompt": random(1, 5, 6), "negative": random(1, 5, 6).flip(1)}
    for block in others:
        exec(block, session)
    assert session["steer"].right.shape == (3, 1, 5, 6) and session["steer"].left.shape == (3, 1, 4, 4, 4)
