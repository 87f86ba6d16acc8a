"""What a network holds at a named layer, as a function of its input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from denoisers.adapters.diffusion import tensor_of
from spectral.errors import OptionError
from spectral.options import whole


class AtLayer(nn.Module):
    """y -> the activation of a layer while model(y, **keywords) runs; what comes after it is not computed.

    Attributes:
        path: of the layer, in the model's `named_modules`.
    """

    def __init__(self, model: nn.Module, layer: str, call: int = 0) -> None:
        super().__init__()
        self.model, self.path, self.call = model, _path(model, layer), whole("call", call)

    def forward(self, y: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """The activation, or the first tensor of what the layer returns."""
        left = self.call

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal left
            if left == 0:
                raise _Reached(output)
            left -= 1

        hook = self.model.get_submodule(self.path).register_forward_hook(look)
        try:
            self.model(y, *args, **keywords)
        except _Reached as reached:
            output = reached.output
        else:
            raise OptionError(f"{self.path} ran {self.call - left} times, and call {self.call} was asked for")
        finally:
            hook.remove()
        return tensor_of(output, self.path)


class _Reached(Exception):  # noqa: N818  no error: the way out of a network's forward
    """The layer has run."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def at_layer(model: nn.Module, layer: str, call: int = 0) -> AtLayer:
    """x -> h: a model read at a layer, whose J is activation by input.

    `spectral.top_svd(at_layer(f.at(timestep=500), "mid_block"), y, k=3)`: right singular vectors are the
    directions of the image that move the layer most, at fixed y.

    Args:
        model: the network, or an adapter around it.
        layer: path of the module, or the end of a path that no other module has.
        call: which call of it, counted from 0, where it runs several times.

    Raises:
        OptionError: there is no such layer, or several.
    """
    return AtLayer(model, layer, call)


def _path(model: nn.Module, layer: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return layer
    found = [name for name in names if name.endswith("." + layer)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(f"several layers end in {layer!r}: {', '.join(found[:4])}; give more of the path")
    tops = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))[:8]
    raise OptionError(f"there is no layer {layer!r}; among them are {', '.join(tops)}")
