"""Loading of trained networks: those that ship, those that were trained here, those that a lab published."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from denoisers import weights
from denoisers.networks import BFCNN, BiasFreeNorm, Denoiser
from spectral.errors import FileContentError

Arrays = Mapping[str, NDArray[np.float32]]


def available() -> list[str]:
    """The names of the networks that ship with the package, sorted."""
    return sorted(path.stem for path in weights.FOLDER.glob("*.safetensors"))


def load(name_or_path: str | Path) -> Denoiser:
    """A trained denoiser in evaluation mode, whose parameters do not require gradients.

    name_or_path: a name in `available()`; the folder of a training run, or the .safetensors file in it; or a
    .npz file in one of the two layouts of the Laboratory for Computational Vision (NYU): the 21-layer BF-CNN
    of arXiv 2310.02557 (keys conv_layers.*, BN_layers.*) and the 20-layer bias-free DnCNN of arXiv 1906.05478
    (keys first_layer.*, hidden_layer_list.*, bn_layer_list.*, last_layer.*). Both predict the noise; what is
    returned denoises.

    The weights are float32 on the CPU.

    Raises FileNotFoundError for a name or file that does not exist, FileContentError for one it cannot read.
    """
    path = _find(name_or_path)
    if path.suffix == ".npz":
        model: Denoiser = _read_npz(path)
        weights.check_finite(model, path)
    else:
        model = weights.read(path)[0]
    return model.eval().requires_grad_(False)


def _find(name_or_path: str | Path) -> Path:
    names = available()
    if str(name_or_path) in names:
        return weights.FOLDER / f"{name_or_path}.safetensors"
    path = weights.where(name_or_path)
    if not path.is_file():
        if Path(name_or_path).is_dir():
            raise FileNotFoundError(
                f"{name_or_path} is a folder without {path.name}, which a run of `denoisers train` ends with"
            )
        raise FileNotFoundError(
            f"no denoiser named {str(name_or_path)!r}, and no such file: "
            f"give one of {', '.join(names)}, or a run's folder, or the path of a .safetensors or .npz file"
        )
    if path.suffix not in (".safetensors", ".npz"):
        raise FileContentError(f"{path} is neither a .safetensors nor a .npz file")
    return path


def _read_npz(path: Path) -> BFCNN:
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (BadZipFile, ValueError) as error:
        raise FileContentError(f"{path} is not a .npz file: {error}") from error
    try:
        if "conv_layers.0.weight" in arrays:
            return _released_bfcnn(arrays)
        if "first_layer.weight" in arrays:
            return _released_dncnn(arrays)
    except (KeyError, RuntimeError) as error:
        raise FileContentError(
            f"{path} looks like a layout that load knows, but does not fit it: {error}"
        ) from error
    raise FileContentError(
        f"{path} is in an unknown layout (its first keys: {', '.join(list(arrays)[:3])}): "
        "load knows conv_layers.* + BN_layers.*, and first_layer.* + hidden_layer_list.* + bn_layer_list.*"
    )


def _released_bfcnn(arrays: Arrays) -> BFCNN:
    layers = sum(key.startswith("conv_layers.") for key in arrays)
    convolutions = [arrays[f"conv_layers.{i}.weight"] for i in range(layers)]
    norms = [
        (arrays[f"BN_layers.{i}.gammas"], arrays[f"BN_layers.{i}.running_sd"]) for i in range(layers - 2)
    ]
    return _assemble(convolutions, norms, first_relu=False)


def _released_dncnn(arrays: Arrays) -> BFCNN:
    hidden = sum(key.startswith("hidden_layer_list.") for key in arrays)
    convolutions = [arrays[f"hidden_layer_list.{i}.weight"] for i in range(hidden)]
    convolutions = [arrays["first_layer.weight"], *convolutions, arrays["last_layer.weight"]]
    # Its norm divides by sqrt(running_var) + 1e-5; running_mean and bias are stored but not used.
    norms = [
        (
            arrays[f"bn_layer_list.{i}.weight"],
            np.sqrt(arrays[f"bn_layer_list.{i}.running_var"]) + np.float32(1e-5),
        )
        for i in range(hidden)
    ]
    return _assemble(convolutions, norms, first_relu=True)


def _assemble(
    convolutions: list[NDArray[np.float32]],
    norms: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    first_relu: bool,
) -> BFCNN:
    width, channels = convolutions[0].shape[:2]
    config = {"layers": len(convolutions), "width": width, "channels": channels, "first_relu": first_relu}
    model = cast(BFCNN, weights.build("BFCNN", config))
    slots = [m for m in model.stack if isinstance(m, nn.Conv2d)]
    scales = [m for m in model.stack if isinstance(m, BiasFreeNorm)]
    with torch.no_grad():
        for slot, array in zip(slots, convolutions, strict=True):
            slot.weight.copy_(torch.from_numpy(array))
        for scale, (gamma, sd) in zip(scales, norms, strict=True):
            scale.gamma.copy_(torch.from_numpy(gamma).flatten())
            scale.running_sd.copy_(torch.from_numpy(sd).flatten())
    return model
