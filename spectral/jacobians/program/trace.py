"""What a function computes from one tensor, operation by operation, and which of it that tensor reaches.

The function is run once, with values, under a mode that sees every operation below autograd, autocast and
torch.compile: writes in place, views, complex numbers, control flow that depends on data, what is detached or
computed without gradients are all seen as they happen.  What y reaches is known by storage, not by tensor, so
that no alias and no write through a view is missed.

Nothing tells whether a value has left torch and come back as a constant (NumPy, `.item()`), but the record
can be played again: at another y it must give what the function gives there.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from spectral.errors import SpectralError
from spectral.jacobians.checksums import Place, of_storage, place_of
from spectral.jacobians.lock import ALONE
from spectral.jacobians.program.trees import leaves, mapped

aten = torch.ops.aten

# What these make has no content, until it is written to.
EMPTY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


# Norms of a batch, which keep running statistics that their schema does not say they write to.
_KEEPING_COUNT = {
    getattr(aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
    if hasattr(aten, name)
}


class Geometry(NamedTuple):
    """Which entries of a storage a tensor shows, and how."""

    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    conjugate: bool = False
    negative: bool = False

    @classmethod
    def of(cls, t: Tensor) -> Geometry:
        """The geometry of a strided tensor."""
        return cls(t.dtype, t.shape, t.stride(), int(t.storage_offset()), t.is_conj(), t.is_neg())

    def plain(self) -> Geometry:
        """Without the bits that torch resolves on reading."""
        return self._replace(conjugate=False, negative=False)

    def real(self) -> Geometry:
        """Of the same complex entries as pairs of real ones."""
        stride = (*(2 * s for s in self.stride), 1)
        dtype = self.dtype.to_real()
        return Geometry(dtype, torch.Size((*self.size, 2)), stride, 2 * self.offset)

    def positions(self, device: torch.device) -> Tensor:
        """Where each entry lies in the storage, in entries, int64 of `size`."""
        where = torch.full((), self.offset, dtype=torch.int64, device=device)
        for size, stride in zip(self.size, self.stride, strict=True):
            where = where.unsqueeze(-1) + stride * torch.arange(size, device=device)
        return where


@dataclass
class Stored:
    """One storage: the values of the record that show it, and the derivative of its content.

    Attributes:
        reference: weak, so that no later storage can take its address.
        first: the geometry in which it came.
        values: numbers in the record, by geometry; writes in place do not change them.
        base: the geometry of `slot`.
        slot: of the content's derivative in a program; None where y does not reach it.
        views: slots of the content as seen at other geometries, forgotten when it is written to.
        pending: makes the slot, if it is ever asked for: most of an operation's further outputs are not.
        discrete: the operation by which y reaches the content in jumps alone, without a derivative.
        mask: whether what is discrete are conditions, or counts of them, and no numbers.
        bits: whether integers that y may reach were written where numbers are read.
        held: aliases that a program keeps, which get a copy of their own before the storage is written to.
        owner: keeps a tensor alive that the function did not make, until it is written to.
        outside: whether the function did not make it.
        total: the checksum of what came from outside, when it was first looked at.
    """

    reference: StorageWeakRef
    first: Geometry
    values: dict[Geometry, int]
    base: Geometry | None = None
    slot: int | None = None
    views: dict[Geometry, int] = field(default_factory=dict)
    pending: functools.partial[int] | None = None
    discrete: str | None = None
    mask: bool = False
    bits: bool = False
    held: list[Tensor] = field(default_factory=list)
    owner: Tensor | None = None
    outside: bool = False
    total: float | None = None


@dataclass(frozen=True)
class Value:
    """Stands for a value in the arguments of a `Call`."""

    number: int


@dataclass
class Call:
    """One operation of the record: values in, values out (None: no tensor that is kept)."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    outputs: list[int | None]


