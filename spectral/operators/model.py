"""A user's model as a function of one tensor, called so that nothing of the user's is changed by it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import sys
import threading
import types
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from spectral.errors import ModelOutputError, NotDeterministicError, OptionError
from spectral.operators.frozen.trace import in_function
from spectral.operators.lock import ALONE

_LOOKED_AT = 100_000  # objects, at most, in which modules are looked for


class Model:
    """y -> the tensor in model(y, **keywords) whose derivative is meant.

    Attributes:
        name: for messages.
        label: which entry of a wrapped output is taken, once it has been called.
    """

    def __init__(self, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
        self.function, self.keywords = function, dict(keywords)
        named = isinstance(function, nn.Module) or not hasattr(function, "__name__")
        self.name = type(function).__name__ if named else function.__name__
        self.label: str | None = None
        self.modules = modules_in(function)
        self.plain = _Plain()

    def __call__(self, y: Tensor) -> Tensor:
        """The output at a copy of y, which the model may work on in place.

        Raises:
            ModelOutputError: it returned no floating-point tensor.
        """
        self.plain.inside = True
        try:
            output = tensor = self.function(y.clone(), **self.keywords)
        finally:
            self.plain.inside = False
        if not isinstance(output, Tensor):
            label, tensor = _first_tensor(output)
            if tensor is None:
                raise ModelOutputError(f"{self.name} returned a {type(output).__name__} without a tensor")
            self.label = f"output {label} of {type(output).__name__}"
        if not tensor.is_floating_point():
            raise ModelOutputError(f"{self.name} returned {tensor.dtype}, which has no derivative")
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            raise ModelOutputError(
                f"{self.name} returned no dense tensor ({tensor.layout}, {tensor.device}): add to_dense()"
            )
        return tensor.clone()  # the model may write into it at its next call

    def check_deterministic(self, y: Tensor, output: Tensor) -> None:
        """Call it at y once more, inside of `ready`.

        Raises:
            NotDeterministicError: what comes differs from `output`.
        """
        apart = (self(y) - output).abs().max()
        if apart > 100 * torch.finfo(output.dtype).eps * output.abs().max():
            raise NotDeterministicError(
                f"two calls of {self.name} at the same y differ by {apart:.1e}: switch off dropout and noise "
                "inside the model (fix its random draws), or reset what it keeps from call to call"
            )

    def check_loaded(self) -> None:
        """That there are numbers in it.

        Raises:
            OptionError: parameters are on the meta device.
        """
        if any(p is not None and p.is_meta for m in self.modules for p in m._parameters.values()):
            raise OptionError(f"the weights of {self.name} are on the meta device: load them first")

    def precision(self) -> torch.dtype | None:
        """The one floating-point dtype of all parameters and buffers, or None."""
        tensors = (t for m in self.modules for t in (*m._parameters.values(), *m._buffers.values()))
        found = {t.dtype for t in tensors if t is not None and t.is_floating_point()}
        return found.pop() if len(found) == 1 else None

    def weights(self, others: list[Tensor]) -> Weights:
        """The parameters, and other tensors, as they are now."""
        return Weights([p for m in self.modules for p in m._parameters.values() if p is not None] + others)

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """In evaluation mode, outside of any graph, inference mode and autocast, attention in its plain form,
        which alone torch differentiates forwards; training flags, attributes and buffers are put back.

        Modules that are held where they cannot be found are met as they are called.
        """
        thread, flags = threading.get_ident(), list[tuple[nn.Module, bool]]()

        def meet(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread and module.training:
                flags.append((module, True))
                module.training = False

        with ALONE:
            flags += [(m, m.training) for m in self.modules]
            kept = [_Kept(m) for m in self.modules]
            hook = register_module_forward_pre_hook(meet)
            try:
                for m in self.modules:
                    m.training = False
                with (
                    torch.inference_mode(False),
                    torch.no_grad(),
                    torch.autocast("cpu", enabled=False),
                    torch.autocast("cuda", enabled=False),
                    _compiled(),
                    sdpa_kernel(SDPBackend.MATH),
                    self.plain,
                ):
                    yield
            finally:
                hook.remove()
                for m, training in reversed(flags):
                    m.training = training
                for x in kept:
                    x.put_back()


class Weights:
    """Parameters at one time, by what tells of a change: torch's counts of writes, then checksums.

    A model that projects its weights anew at each call writes to them, and changes nothing.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        each = {id(p): p for p in parameters if p.layout is torch.strided and not p.is_inference()}
        self._kept = [p for p in each.values() if p.is_floating_point() or p.is_complex()]
        self._versions = [p._version for p in self._kept]
        self._places = [p.data_ptr() for p in self._kept]
        self._sums = [_sum(p) for p in self._kept]

    def changed(self, thorough: bool) -> bool:
        """Whether some are others than they were; all by their bytes, where it is `thorough`."""
        for i, p in enumerate(self._kept):
            if p.data_ptr() != self._places[i]:
                return True
            if thorough or p._version != self._versions[i]:
                if _sum(p) != self._sums[i]:
                    return True
                self._versions[i] = p._version
        return False


def _sum(p: Tensor) -> int:
    """A checksum of its bytes."""
    entries = p.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return zlib.crc32(entries.view(torch.uint8).numpy().tobytes())


