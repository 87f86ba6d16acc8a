"""Products with the Jacobians of networks that people have, beside torch's ways, in one run.

    python -m benchmarks.zoo [--write] [--networks PART ...] [--seconds 10] [--rows FILE]

Networks of diffusers, deepinv, azula, monai, timm and transformers, where they are installed, with random
weights: small in width, of the published shape otherwise, and with nothing that is zero at the start.  Each
row is a process of its own.  J v and J' u are held against autograd in float64, and timed beside a kept vjp,
torch.func.linearize and a fresh torch.func.jvp, interleaved with the forward pass (eval, no_grad) that they
are measured in; one of these whose product is another than ours, which is held against float64, is wrong.
Memory is of the tensors that a program, or a graph, holds beside the weights.  --write puts the table into
docs/zoo.md.
"""

import functools
import importlib.util
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import spectral
from benchmarks.operations import way
from benchmarks.page import ROOT, Page, table
from benchmarks.products import BLOCK, Rows, medians
from denoisers import adapters
from denoisers.networks import EDM, ConditionalUNet
from spectral.jacobians.faster import AFTER
from spectral.jacobians.model import first_tensor
from spectral.jacobians.program.program import storages

Made = tuple[nn.Module, tuple[int, ...]]
WRONG = 0.05  # relative, beyond which a way of torch's is no derivative of the network, whatever its rounding


class Called(nn.Module):
    """A network as a function of its first argument, or of the keyword `first`."""

    def __init__(self, network: nn.Module, *others: Any, first: str | None = None, **keywords: Any) -> None:
        super().__init__()
        self.network, self.first, self.others, self.keywords = network, first, others, keywords

    def forward(self, y: Tensor) -> Any:
        """network(y, ...)."""
        dtype = y.dtype

        def like(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        keywords = {name: like(value) for name, value in self.keywords.items()}
        if self.first is not None:
            return self.network(**{self.first: y}, **keywords)
        return self.network(y, *(like(value) for value in self.others), **keywords)


def _drawn(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3))


def _unet2d() -> Made:
    from diffusers import UNet2DModel

    widths = (64, 64, 128, 128)
    down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    network = UNet2DModel(64, block_out_channels=widths, down_block_types=down, up_block_types=up)
    return Called(network, torch.tensor(300)), (1, 3, 64, 64)


def _unet2d_condition() -> Made:
    from diffusers import UNet2DConditionModel

    widths = (64, 128, 128)
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    network = UNet2DConditionModel(
        32, block_out_channels=widths, down_block_types=down, up_block_types=up, cross_attention_dim=64
    )
    return Called(network, torch.tensor(300), _drawn(1, 77, 64)), (1, 4, 32, 32)


def _dit() -> Made:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(4, 64, in_channels=4, out_channels=8, num_layers=6, sample_size=32)
    return Called(network, timestep=torch.tensor([300]), class_labels=torch.tensor([3])), (1, 4, 32, 32)


def _sd3() -> Made:
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        32,
        2,
        4,
        num_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=256,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=32,
    )
    others = {"pooled_projections": _drawn(1, 32), "timestep": torch.tensor([300.0])}
    return Called(network, encoder_hidden_states=_drawn(1, 77, 64), **others), (1, 4, 32, 32)


def _flux() -> Made:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        1,
        16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 28, 28),
    )
    places = torch.zeros(256, 3)
    places[:, 1], places[:, 2] = torch.arange(256) // 16, torch.arange(256) % 16
    others = {"txt_ids": torch.zeros(77, 3), "img_ids": places, "timestep": torch.tensor([0.3])}
    keywords = {"encoder_hidden_states": _drawn(1, 77, 64), "pooled_projections": _drawn(1, 32)}
    return Called(network, first="hidden_states", **keywords, **others), (1, 256, 16)


def _pixart() -> Made:
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        4, 64, 4, 8, num_layers=6, sample_size=32, cross_attention_dim=256, caption_channels=64
    )
    keywords = {"resolution": None, "aspect_ratio": None}
    others = {"encoder_hidden_states": _drawn(1, 77, 64), "timestep": torch.tensor([300])}
    return Called(network, added_cond_kwargs=keywords, **others), (1, 4, 32, 32)


