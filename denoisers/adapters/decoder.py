"""Latent models seen in pixels: the decoder after the denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoisers.adapters.diffusers import config_entry
from denoisers.adapters.diffusion import tensor_of
from spectral.errors import OptionError


class Decoder(nn.Module):
    """z -> (decode(z / scale + shift) - low) / (high - low), images in [0, 1] from latents.

    Args:
        vae: a diffusers autoencoder (`decode(z)`, and `config.scaling_factor`, `shift_factor` or
            `latents_mean` and `latents_std`), or any callable z -> image with no config.
        units: what 0 and 1 are to it.
        scale, shift: instead of the config's; latents are (encode(x) - shift) scale.

    Raises:
        OptionError: `vae` is no callable and has no decode.
    """

    def __init__(
        self,
        vae: Any,
        *,
        units: tuple[float, float] = (-1.0, 1.0),
        scale: float | None = None,
        shift: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(vae, "decode", vae)):
            raise OptionError(f"a decoder is called on latents, and a {type(vae).__name__} cannot be")
        config = getattr(vae, "config", None)
        self.vae, (self.low, self.high) = vae, units
        self.scale = float(config_entry(config, "scaling_factor") or 1.0) if scale is None else scale
        self.shift = float(config_entry(config, "shift_factor") or 0.0) if shift is None else shift
        by_channel = scale is None and shift is None
        self.mean, self.std = (
            config_entry(config, n) if by_channel else None for n in ("latents_mean", "latents_std")
        )

    def forward(self, z: Tensor) -> Tensor:
        """The image."""
        if self.mean is not None and self.std is not None:
            shape = (1, -1, *[1] * (z.ndim - 2))
            mean, std = (
                torch.tensor(v, dtype=torch.float64).to(z).reshape(shape) for v in (self.mean, self.std)
            )
            latent = z / self.scale * std + mean
        else:
            latent = z / self.scale + self.shift
        image = tensor_of(getattr(self.vae, "decode", self.vae)(latent), type(self.vae).__name__)
        return (image - self.low) / (self.high - self.low)


class Decoded(nn.Module):
    """y -> decoder(f(y, ...)): the image of the latents' conditional mean; J is pixels by latents."""

    def __init__(self, denoiser: Any, decoder: Any) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.decoder = Decoder(decoder) if hasattr(decoder, "decode") else decoder

    def forward(self, y: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """decoder(f(y, *args, **keywords))."""
        return self.decoder(self.denoiser(y, *args, **keywords))


def decoded(denoiser: Any, decoder: Any) -> Decoded:
    """A denoiser of latents, followed by a decoder: a diffusers autoencoder, a `Decoder`, or any callable.

    With C = sigma^2 J_f the posterior covariance of latents and D the decoder's Jacobian at f(y), pixels have
    the covariance D C D' to first order. `spectral.top_svd(decoded(f.at(timestep=t), vae), y, k)` are the
    singular triplets of D J_f.
    """
    return Decoded(denoiser, decoder)
