"""A user's model as a function of one tensor, called so that nothing of the user's is changed by it."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import random
import sys
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from spectral.ambient import apart, as_outside
from spectral.errors import ModelOutputError, NotDeterministicError, OptionError
from spectral.jacobians.autograd import plain_attention
from spectral.jacobians.cpu import openmp
from spectral.jacobians.draws import CALLS, GENERATORS, restore, state_of, states
from spectral.jacobians.kept import Kept
from spectral.jacobians.lock import ALONE
from spectral.jacobians.program.trace import in_function

_LOOKED_AT = 100_000  # objects, at most, in which modules are looked for


class Model:
    """y -> the tensor in model(y, **keywords) whose derivative is meant.

    Attributes:
        name: for messages.
        label: which entry of a wrapped output is taken, once it has been called.
        graph: whether it works with a graph of its own, and is called where one may be built.
        switched: whether evaluation mode, in which it is called, is another computation than its own mode.
        draws: whether it was seen to draw random numbers.
        owner: the object that is called, where that is no module and keeps things as one does; else None.
    """

    def __init__(self, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
        self.function, self.keywords = function, dict(keywords)
        named = isinstance(function, nn.Module) or not hasattr(function, "__name__")
        self.name = type(function).__name__ if named else function.__name__
        self.label: str | None = None
        held = held_in(function, (nn.Module, *GENERATORS))
        self.modules = [x for x in held if isinstance(x, nn.Module)]
        self._generators = [x for x in held if not isinstance(x, nn.Module)]
        # The callable itself may be no module, and keep things as one does.
        owner = getattr(function, "__self__", function)
        plain = hasattr(owner, "__dict__") and not isinstance(owner, (nn.Module, types.ModuleType, type))
        self.owner = owner if plain and not inspect.isroutine(owner) else None
        self._holders = [*self.modules, *([] if self.owner is None else [self.owner])]
        self._met: set[torch.dtype] = set()
        self.graph = self.switched = self.draws = False
        self.plain = _Plain()

    def in_evaluation(self, what: str) -> str:
        """The note that `what` is that of evaluation mode, where it is another computation."""
        return f"{self.name} was in training mode: {what} that of its evaluation mode"

    def __call__(self, y: Tensor) -> Tensor:
        """The output at a copy of y, which the model may work on in place.

        Raises:
            ModelOutputError: it returned no floating-point tensor.
        """
        output = tensor = self._called(y)
        if not isinstance(output, Tensor):
            label, tensor = first_tensor(output)
            if tensor is None:
                raise ModelOutputError(f"{self.name} returned a {type(output).__name__} without a tensor")
            self.label = f"output {label} of {type(output).__name__}"
        if not tensor.is_floating_point():
            raise ModelOutputError(f"{self.name} returned {tensor.dtype}, which has no derivative")
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            raise ModelOutputError(
                f"{self.name} returned no dense tensor ({tensor.layout}, {tensor.device}): add to_dense()"
            )
        # The model may write into it at its next call.
        loose = self.graph and not torch.is_grad_enabled()
        return tensor.detach().clone() if loose else tensor.clone()

    def check_deterministic(self, y: Tensor, output: Tensor) -> None:
        """Call it at y twice more, inside of `ready`: what alternates may come back once.

        Raises:
            NotDeterministicError: what comes differs from `output`.
        """
        for _ in range(2):
            self.compare(self(y), output)

    def shows_what_is_cut(self, y: Tensor) -> bool:
        """Whether the output is another where what is taken off the graph is: not where it is only kept.

        What is cut where Python sees none of it, as in scripts, is taken to show.
        """
        outputs, self.plain.cut = [], False
        if held_in(self.function, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            self.plain.cut = True
            return True
        try:
            for shaking in (None, torch.Generator().manual_seed(0)):
                with self.ready(), torch.enable_grad():
                    self.plain.shaking = shaking
                    outputs.append(self(y.detach().clone().requires_grad_()).detach())
        except Exception:  # of the model's own, at numbers that it was not made for
            return True
        finally:
            seen, self.plain.cut, self.plain.shaking = self.plain.cut, True, None
        plain, shaken = outputs
        rounding = 10 * torch.finfo(plain.dtype).eps * plain.abs().max()
        return not (seen and (plain - shaken).abs().max() <= rounding)

    def fixes_its_draws(self, y: Tensor, output: Tensor) -> bool:
        """Whether the random numbers that it draws are the same in every call; called inside of `ready`.

        Where they are others, they may decide nothing: it is called several times, to see that.

        Raises:
            NotDeterministicError: what comes differs from `output`.
        """
        before = None  # generators that it holds were put back
        for _ in range(CALLS):
            self.compare(self(y), output)
            after = states(self._generators)
            if after == before:
                return True
            before = after
        return False

    def compare(self, again: Tensor, output: Tensor) -> None:
        """That two outputs at one input are one.

        Raises:
            NotDeterministicError: they differ.
        """
        apart = (again - output).abs().max()
        if apart > 100 * torch.finfo(output.dtype).eps * output.abs().max():
            raise NotDeterministicError(
                f"two calls of {self.name} at the same y differ by {apart:.1e}: switch off dropout and noise "
                "inside the model (fix its random draws), or reset what it keeps from call to call"
            )

    def _called(self, y: Tensor) -> Any:
        openmp.check_fork()
        self.plain.inside = True
        self.plain.own = self.graph or not torch.is_grad_enabled()
        try:
            if not self.graph:
                try:
                    with as_outside():
                        return self.function(y.clone(), **self.keywords)
                except RuntimeError as failure:
                    if torch.is_grad_enabled() or "does not require grad" not in str(failure):
                        raise
                    self.graph = self.plain.own = True  # as energies do, whose output is a gradient
            with torch.enable_grad(), as_outside():
                return self.function(y.clone(), **self.keywords)
        finally:
            self.plain.inside = False

    def check_loaded(self) -> None:
        """That there are numbers in it.

        Raises:
            OptionError: parameters are on the meta device, or not yet made.
        """
        weights = parameters_of(self.modules)
        if any(isinstance(p, UninitializedParameter) for p in weights):
            raise OptionError(f"{self.name} has lazy modules without weights: call it once first")
        if any(p.is_meta for p in weights):
            raise OptionError(f"the weights of {self.name} are on the meta device: load them first")

    def precision(self) -> torch.dtype | None:
        """The one floating-point dtype of all parameters and buffers, or None.

        Where no module is seen that has any, that of the first that was met in a call.
        """
        found = _precisions(self.modules) or self._met
        return next(iter(found)) if len(found) == 1 else None

    def taken(self, x: Tensor) -> Tensor:
        """x where its weights lie, in their precision where they have one; as it is where there are none."""
        places = [p.device for p in parameters_of(self.modules)]
        here = not places or x.device in places
        return x.to(x.device if here else places[0], self.precision() or x.dtype)

    def widened(self, dtype: torch.dtype) -> Model:
        """A copy with parameters, buffers and what it closes over in another precision, the same numbers.

        What is found in globals is no part of the copy, and stays as it is.
        """
        keywords = {name: _copied(value, dtype) for name, value in self.keywords.items()}
        other = Model(_copied(self.function, dtype), keywords)
        # Some may have been made since, at the first call.
        own = {id(m) for m in (*self.modules, *modules_in(self.function))}
        for module in (m for m in other.modules if id(m) not in own):
            for t in (*module._parameters.values(), *module._buffers.values()):
                if t is not None and t.is_floating_point():
                    t.data = t.data.to(dtype)
        return other

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """In evaluation mode, outside of any graph, inference mode and autocast, attention by kernels that
        rules know; training flags, attributes and buffers are put back.

        Modules that are held where they cannot be found are met as they are called.
        """
        thread, flags = threading.get_ident(), list[tuple[nn.Module, bool]]()

        def meet(module: nn.Module, args: Any) -> None:
            if threading.get_ident() != thread:
                return
            if not self._met:
                self._met |= _precisions([module])
            if getattr(module, "training", False):
                flags.append((module, True))
                module.training = False
                self.switched = self.switched or _looks_at_mode(module)

        with ALONE:
            # Frozen scripts have no mode.
            flags += [(m, m.training) for m in self.modules if hasattr(m, "training")]
            self.switched = self.switched or any(training and _looks_at_mode(m) for m, training in flags)
            kept = [Kept(m) for m in self._holders]
            held = [(g, state_of(g)) for g in self._generators]
            before = states(self._generators)
            hook = register_module_forward_pre_hook(meet)
            try:
                for m, training in flags:
                    if training:  # setting a module's attribute takes long
                        m.training = False
                with (
                    apart(),
                    torch.no_grad(),
                    _compiled(),
                    sdpa_kernel(_KERNELS),
                    self.plain,
                ):
                    yield
            finally:
                hook.remove()
                for m, training in reversed(flags):
                    if m.training != training:
                        m.training = training
                self.draws = self.draws or states(self._generators) != before
                for x in kept:
                    x.put_back()
                for generator, state in held:
                    restore(generator, state)


def _looks_at_mode(module: nn.Module) -> bool:
    """Whether its code, or a hook's, reads `training`, as that of dropout, norms and spectral_norm does."""
    called = [module, *module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(map(_reads_training, map(type, called))) or any(map(_names_training, called))


@functools.cache
def _reads_training(kind: type) -> bool:
    return any(_names_training(f) for c in {*kind.__mro__} - {*nn.Module.__mro__} for f in vars(c).values())


def _names_training(function: Any) -> bool:
    return "training" in getattr(getattr(function, "__code__", None), "co_names", ())


def _copied(thing: Any, dtype: torch.dtype) -> Any:
    """A copy of what is called, of functions with what they close over, or of what is given to it."""
    if isinstance(thing, Tensor) and not isinstance(thing, nn.Parameter):
        return thing.detach().to(dtype) if thing.is_floating_point() else thing
    if isinstance(thing, types.FunctionType) and thing.__closure__:
        cells = tuple(types.CellType(_copied(cell.cell_contents, dtype)) for cell in thing.__closure__)
        twin = types.FunctionType(
            thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, cells
        )
        twin.__kwdefaults__ = thing.__kwdefaults__
        return twin
    if isinstance(thing, functools.partial):
        given = {name: _copied(value, dtype) for name, value in thing.keywords.items()}
        return functools.partial(
            _copied(thing.func, dtype), *(_copied(x, dtype) for x in thing.args), **given
        )
    return copy.deepcopy(thing)


def _precisions(modules: list[nn.Module]) -> set[torch.dtype]:
    """The floating-point dtypes of their own parameters and buffers."""
    tensors = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()))
    return {t.dtype for t in tensors if t is not None and t.is_floating_point()}