def _sana() -> Made:
    from diffusers import SanaTransformer2DModel

    network = SanaTransformer2DModel(
        4,
        4,
        num_attention_heads=8,
        attention_head_dim=32,
        num_layers=4,
        num_cross_attention_heads=4,
        cross_attention_head_dim=64,
        cross_attention_dim=256,
        caption_channels=64,
        sample_size=32,
        patch_size=1,
    )
    others = {"encoder_hidden_states": _drawn(1, 77, 64), "timestep": torch.tensor([300])}
    return Called(network, **others), (1, 4, 32, 32)


def _autoencoder(which: str) -> Made:
    import diffusers

    blocks = {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    if which == "decoder":
        network = diffusers.AutoencoderKL(latent_channels=4, norm_num_groups=8, **blocks)
        return Called(network.decoder), (1, 4, 16, 16)
    if which == "vq":
        network = diffusers.VQModel(latent_channels=4, norm_num_groups=8, num_vq_embeddings=64, **blocks)
        return Called(network), (1, 3, 64, 64)
    network = diffusers.AutoencoderKL(latent_channels=4, norm_num_groups=8, **blocks)
    return Called(network), (1, 3, 64, 64)


def _audio() -> Made:
    from diffusers import UNet1DModel

    network = UNet1DModel(
        sample_size=4096,
        in_channels=2,
        out_channels=2,
        extra_in_channels=64,
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    return Called(network, torch.tensor([300])), (1, 2, 4096)


def _deepinv(name: str, channels: int = 1, side: int = 64, told: bool = False, **options: Any) -> Made:
    from deepinv import models

    network = getattr(models, name)(pretrained=None, **options)
    return Called(network, 0.1) if told else Called(network), (1, channels, side, side)


def _ram() -> Made:
    from deepinv import models
    from deepinv.physics import Denoising, GaussianNoise

    network = models.RAM(pretrained=False)
    physics = Denoising(GaussianNoise(0.1))
    return Called(network, physics), (1, 1, 64, 64)


def _azula_unet() -> Made:
    from azula.nn.unet import UNet

    network = UNet(3, 3, mod_features=32, hid_channels=(32, 64, 128), hid_blocks=(2, 2, 2))
    return Called(network, _drawn(1, 32)), (1, 3, 64, 64)


def _azula_vit() -> Made:
    from azula.nn.vit import ViT

    network = ViT(3, 3, mod_features=32, hid_channels=256, hid_blocks=4, attention_heads=4, patch_size=(4, 4))
    return Called(network, _drawn(1, 32)), (1, 3, 64, 64)


def _monai(name: str, side: int = 32, **options: Any) -> Made:
    from monai.networks import nets

    network = getattr(nets, name)(**options)
    return Called(network), (1, 1, side, side, side)


def _monai_diffusion() -> Made:
    from monai.networks.nets import DiffusionModelUNet

    network = DiffusionModelUNet(
        2,
        1,
        1,
        channels=(32, 64, 64),
        attention_levels=(False, True, True),
        num_res_blocks=1,
        num_head_channels=32,
    )
    return Called(network, torch.tensor([300])), (1, 1, 64, 64)


def _vit() -> Made:
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=128, num_classes=0, global_pool="")
    return Called(network), (1, 3, 128, 128)


def _swin2sr() -> Made:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    settings = Swin2SRConfig(
        image_size=48, embed_dim=48, depths=[2, 2], num_heads=[4, 4], num_channels=1, upscale=1, upsampler=""
    )
    return Called(Swin2SRForImageSuperResolution(settings)), (1, 1, 48, 48)


def _edm() -> Made:
    return Called(EDM(), sigma=0.1), (1, 1, 80, 80)


def _conditional(side: int = 80) -> Made:
    return Called(ConditionalUNet(), sigma=0.1), (1, 1, side, side)


def _adapted() -> Made:
    from diffusers import DDPMScheduler

    network, size = _unet2d()
    assert isinstance(network, Called)
    return adapters.from_diffusers(network.network, DDPMScheduler()).at(timestep=300), size


UNET3D = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": (16, 32, 64), "strides": (2, 2)}

NETWORKS: dict[str, tuple[str, Callable[[], Made]]] = {
    "conditional UNet": ("denoisers", _conditional),
    "conditional UNet, 256": ("denoisers", lambda: _conditional(256)),
    "EDM UNet": ("denoisers", _edm),
    "UNet2DModel": ("diffusers", _unet2d),
    "UNet2DModel, adapted": ("diffusers", _adapted),
    "UNet2DConditionModel": ("diffusers", _unet2d_condition),
    "DiT": ("diffusers", _dit),
    "PixArt": ("diffusers", _pixart),
    "SD3": ("diffusers", _sd3),
    "Flux": ("diffusers", _flux),
    "Sana": ("diffusers", _sana),
    "AutoencoderKL": ("diffusers", lambda: _autoencoder("kl")),
    "AutoencoderKL's decoder": ("diffusers", lambda: _autoencoder("decoder")),
    "VQModel": ("diffusers", lambda: _autoencoder("vq")),
    "UNet1DModel, audio": ("diffusers", _audio),
    "DnCNN": ("deepinv", lambda: _deepinv("DnCNN", in_channels=1, out_channels=1)),
    "DRUNet": (
        "deepinv",
        lambda: _deepinv("DRUNet", told=True, in_channels=1, out_channels=1, nc=[32, 64, 128, 128]),
    ),
    "GSDRUNet": (
        "deepinv",
        lambda: _deepinv("GSDRUNet", told=True, in_channels=1, out_channels=1, nc=[32, 64, 64, 64]),
    ),
    "SwinIR": (
        "deepinv",
        lambda: _deepinv(
            "SwinIR", in_chans=1, img_size=64, embed_dim=60, depths=[2, 2], num_heads=[6, 6], upsampler=None
        ),
    ),
    "SCUNet": ("deepinv", lambda: _deepinv("SCUNet", in_nc=1, config=[2, 2, 2, 2, 2, 2, 2], dim=64)),
    "Restormer": (
        "deepinv",
        lambda: _deepinv("Restormer", in_channels=1, out_channels=1, dim=24, num_blocks=(2, 2, 2, 2)),
    ),
    "DiffUNet": (
        "deepinv",
        lambda: _deepinv("DiffUNet", told=True, channels=3, in_channels=3, out_channels=3),
    ),
    "RAM": ("deepinv", _ram),
    "azula UNet": ("azula", _azula_unet),
    "azula ViT": ("azula", _azula_vit),
    "monai UNet, 3-D": ("monai", lambda: _monai("UNet", **UNET3D)),
    "monai DiffusionModelUNet": ("monai", _monai_diffusion),
    "monai SwinUNETR, 3-D": (
        "monai",
        lambda: _monai("SwinUNETR", 64, in_channels=1, out_channels=1, feature_size=12, spatial_dims=3),
    ),
    "timm ViT": ("timm", _vit),
    "Swin2SR": ("transformers", _swin2sr),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network in eval mode with nothing at zero, and an input."""
    torch.manual_seed(0)
    function, size = NETWORKS[name][1]()
    function.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in function.parameters():
        if weight.ndim > 1 and weight.numel() and not weight.any():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    return function, torch.rand(size, generator=torch.Generator().manual_seed(0))


def first(output: Any) -> Tensor:
    """The tensor that `spectral.jacobian` takes of an output."""
    found = output if isinstance(output, Tensor) else first_tensor(output)[1]
    assert found is not None
    return found


def row(name: str, seconds: float) -> list[str]:
    """Network, way, error, forward pass in ms, then products in forward passes."""
    module, y = build(name)

    def f(x: Tensor) -> Tensor:
        return first(module(x))

    with torch.no_grad():
        size = f(y).shape
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    u = torch.randn(size, generator=torch.Generator().manual_seed(2))
    J = spectral.jacobian(module, y)
    ours = J.apply(v.view(1, -1)), J.apply_transpose(u.view(1, -1))
    for _ in range(AFTER):  # by then the way back is settled
        J.apply_transpose(u.view(1, -1))
    x = y.clone().requires_grad_()
    output, graph = graph_of(module, f, x)

    ways: dict[str, Callable[[], Tensor]] = {}
    told: dict[str, str] = {}
    for label, make in {
        "kept vjp": lambda: lambda v: torch.autograd.grad(output, x, u, retain_graph=True)[0],
        "linearize": lambda: torch.func.linearize(f, y)[1],
        "jvp": lambda: lambda v: torch.func.jvp(f, (y,), (v,))[1],
    }.items():
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the one form of attention that torch differentiates forwards
                call = make()
                made = call(v)
                call(v)
        except Exception:
            told[label] = "fails"
            continue
        expected = ours[label == "kept vjp"].flatten()
        if (made.flatten() - expected).norm() > WRONG * expected.norm():
            told[label] = "wrong"
            continue
        ways[label] = functools.partial(_plainly, call, v)

    def forward() -> Tensor:
        with torch.no_grad():
            return f(y)

    block = torch.randn(BLOCK, v.numel(), generator=torch.Generator().manual_seed(4))
    calls = [
        forward,
        lambda: J.apply(v.view(1, -1)),
        lambda: J.apply_transpose(u.view(1, -1)),
        *ways.values(),
    ]
    unit, forwards, back, *others = medians(calls, seconds)
    alone, together = medians([forward, lambda: J.apply(block)], seconds / 2)
    by = dict(zip(ways, others, strict=True))
    own = weights_of(module)
    held = sum(n for at, n in storages(J._program).items() if at not in own)
    told |= {label: f"{by[label] / unit:.2f}" for label in by}
    best = min((by[label] for label in by if label != "kept vjp"), default=None)
    try:
        error = _error(name, torch.float64, v, u, ours)
    except RuntimeError:  # a network that makes float32 numbers of its own
        try:
            error = f"{_error(name, torch.float32, v, u, ours)} (float32)"
        except RuntimeError:  # one that differentiates inside, and keeps no graph of that
            error = "autograd fails"
    return [
        name,
        way(J) + (", back by a graph" if "kept graph" in repr(J) else ""),
        error,
        f"{1e3 * unit:.1f}",
        f"{forwards / unit:.2f}",
        f"{together / alone / BLOCK:.2f}",
        "" if best is None else f"{forwards / best:.2f}",
        f"{back / unit:.2f}",
        f"{back / by['kept vjp']:.2f}" if "kept vjp" in by else "",
        *(told[label] for label in ("kept vjp", "linearize", "jvp")),
        "" if J._program is None else f"{1e-6 * held:.0f}",
        "" if graph is None else f"{1e-6 * graph:.0f}",
    ]


def weights_of(module: nn.Module) -> set[int]:
    """Where the storages of a network's own tensors are."""
    return {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}


def graph_of(module: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, int | None]:
    """f(x) with its graph, and the bytes of what that saves beside the weights."""
    weights = weights_of(module)
    saved: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        f(x)
    return f(x), sum(saved.values()) or None


def _plainly(call: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return call(v)


def _error(name: str, dtype: torch.dtype, v: Tensor, u: Tensor, ours: tuple[Tensor, Tensor]) -> str:
    """The larger relative error of J v and J' u against autograd; J v by two passes back."""
    function, y = build(name)
    function.to(dtype)
    x = y.to(dtype).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        output = first(function(x))
    w = torch.zeros_like(output, requires_grad=True)
    (pull,) = torch.autograd.grad(output, x, w, create_graph=True)
    ahead = torch.autograd.grad(pull, w, v.to(dtype), retain_graph=True)[0]
    true = ahead, torch.autograd.grad(output, x, u.to(dtype))[0]
    errors = (
        (a.double().flatten() - t.double().flatten()).norm() / t.norm()
        for a, t in zip(ours, true, strict=True)
    )
    return f"{float(max(errors)):.0e}"


def alone(name: str, seconds: float) -> list[str]:
    """The row, measured in a process of its own; or why there is none."""
    command = [sys.executable, "-m", "benchmarks.zoo", "--row", name, "--seconds", str(seconds)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        return list(json.loads(done.stdout.splitlines()[-1]))
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "killed"
    return [name, f"fails: {reason[:150]}".replace("|", "/"), *[""] * (len(HEAD) - 2)]


HEAD = [
    *("network", "way", "error", "forward, ms", "**J v**", f"J v of {BLOCK}, each", "to torch's best"),
    *("**J' u**", "to a kept vjp", "kept vjp J' u", "linearize J v", "jvp J v", "held, MB", "graph, MB"),
]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    page = Page("docs/zoo.md", __doc__, networks=[""], seconds=10.0, rows="", row="")
    options = page.options
    if options.row:
        print(json.dumps(row(options.row, options.seconds)))
        sys.exit()
    kept, found = Rows(options.rows), []
    for name, (package, _) in NETWORKS.items():
        if not any(part in name for part in options.networks):
            continue
        if importlib.util.find_spec(package) is None:
            found.append([name, f"{package} is not installed", *[""] * (len(HEAD) - 2)])
            continue
        found.append(kept.row(name, functools.partial(alone, name, options.seconds)))
    threads = torch.get_num_threads()
    page.tell("zoo", f"torch {torch.__version__}, {threads} threads, float32.\n\n{table(HEAD, found)}")
