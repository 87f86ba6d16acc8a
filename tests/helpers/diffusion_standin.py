"""Small networks, a scheduler and an autoencoder with the manners of diffusers, without the package."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """F(z, timestep, encoder_hidden_states): two convolutions about a block that time and prompt shift."""

    def __init__(self, channels: int = 2, out: int | None = None, tokens: int = 5) -> None:
        super().__init__()
        self.config = SimpleNamespace(cross_attention_dim=tokens, in_channels=channels)
        self.conv_in = nn.Conv2d(channels, 4, 3, padding=1)
        self.mid_block = nn.Sequential(nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1), nn.SiLU())
        self.text = nn.Linear(tokens, 4)
        self.conv_out = nn.Conv2d(4, out or channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True
    ) -> Any:
        shift = self.text(encoder_hidden_states).tanh().mean(1)
        shift = shift + (timestep[:, None] / 300).sin().to(shift.dtype)
        h = self.mid_block(self.conv_in(sample) * (1 + shift[:, :, None, None]))
        out = self.conv_out(h)
        return SimpleNamespace(sample=out) if return_dict else (out,)


class Autoencoder(nn.Module):
    """decode(z).sample, of half the channels and twice the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"scaling_factor": 0.18, "shift_factor": 0.1}
        self.up = nn.ConvTranspose2d(2, 1, 2, stride=2)

    def decode(self, z: Tensor) -> Any:
        return SimpleNamespace(sample=self.up(z).tanh())


def scheduler(kind: str = "epsilon", **config: Any) -> Any:
    """With alphas_cumprod; or, for "flow_prediction", without."""
    values = SimpleNamespace(prediction_type=kind, num_train_timesteps=1000, **config)
    if kind == "flow_prediction":
        return SimpleNamespace(config=values)
    return SimpleNamespace(
        config=values, alphas_cumprod=torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    )


def ready(module: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """With weights of the seed 0, not learned."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return module.to(dtype).eval().requires_grad_(False)


def dense(f: Any, y: Tensor) -> Tensor:
    """The Jacobian by autograd, one row an output."""
    return torch.autograd.functional.jacobian(f, y).reshape(-1, y.numel())


def matrix(J: Any) -> Tensor:
    """All of an operator's products."""
    return J.apply(torch.eye(J.shape[1], dtype=J.dtype)).T