def parameters_of(modules: list[nn.Module]) -> list[Tensor]:
    """In the order of the modules."""
    return [p for m in modules for p in m._parameters.values() if p is not None]


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


class _Plain(TorchFunctionMode):
    """Sees calls from Python, for what has no derivative forwards, and for what leaves torch.

    While such a mode is on, torch leaves the fast path of its attention layers by itself.  Attention that the
    model differentiates itself comes in its plain form: its kernels have no derivative of their derivative.

    Attributes:
        looked: whether values were looked at from Python, or may have been changed, in ways that are no exit.
        asked: whether a question about values was answered, by yes or no.
        left: how values were taken out of torch, outside of autograd functions, which may tell what that does
            to derivatives.
        functions: whether some were taken out inside of such functions.
        inside: whether the model is being called.
        own: whether a graph, where one is built, is the model's own.
        cut: whether a graph was cut, outside of such functions, while one was being built from a leaf.
        shaking: draws what is multiplied to numbers that are taken off a graph; by default none is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: list[str] = []
        self.functions = self.inside = self.own = self.cut = self.looked = self.asked = False
        self.shaking: torch.Generator | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.inside:
            if name in _TELLING:
                self._tell(name)
            if not self.cut or self.shaking is not None:
                cutting = name in ("detach", "detach_") or func == _DATA
                if (cutting or not torch.is_grad_enabled()) and _in_a_graph(args) and not in_function():
                    self.cut = True
                    if self.shaking is not None:
                        args = _shaken(args, self.shaking)
        if func in _RECURRENT:
            with _by_cells():
                return func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and (
            (self.own and _differentiates()) or kwargs.get("enable_gqa")
        ):
            with plain_attention():
                return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if func in _BY_IMAGE and torch.is_grad_enabled() and out.requires_grad:
            out.register_hook(torch.Tensor.contiguous)
        return out

    def _tell(self, name: str) -> None:
        """Note a call that values are looked at by, or leave torch."""
        if name in _LOOKING:
            self.looked = True
        elif name in _ASKING:
            self.asked = True
        elif in_function():
            self.functions = True
        elif name not in self.left:
            self.left.append(name)


_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


@contextlib.contextmanager
def _by_cells() -> Iterator[None]:
    """Recurrent layers by their cells: oneDNN's have no derivative forwards, cuDNN's none in evaluation."""
    libraries: list[Any] = [torch.backends.cudnn, torch.backends.mkldnn]
    # Their flags() would touch TensorFloat-32 as well: it may not be readable, and setting it warns.
    enabled = [library.enabled for library in libraries]
    try:
        for library in libraries:
            library.enabled = False
        yield
    finally:
        for library, before in zip(libraries, enabled, strict=True):
            library.enabled = before


# Their derivative backwards is wrong in torch for one image where its cotangent has channels last.
_BY_IMAGE = {functional.instance_norm, torch.instance_norm}


# The rules of these are in `program/rules/attention.py`; what none of them takes torch forms plainly.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _differentiates() -> bool:
    """Whether torch differentiates what is called now."""
    return (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _in_a_graph(args: Any) -> bool:
    """Whether one of some arguments was made by what is differentiated."""
    for x in args:  # at each call: a generator takes several times as long
        for t in x if isinstance(x, (list, tuple)) else (x,):
            if isinstance(t, Tensor) and t.grad_fn is not None:
                return True
    return False


def _shaken(args: Any, by: torch.Generator) -> tuple[Any, ...]:
    """Arguments of which those in a graph are copies outside of it, other numbers as large as they are."""

    def one(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [*map(one, x)]
        if not isinstance(x, Tensor) or x.grad_fn is None:
            return x
        noise = torch.randn(x.shape, generator=by, device="cpu").to(x.device, x.real.dtype)
        return x.detach() * (1 + noise)

    return tuple(map(one, args))


_LOOKING = {
    *("__format__", "__repr__", "__str__", "__index__", "untyped_storage", "storage", "apply_", "map_"),
    *("map2_", "__reduce_ex__"),
}
# Answers that are yes or no choose a way, which shows in what is done.
_ASKING = {"__bool__", "__contains__", "is_nonzero", "equal", "allclose"}
_LEAVING = {"numpy", "__array__", "item", "tolist", "__float__", "__int__", "data_ptr", "__dlpack__"}
_TELLING = _LOOKING | _ASKING | _LEAVING
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


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


def first_tensor(output: Any) -> tuple[str, Tensor | None]:
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


_HOLDING_NONE = {type(None), bool, int, float, str, bytes, Tensor, nn.Parameter, torch.dtype, torch.device}
_TABLES = {dict, OrderedDict, list, tuple, set}


# What each module has by name, and of that what may hold modules: tables of hooks.
_OF_EACH_MODULE = vars(nn.Module())
_HOOKS = [name for name in _OF_EACH_MODULE if name.endswith("_hooks")]


@functools.cache
def _slots(kind: Any) -> list[str]:
    """The names of the slots of a class."""
    return [s for c in kind.__mro__ for s in getattr(c, "__slots__", ()) if isinstance(s, str)]


def modules_in(function: Any) -> list[nn.Module]:
    """Every module that a callable visibly holds; see `held_in`."""
    return held_in(function, nn.Module)


def held_in(function: Any, kinds: Any) -> list[Any]:
    """All of some kinds that a callable visibly holds: itself, or what it closes over, binds or refers to."""
    found: dict[int, Any] = {}
    pending: list[Any] = [function]
    visited: set[int] = set()
    while pending and len(visited) < _LOOKED_AT:
        item = pending.pop()
        # By its very type at first: most of what modules hold is numbers, words and empty tables.
        kind = type(item)
        if kind in _HOLDING_NONE or (kind in _TABLES and not item) or id(item) in visited:
            continue
        if isinstance(item, (type, types.ModuleType, Tensor, str, bytes, int, float)):
            continue
        visited.add(id(item))
        if isinstance(item, kinds):
            found[id(item)] = item
        if isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            pending += [item.__self__, item.__func__]
        elif inspect.isbuiltin(item):
            pending.append(item.__self__)  # as of generators, in releases of NumPy
        elif inspect.isfunction(item):
            pending += [*_referred(item), *(item.__defaults__ or ())]
            pending += [*(item.__kwdefaults__ or {}).values(), *vars(item).values()]
        elif isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            pending += item
        else:
            own = getattr(item, "__dict__", {})
            if isinstance(item, nn.Module):  # of what each has most is empty
                tables = [own[name] for name in _HOOKS if own.get(name)]
                pending += [*tables, *own.get("_modules", {}).values()]
                pending += [value for name, value in own.items() if name not in _OF_EACH_MODULE]
            else:
                pending += own.values()
            slots = _slots(kind)  # type: ignore[arg-type]  # of a class mypy knows no hash
            pending += [getattr(item, s) for s in slots if hasattr(item, s)]
    return list(found.values())
