"""The format of weights files, and the folder of those that ship.

A file is NAME.safetensors: the state of the network in float32, and metadata that names its class ("network")
and its keyword arguments ("config", JSON), so that it loads without anything else. NAME.md is its card.
"""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from denoisers.networks import Denoiser
from spectral.errors import FileContentError, OptionError
from spectral.options import number, whole
from spectral.storage import replacing

FOLDER = Path(__file__).parent


def where(path: str | Path) -> Path:
    """The weights in a training run's folder, or the file itself."""
    path = Path(path)
    return path / "weights.safetensors" if path.is_dir() else path


def build(network: str, config: dict[str, Any], copies: int = 0) -> Denoiser:
    """A network by the name of its class and its keyword arguments, new and on the CPU.

    In the channels-last layout, in which these networks run 1.2 to 1.4 times faster on a CPU. Raises
    OptionError for an unknown class, arguments that it does not take, or where its weights, as often as
    `copies` says, would take more memory than the machine has.
    """
    classes = Denoiser.registry
    if network not in classes:
        raise OptionError(f"no network class {network!r}; there are: {', '.join(sorted(classes))}")
    parameters = inspect.signature(classes[network]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not None}  # None: what no file can hold
    for name, value in config.items():
        if name not in defaults:
            raise OptionError(f"{network} has no {name!r}: give some of {', '.join(defaults)}")
        _check(name, value, type(defaults[name]))
    try:
        if copies:  # torch loads its compiler for it, a second, as training does for Adam
            _check_memory(classes[network], config, copies)
        model = classes[network](**config)
    except TypeError as error:
        raise OptionError(f"{network} does not take this configuration: {error}") from error
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_memory(kind: type[Denoiser], config: dict[str, Any], copies: int) -> None:
    """That the weights have room, of which a system may say nothing but end the process."""
    try:
        with torch.device("meta"):
            needed = copies * sum(p.nbytes for p in kind(**config).parameters())
    except RuntimeError:  # torch counts no further
        needed = 2**63
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise OptionError(
            f"{kind.__name__} {json.dumps(config)} takes {needed / 1e9:.0f} GB of memory, of which this "
            f"machine has {there / 1e9:.0f} GB: ask for a smaller one"
        )


def _check(name: str, value: Any, kind: type) -> None:
    """That a keyword argument is of its default's type. Raises OptionError."""
    if kind is int:
        whole(name, value)
    elif kind is float:
        number(name, value)
    elif kind is bool and not isinstance(value, bool):
        raise OptionError(f"{name} is true or false, got {value!r}")


def save(model: Denoiser, path: Path, metadata: dict[str, str]) -> None:
    """Write a network and what is known about it, atomically."""
    header = {"network": type(model).__name__, "config": json.dumps(model.config), **metadata}
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    try:
        with replacing(path) as partial:
            save_file(state, partial, header)
    except SafetensorError as failure:
        raise OSError(f"{path} could not be written: {failure}") from None


def read(path: Path) -> tuple[Denoiser, dict[str, str]]:
    """The network in a file, and its metadata.

    Raises FileContentError for a file that `save` did not write, and for weights that are NaN or infinite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileContentError(f"{path} is not a safetensors file: {error}") from error
    if not {"network", "config"} <= metadata.keys():
        raise FileContentError(
            f"{path} does not say which network it holds: it was not written by denoisers.training"
        )
    model = build(metadata["network"], json.loads(metadata["config"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # which names each tensor
        raise FileContentError(
            f"{path} does not fit the network that it names, {metadata['network']} {metadata['config']}: its "
            "tensors are others"
        ) from error
    check_finite(model, path)
    return model, metadata


def check_finite(model: Denoiser, path: Path) -> None:
    """Raises FileContentError for weights, of file `path`, that are NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise FileContentError(f"{path} holds NaN or infinity, in {name}: its training came to nothing")