class Trace(TorchDispatchMode):
    """The record of a function's operations; a subclass looks at each in `before` and `after`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: a model runs here as it was written, and torch's compiler takes seconds to load."""
        return False

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Stored] = {}
        self.calls: list[Call] = []
        self.numbers = 0
        self.others: dict[int, Tensor] = {}  # of other layouts, which are not followed
        self.fixed: list[float] = []  # checksums of what operations made that y does not reach
        self._touched: set[int] = set()  # storages that y may reach
        self._one_at_a_time = threading.RLock()

    def run(self, function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """function(y), recorded, without a graph."""
        with torch.no_grad():
            return self.traced(function, y.clone())

    def traced(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), recorded."""
        self.enter(x)
        self._thread = threading.get_ident()
        keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self._outside = _AsItWas(keys)
        with self:
            output = function(x)
        self.result = self.number(output)
        return output

    def enter(self, y: Tensor) -> Stored:
        """Make y the input of the record, value 0."""
        stored = self._new(y)
        self._touched.add(id(stored))
        return stored

    def before(self, target: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Look at an operation before it is carried out; what is returned comes back in `after`."""

    def after(self, target: Any, args: Any, kwargs: Any, written: list[Tensor], out: Any, seen: Any) -> None:
        """Look at an operation and its output."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self._chosen(func, args, kwargs or {})
        # What a script forks runs in threads of torch's, under this mode too, and ways back on a GPU do.
        with self._one_at_a_time, ALONE.working_for(self._thread):
            return self._seen(func, args, kwargs or {})

    def _chosen(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What `torch.cond` makes, by the branch that it takes.

        Raises:
            SpectralError: it is another operation that is given functions.
        """
        if func is not torch.ops.higher_order.cond:
            raise SpectralError(f"{func.name()}, an operation on functions, cannot be followed")
        chosen, first, second, operands = args
        branch = first if chosen else second
        with self:
            return branch(*operands)

    def _seen(self, func: Any, args: Any, kwargs: Any) -> Any:
        plain = _plain_of_several(func)
        if plain is not None and (_of_list(func) or _all_apart(func, args, kwargs)):
            return self._one_by_one(func, plain, args, kwargs)
        if func in _KEEPING_COUNT:
            with self._outside:
                args, kwargs = self._counted(func, args, kwargs)
        with self._outside:
            written = _written(func, args, kwargs)
            arguments = mapped(self._argument, (args, kwargs))
            seen = self.before(func, args, kwargs, written)
            for t in written:
                self._release(t)
        draws = may_draw(func, args, kwargs)
        state = torch.get_rng_state() if draws else None
        out = func(*args, **kwargs)
        with self._outside:
            every = leaves(out)
            tensors = [t for t in every if isinstance(t, Tensor) and t.layout is torch.strided]
            if draws and not self._drew_nothing(tensors + written, state, kwargs):
                self._fix(written or tensors, bool(written))
            elif (tensors or written) and not _traits(func).views:
                made = {id(t): self.number(t, made=True) for t in tensors}
                self.calls.append(Call(func, arguments[0], arguments[1], [made.get(id(t)) for t in every]))
            self._follow(func, args, kwargs, tensors, written)
            self.after(func, args, kwargs, written, out, seen)
        return out

    def _one_by_one(self, func: Any, plain: Any, args: Any, kwargs: Any) -> Any:
        """An operation that overwrites several tensors, as one that makes new ones, and copies."""
        told = bound(func, args, kwargs)
        if _of_list(func):  # in the order of the list, as the next may look at what was written before
            into = told["self"]
            each = [name for name, x in told.items() if isinstance(x, (list, tuple)) or name == "scalars"]
            for i, t in enumerate(into):
                if not plain._schema.name.startswith("aten::_foreach_"):
                    self._seen(plain, tuple(x[i] if name in each else x for name, x in told.items()), {})
                    continue
                one = tuple(x[i : i + 1] if name in each else x for name, x in told.items())
                self._seen(aten.copy_.default, (t, *self._seen(plain, one, {})), {})
            return None
        names = [name for _, name in _traits(func).writes]
        rest = {name: x for name, x in kwargs.items() if name not in names}
        for name, new in zip(names, self._seen(plain, args, rest), strict=True):
            if told[name].shape != new.shape:
                self._seen(aten.resize_.default, (told[name], list(new.shape)), {})
            self._seen(aten.copy_.default, (told[name], new), {})
        return tuple(told[name] for name in names)

    def _follow(self, func: Any, args: Any, kwargs: Any, made: list[Tensor], written: list[Tensor]) -> None:
        """What y may reach, and a checksum of what it does not: it is to be the same in every run."""
        given = (self.stored(t) for t in leaves((args, kwargs)) if isinstance(t, Tensor))
        reached = any(id(stored) in self._touched for stored in given if stored is not None)
        for t in made + written:
            stored = self.stored(t)
            if stored is None:
                continue
            if reached:
                self._touched.add(id(stored))
            elif any(t is w for w in written) or (len(stored.values) == 1 and func not in EMPTY):
                self.fixed.append(of_storage(t))

    def _counted(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The arguments without running statistics, of a norm that would write to them and does not say so.

        They are kept up here, by operations that are seen.
        """
        told = bound(func, args, kwargs)
        means, variances = told["running_mean"], told["running_var"]
        if not told["training"] or means is None or variances is None:
            return args, kwargs
        x, share = told["input"], told.get("momentum", told.get("exponential_average_factor"))
        if x.dtype != means.dtype:
            x = self._seen(aten._to_copy.default, (x,), {"dtype": means.dtype})
        axes = [axis for axis in range(x.ndim) if axis != 1]
        found = self._seen(aten.var_mean.correction, (x, axes), {"correction": 1})
        for kept, new in zip((variances, means), found, strict=True):
            self._seen(aten.lerp_.Scalar, (kept, new, share), {})
        told["running_mean"] = told["running_var"] = None
        return tuple(told.values()), {}

    @staticmethod
    def _drew_nothing(tensors: list[Tensor], state: Tensor | None, kwargs: Any) -> bool:
        """Whether an operation that may draw random numbers left them alone, as RReLU does in evaluation."""
        own = kwargs.get("generator") is not None or any(t.device.type != "cpu" for t in tensors)
        return not own and state is not None and torch.equal(state, torch.get_rng_state())

    def outside(self) -> list[Tensor]:
        """What the function looked at and did not make, and has not written to."""
        owners = [one.owner for one in self.constants().values() if one.owner is not None]
        return [*owners, *self.others.values()]

    def sums(self) -> dict[Place, float]:
        """Checksums of what came from outside, as it was when it was first looked at."""
        constants = self.constants().values()
        return {place_of(c.owner): c.total for c in constants if c.owner is not None and c.total is not None}

    def constants(self) -> dict[int, Stored]:
        """Of these the dense ones' storages, by their numbers among the values."""
        return {one.values[one.first]: one for one in self.storages.values() if one.owner is not None}

    def stored(self, t: Tensor) -> Stored | None:
        """What is known of the storage that t shows."""
        if t.layout is not torch.strided:
            return None
        return self.storages.get(t.untyped_storage()._cdata)

    def number(self, t: Tensor, made: bool = False) -> int:
        """The number of t among the values; a new one is a view of its storage, unless it is `made`."""
        stored = self.stored(t)
        if stored is None:
            stored = self._new(t)
            return stored.values[stored.first]
        return self._number(t, stored, made)

    def _number(self, t: Tensor, stored: Stored, made: bool = False) -> int:
        geometry = Geometry.of(t)
        number = stored.values.get(geometry)
        if number is None:
            first, number = stored.values[stored.first], self._next()
            stored.values[geometry] = number
            if not made:
                self.calls.append(Call(seen_at, (Value(first), geometry), {}, [number]))
        return number

    def play(self, y: Tensor) -> Tensor:
        """What the recorded operations give at y, random numbers and all values from outside as they were."""
        last: dict[int | None, int] = {}
        for i, call in enumerate(self.calls):
            given = leaves((call.args, call.kwargs))
            last.update((leaf.number, i) for leaf in given if isinstance(leaf, Value))
        last[self.result] = len(self.calls)
        dead: dict[int, list[int | None]] = {}
        for used, i in last.items():
            dead.setdefault(i, []).append(used)
        values: dict[int | None, Tensor] = {0: y.clone()}
        constants = self.constants().items()
        originals: dict[int | None, Tensor] = {i: s.owner for i, s in constants if s.owner is not None}
        values.update(originals)
        with torch.no_grad():
            for i, call in enumerate(self.calls):
                args, kwargs = mapped(
                    lambda leaf: values[leaf.number] if isinstance(leaf, Value) else leaf,
                    (call.args, call.kwargs),
                )
                made = leaves(call.function(*args, **kwargs))
                for output, leaf in zip(call.outputs, made, strict=True):
                    if output in last and output not in originals:
                        values[output] = leaf
                del args, kwargs, made
                for number in dead.get(i, ()):
                    values.pop(number, None)
            return values[self.result]

    def _argument(self, t: Any) -> Any:
        """t as the record keeps it."""
        if not isinstance(t, Tensor):
            return t
        if t.layout is not torch.strided:
            self.others.setdefault(id(t), t)
            return t
        stored = self.stored(t)
        if stored is None:
            stored = self._new(t)
            stored.owner, stored.outside = t, True
            stored.total = of_storage(t)
            return Value(stored.values[stored.first])
        return Value(self._number(t, stored))

    def _new(self, t: Tensor) -> Stored:
        geometry = Geometry.of(t)
        stored = Stored(StorageWeakRef(t.untyped_storage()), geometry, {geometry: self._next()})
        self.storages[t.untyped_storage()._cdata] = stored
        return stored

    def _next(self) -> int:
        self.numbers += 1
        return self.numbers - 1

    def _release(self, t: Tensor) -> None:
        """Let a storage be written to: who holds its content, the record too, gets a copy."""
        stored = self.stored(t)
        if stored is None:
            return
        for held in stored.held:
            held.data = held.clone()
        stored.held.clear()
        if stored.owner is not None:
            # In the record what came from outside is a copy from now on, made before the first write.
            copy = stored.owner.detach().clone()
            self.calls.insert(0, Call(_copied, (copy,), {}, [stored.values[stored.first]]))
            stored.owner = None

    def _fix(self, drawn: list[Tensor], in_place: bool) -> None:
        """Record an operation that draws random numbers by what it drew."""
        for t in drawn:
            number, values = self.number(t, made=True), t.detach().clone()
            if in_place:
                self.calls.append(Call(aten.copy_.default, (Value(number), values), {}, [None]))
            else:
                self.calls.append(Call(_copied, (values,), {}, [number]))


def may_draw(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation may draw random numbers; kernels of attention do where they drop weights alone."""
    if not _traits(func).draws:
        return False
    return not (
        func._schema.name.startswith("aten::_scaled_dot") and bound(func, args, kwargs)["dropout_p"] == 0
    )


def bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of an operation by name."""
    named = {argument.name: argument.default_value for argument in func._schema.arguments}
    return {**named, **dict(zip(named, args, strict=False)), **kwargs}


def is_whole(t: Tensor) -> bool:
    """Whether t shows all of its storage."""
    return t.numel() * t.element_size() == t.untyped_storage().nbytes() and t.is_contiguous()


def in_function() -> bool:
    """Whether the caller runs inside of a torch.autograd.Function."""
    forwards = {getattr(cls.forward, "__code__", None) for cls in _subclasses(torch.autograd.Function)}
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        # From torch 2.15 on `apply` has no frame of Python's: the user's `forward` has.
        if code in forwards or (
            code.co_filename == torch.autograd.function.__file__ and code.co_name == "apply"
        ):
            return True
        frame = frame.f_back
    return False


def _subclasses(cls: Any) -> set[Any]:
    return {found for below in cls.__subclasses__() for found in {below, *_subclasses(below)}}


def _copied(t: Tensor) -> Tensor:
    return t.clone()


def seen_at(t: Tensor, geometry: Geometry) -> Tensor:
    """The storage of t at another geometry."""
    seen = torch.empty(0, dtype=geometry.dtype, device=t.device)
    seen.set_(t.untyped_storage(), geometry.offset, geometry.size, geometry.stride)
    if geometry.conjugate:
        seen = torch._conj(seen)
    return torch._neg_view(seen) if geometry.negative else seen


class _Traits(NamedTuple):
    """What the schema of an operation says, which takes long to ask.

    Attributes:
        writes: the places and names of the arguments that it overwrites.
        draws: whether it may draw random numbers.
        views: whether it only makes another view of its input, in place.
    """

    writes: tuple[tuple[int, str], ...]
    draws: bool
    views: bool


@functools.cache
def _traits(func: Any) -> _Traits:
    schema, views = func._schema, torch.Tag.inplace_view in func.tags
    written = [
        (i, argument.name)
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    writes = tuple(written) if schema.is_mutable and not views else ()
    return _Traits(writes, torch.Tag.nondeterministic_seeded in func.tags, views)


@functools.cache
def _of_list(func: Any) -> bool:
    """Whether an operation overwrites each tensor of a list."""
    name = func._schema.name
    return name.startswith("aten::_foreach_") and name.endswith("_")


@functools.cache
def _plain_of_several(func: Any) -> Any:
    """Of an operation that overwrites several tensors at once that which makes new ones, if there is one."""
    if not _of_list(func) and (func.namespace != "aten" or len(_traits(func).writes) < 2):
        return None
    name = func._schema.name.split("::")[1]
    if _of_list(func):  # of those that are told nothing else the same of one tensor, in place
        alone = (
            getattr(aten, name.removeprefix("_foreach_"), None) if func._overloadname == "default" else None
        )
        return getattr(alone or getattr(aten, name[:-1], None), func._overloadname, None)
    outs = {name for _, name in _traits(func).writes}
    wanted = [argument.name for argument in func._schema.arguments if argument.name not in outs]
    if not all(argument.kwarg_only for argument in func._schema.arguments if argument.name in outs):
        return None
    for overload in func._overloadpacket.overloads():
        other = getattr(func._overloadpacket, overload)
        if not other._schema.is_mutable and [a.name for a in other._schema.arguments] == wanted:
            return other
    return None


def _all_apart(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether what an operation overwrites shares no memory with what else it is given."""
    given = leaves((args, kwargs))
    places = [
        t.untyped_storage()._cdata for t in given if isinstance(t, Tensor) and t.layout is torch.strided
    ]
    into = [t.untyped_storage()._cdata for t in _written(func, args, kwargs)]
    return all(places.count(place) == 1 for place in into)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors whose content an operation overwrites."""
    written = []
    for i, name in _traits(func).writes:
        given = kwargs.get(name) if i >= len(args) else args[i]
        written += [t for t in leaves(given) if isinstance(t, Tensor)]
    return written


class _AsItWas:
    """Dispatch as outside of the function: no inference mode, no autocast, torch.func at hand, no graph.

    Under a mode torch has already left autograd and torch.func behind, where an operation is to be
    differentiated.  Entered twice for each operation, by torch's own guards: its contexts in Python take
    several times as long.
    """

    def __init__(self, keys: tuple[Any, Any]) -> None:
        self._keys, self._entered = keys, list[tuple[Any, bool, Any, Any]]()

    def __enter__(self) -> None:
        """Put the guards up."""
        inference = torch._C._InferenceMode(False) if torch.is_inference_mode_enabled() else None
        if inference is not None:
            inference.__enter__()
        graph = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        keys = torch._C._ForceDispatchKeyGuard(*self._keys)
        keys.__enter__()
        functions = torch._C.DisableTorchFunction()
        functions.__enter__()
        self._entered.append((inference, graph, keys, functions))

    def __exit__(self, *told: object) -> None:
        """Take them down, the last first."""
        inference, graph, keys, functions = self._entered.pop()
        functions.__exit__(*told)
        keys.__exit__(*told)
        torch._C._set_grad_enabled(graph)
        if inference is not None:
            inference.__exit__(*told)
