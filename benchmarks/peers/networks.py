"""The networks, each at one noisy image, in float32 or float64.

`photos`: the shipped network, 40x40 grey pixels of the shipped photograph, sigma 0.15.
`unet`: a diffusion UNet in colour at 64x64, sigma 0.2, as y -> E[x | y]: diffusers' UNet2DModel where
that package is there, this project's ConditionalUNet elsewhere.  It is trained here for a few minutes,
once, on crops of the shipped photograph in two random colours, and kept in runs/peers: no good denoiser,
but one whose Jacobian is that of a network that has learnt something, where a random one's has no
outstanding directions at all.
"""

import copy
import importlib.util
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import denoisers
from benchmarks.page import ROOT
from benchmarks.peers.answer import Network
from denoisers.adapters import from_diffusers
from denoisers.images.folder import photograph
from denoisers.networks import ConditionalUNet

SIDE, SMALL, SIGMA, STEPS, BATCH = 64, 40, {"photos": 0.15, "unet": 0.2}, 200, 4
KEPT = ROOT / "runs/peers"


def network(name: str, dtype: torch.dtype = torch.float32) -> tuple[Network, Tensor, str]:
    """f, y (1, C, 64, 64), and what the network is."""
    generator = torch.Generator().manual_seed(1)
    if name == "photos":
        model, what = denoisers.load("photos"), f"the shipped `photos` network, {SMALL}x{SMALL} grey"
        x = torch.from_numpy(photograph())[..., 60 : 60 + SMALL, 180 : 180 + SMALL]
        f: Network = model.to(dtype)
    else:
        model, what = trained()
        x = colour(1, generator)
        f = told(copy.deepcopy(model).to(dtype))
    y = x + SIGMA[name] * torch.randn(x.shape, generator=generator)
    return f, y.to(dtype), f"{what}, sigma {SIGMA[name]}"


def colour(n: int, generator: torch.Generator) -> Tensor:
    """Crops of the photograph between two random colours, (n, 3, 64, 64) in [0, 1]."""
    picture = torch.from_numpy(photograph())[0, 0]
    corners = torch.randint(picture.shape[0] - SIDE, (n, 2), generator=generator)
    grey = torch.stack([picture[a : a + SIDE, b : b + SIDE] for a, b in corners.tolist()])[:, None]
    ends = torch.rand(2, n, 3, 1, 1, generator=generator)
    return ends[0] + (ends[1] - ends[0]) * grey


def trained() -> tuple[nn.Module, str]:
    """The UNet with its weights, which are made where there are none yet."""
    theirs = importlib.util.find_spec("diffusers") is not None
    torch.manual_seed(0)
    model: nn.Module = _diffusers() if theirs else ConditionalUNet(width=16, scales=3, channels=3)
    path = KEPT / f"{'diffusers' if theirs else 'conditional'}.safetensors"
    if not path.is_file():
        _train(model, path)
    model.load_state_dict(load_file(path))
    kind = "diffusers' UNet2DModel" if theirs else "this project's `ConditionalUNet`"
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        model.eval(),
        f"{kind}, {size:.1f} M parameters, 64x64 colour, trained for {STEPS} steps of {BATCH}",
    )


def told(model: nn.Module) -> Network:
    """y -> f(y, sigma) at the one level."""
    sigma = SIGMA["unet"]
    if isinstance(model, ConditionalUNet):
        return lambda y: model(y, sigma)
    from diffusers import DDPMScheduler  # noqa: PLC0415

    return from_diffusers(model, DDPMScheduler()).at(sigma=sigma)


def _diffusers() -> nn.Module:
    from diffusers import UNet2DModel  # noqa: PLC0415

    model: nn.Module = UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        norm_num_groups=8,
        attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    for part in model.modules():
        # Behind attention maps lie in another order, of which torch's group norm has no forward mode.
        if isinstance(part, nn.GroupNorm):
            part.register_forward_pre_hook(lambda _, inputs: tuple(x.contiguous() for x in inputs))
    return model


def _train(model: nn.Module, path: Path) -> None:
    """Adam on the noise predicted, DDPM's levels, or log-uniform ones of sigma."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    for _ in track(range(STEPS), description="training"):
        x, noise = colour(BATCH, generator), torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
        if isinstance(model, ConditionalUNet):
            sigma = 0.05 * 20 ** torch.rand(BATCH, generator=generator)
            level = sigma[:, None, None, None]
            loss = ((model(x + level * noise, sigma) - x) / level).square().mean()
        else:
            t = torch.randint(1000, (BATCH,), generator=generator)
            kept = alphas[t][:, None, None, None]
            z = kept.sqrt() * (2 * x - 1) + (1 - kept).sqrt() * noise
            loss = (model(z, t).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    print(f"loss at the end {loss.item():.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