@contextlib.contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """The generators of torch, NumPy and Python afterwards as before."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)


class _Kept:
    """What a module holds, by name, with the content of its lists, tables and tensors; not its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.attributes = module, dict(vars(module))
        self.attributes.pop("training", None)
        tables: list[dict[str, Any]] = [self.attributes, module._buffers]
        held = _held([value for table in tables for value in table.values()])
        self.containers = [(c, c.copy()) for c in held if type(c) in _CONTAINERS]
        self.tensors = [
            (t, t._version, t.detach().clone())
            for t in held
            if isinstance(t, Tensor) and not isinstance(t, nn.Parameter) and not t.is_inference()
        ]
        # A backward pass inside the model fills gradients.
        self.gradients = [(p, p.grad) for p in module._parameters.values() if p is not None]
        for p, _ in self.gradients:
            p.grad = None

    def put_back(self) -> None:
        """All as it was."""
        now = vars(self.module)
        for name in [*now]:
            if name not in self.attributes and name != "training":
                del now[name]
        now.update(self.attributes)
        for container, before in self.containers:
            if not _same(container, before):
                container.clear()
                container.extend(before) if isinstance(container, (list, deque)) else container.update(before)
        for t, version, before in self.tensors:
            # Writes through `.data` are not counted.
            if t._version != version or (t.layout is torch.strided and not torch.equal(t, before)):
                with torch.no_grad():
                    t.copy_(before)
        for p, gradient in self.gradients:
            p.grad = gradient


def _held(values: list[Any]) -> list[Any]:
    """The values, and what lists, tables and tuples among them hold, at any depth; each once."""
    found: dict[int, Any] = {}
    pending = values
    while pending and len(found) < _LOOKED_AT:
        value = pending.pop()
        if id(value) in found or not isinstance(value, (Tensor, tuple, *_CONTAINERS)):
            continue
        found[id(value)] = value
        if isinstance(value, dict):
            pending += value.values()
        elif not isinstance(value, Tensor):
            pending += value
    return [*found.values()]


def _same(container: Any, before: Any) -> bool:
    """Whether two lists, tables or sets hold the same objects."""
    now, then = ([*c.items()] if isinstance(c, dict) else [(None, x) for x in c] for c in (container, before))
    return len(now) == len(then) and all(
        (a is b or (isinstance(a, (str, int)) and a == b)) and x is y
        for (a, x), (b, y) in zip(now, then, strict=True)
    )


class _Plain(TorchFunctionMode):
    """Sees calls from Python, for what has no derivative forwards, and for what leaves torch.

    While such a mode is on, torch leaves the fast path of its attention layers by itself.

    Attributes:
        left: how values were taken out of torch, outside of autograd functions, which may tell what that does
            to derivatives.
        functions: whether some were taken out inside of such functions.
        inside: whether the model is being called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: list[str] = []
        self.functions = self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.inside and name in _LEAVING:
            if in_function():
                self.functions = True
            elif name not in self.left:
                self.left.append(name)
        if func is torch.lstm:  # by its cells: oneDNN's layer has no derivative forwards
            with torch.backends.mkldnn.flags(enabled=False):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


_LEAVING = {"numpy", "__array__", "item", "tolist", "__float__", "__int__", "data_ptr", "__dlpack__"}


def _compiled() -> contextlib.AbstractContextManager[Any]:
    """What torch.compile made runs as it was written, where torch.compile has been used at all."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


def _referred(function: types.FunctionType) -> list[Any]:
    """What a function closes over, and the globals that it names."""
    held = [name for name in function.__code__.co_names if name in function.__globals__]
    found = [function.__globals__[name] for name in held]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty: a name that is not bound yet
            found.append(cell.cell_contents)
    return found


def _first_tensor(output: Any) -> tuple[str, Tensor | None]:
    """The name and value of `.sample`, or of the first tensor, in a model's wrapped output."""
    if isinstance(output, dict):
        entries = {f"[{key!r}]": value for key, value in output.items()}
        preferred = output.get("sample")
    elif isinstance(output, (tuple, list)):
        entries = {f"[{i}]": value for i, value in enumerate(output)}
        preferred = getattr(output, "sample", None)
    else:
        names = (
            [f.name for f in fields(output)]
            if is_dataclass(output)
            else list(getattr(output, "__dict__", {}))
        )
        entries = {f".{name}": getattr(output, name) for name in names}
        preferred = getattr(output, "sample", None)
    if isinstance(preferred, Tensor):
        return ".sample", preferred
    tensors = ((name, value) for name, value in entries.items() if isinstance(value, Tensor))
    return next(tensors, ("", None))


def modules_in(function: Any) -> list[nn.Module]:
    """Every module that a callable visibly holds: itself, or in what it closes over, binds or refers to."""
    found: dict[int, nn.Module] = {}
    pending: list[Any] = [function]
    visited: set[int] = set()
    while pending and len(visited) < _LOOKED_AT:
        item = pending.pop()
        if id(item) in visited or isinstance(item, (type, types.ModuleType, Tensor, str, bytes, int, float)):
            continue
        visited.add(id(item))
        if isinstance(item, nn.Module):
            found[id(item)] = item
            pending += item.children()
        if isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            pending += [item.__self__, item.__func__]
        elif inspect.isfunction(item):
            pending += [*_referred(item), *(item.__defaults__ or ())]
            pending += [*(item.__kwdefaults__ or {}).values(), *vars(item).values()]
        elif isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            pending += item
        else:
            pending += getattr(item, "__dict__", {}).values()
            slots = [s for c in type(item).__mro__ for s in getattr(c, "__slots__", ())]
            pending += [getattr(item, s) for s in slots if isinstance(s, str) and hasattr(item, s)]
    return list(found.values())
