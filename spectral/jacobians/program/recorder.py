"""From a function and a point to the program of its derivative there."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, SpectralError
from spectral.jacobians.cpu import memory
from spectral.jacobians.program import fusion
from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.passes import needed, rewritten, straightened
from spectral.jacobians.program.program import Program
from spectral.jacobians.program.rules import PROMOTING, RULES, Seen
from spectral.jacobians.program.rules.kinds import (
    BY_INDEX,
    GAUGED,
    SAWTOOTH,
    SHAPES_ALONE,
    STRAIGHT_THROUGH,
    jumps,
    shape_alone,
)
from spectral.jacobians.program.rules.pointwise import Sum
from spectral.jacobians.program.rules.products import Matmul, Softmax
from spectral.jacobians.program.rules.shapes import as_complex, as_pairs
from spectral.jacobians.program.slopes import in_channels_last
from spectral.jacobians.program.steps import (
    Input,
    Linear,
    Local,
    Operation,
    Step,
    aten,
    is_number,
)
from spectral.jacobians.program.storage import Cast, Put, Take
from spectral.jacobians.program.trace import Geometry, Stored, Trace, in_function, is_whole, may_draw, seen_at
from spectral.jacobians.program.trees import leaves, mapped
from spectral.jacobians.program.trials import (
    ContradictionError,
    LeftOutError,
    Trials,
    contradiction,
    half_along,
    hold_against_differences,
    size_of,
)

UNREACHED = -1
BITS = "reading its bits"


def record(function: Callable[[Tensor], Tensor], y: Tensor) -> Program:
    """The program of `function`'s derivative at y.

    Raises:
        SpectralError: an operation cannot be followed, or the program does not do what its steps do.
    """
    return Recorder.of(function, y).program()[0]


class Jump(NamedTuple):
    """A tensor that y reaches in jumps alone: its maker, whether it is a mask (see `Stored`) or numbers."""

    name: str
    mask: bool
    number: bool


class Recorder(Trace):
    """A trace that keeps, of each operation that y reaches, the step of its derivative.

    Attributes:
        output: function(y).
        input: of y's shape and precision, without its numbers.
        slot: of the output's derivative, or UNREACHED.
        contradicted: an operation whose derivatives by torch contradict each other, or that torch leaves out,
            which no way can mend.
        failure: why there is no program; the trace itself goes on, for what else it tells.
        jumps: operations that are constant between jumps, on the way from y: their derivative is zero.
        sawtooth: operations that jump, and have a derivative between jumps.
        jumps_inside: whether some are inside of a torch.autograd.Function, which may declare a derivative.
        integers: where integers made from y became numbers again.
        declared: operations of torch whose derivative is declared straight through, and is not their own.
        bits: whether some of these integers are the bits of numbers that y reaches.
        taken: whether a number that y reaches was read by Python.
        doubtful: an operation whose derivative is right or wrong by what the function makes of its result.
        opaque: whether y reaches what is no dense tensor, so that the record cannot be played.
        detached: whether something that y reaches was cut off from torch's graph, outside of such functions.
        entries: of each slot.
        bytes: of these values, about what a graph of them would hold.
    """

    output: Tensor
    input: Tensor
    slot: int

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.slots = 1
        self.entries: dict[int, int] = {}
        self.dtypes: dict[int, torch.dtype] = {}
        self.failure: str | None = None
        self.contradicted: str | None = None
        self.doubtful: str | None = None
        self.jumps: list[str] = []
        self.sawtooth: list[str] = []
        self.integers: list[str] = []
        self.declared: list[str] = []
        self.detached = self.taken = self.bits = self.opaque = self.jumps_inside = False
        self.bytes, self._rounding = 0, 0.0
        self._makers: dict[int, Step] = {}  # of each slot
        self._waiting: list[Stored] = []
        self._trials = Trials()
        self._left_out: dict[int, str] = {}  # by torch, of which slots

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], y: Tensor) -> Recorder:
        """The record of function(y)."""
        recorder = cls()
        memory.keep_freed()
        try:
            output = recorder.run(function, y)
            with torch.no_grad():
                recorder.input, recorder.slot = _like(y), recorder.slot_of(output)
            recorder._refuse_left_out()
        finally:
            recorder._waiting.clear()
            for stored in recorder.storages.values():
                stored.pending = None  # it would be asked for by now; with it the recorder holds itself
        recorder.output = output.clone() if output.is_inference() else output.detach()
        memory.trim(recorder.bytes)
        return recorder

    @property
    def rounding(self) -> float:
        """The largest, relative, of the values that y reaches."""
        return max(self._rounding, self._trials.rounding)

    @torch.no_grad()
    def program(self, v: Tensor | None = None) -> tuple[Program, Tensor]:
        """The steps made fast, once they do to v what they did before, to rounding; and J v.

        v is of the size of y, by default random.

        Raises:
            SpectralError: they do not, or there is no program.
        """
        if self.failure is not None:
            raise SpectralError(self.failure)
        return self._made_fast(self.steps, self._trials.draw(self.input) if v is None else v)

    @torch.no_grad()
    def straight_through(self) -> tuple[Program | None, bool]:
        """The program with straight-through estimators as autograd differentiates them, if there may be any.

        And whether what it leaves out of a sum has a derivative of its own, so that it may be no estimator.
        """
        steps, loose = straightened(self.steps)
        return (None if steps is None else self._made_fast(steps, self._trials.draw(self.input))[0]), loose

    def _made_fast(self, steps: list[Step], v: Tensor) -> tuple[Program, Tensor]:
        result = None if self.slot == UNREACHED else self.slot
        steps = [fusion.settled(step) for step in needed(steps, result)]
        memory.trim(self.bytes)
        plain = Program([_by_torch(s) for s in steps], result, self.input.shape, self.output, self.entries)
        v = v.to(self.input).unsqueeze(0)
        Jv = plain.apply(v)
        del plain
        memory.trim(self.bytes)
        used = {self.dtypes[i] for step in steps for i in (*step.inputs, step.output)}
        number = self.output.dtype if len(used) < 2 else None
        entries = dict(self.entries)
        fast = rewritten([copy.copy(step) for step in steps], result, number, entries)
        program = Program(fast, result, self.input.shape, self.output, entries)
        self._compare(program, v, Jv)
        return program, Jv[0]

    def enter(self, y: Tensor) -> Stored:
        """Make y the input: value 0, slot 0."""
        stored = super().enter(y)
        stored.base, stored.slot = Geometry.of(y), 0
        self._count(0, y)
        return stored

    def slot_of(self, t: Tensor) -> int:
        """The slot of t's derivative, or UNREACHED."""
        stored = self.stored(t)
        if stored is None or not is_number(t):
            return UNREACHED
        self._resolve(stored)
        if stored.slot is None or stored.base is None:
            return UNREACHED
        geometry = Geometry.of(t)
        if geometry == stored.base:
            return stored.slot
        if geometry not in stored.views:
            stored.views[geometry] = self._shown(stored, geometry, t.device)
        return stored.views[geometry]

    # Each operation

    def before(self, target: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Of a write in place the derivative of what is written: its inputs are about to be overwritten."""
        self._waiting = [s for s in self._waiting if s.pending and not s.reference.expired()]
        if not written or self.failure is not None:
            return None
        try:
            for stored in self._waiting:
                self._resolve(stored)
            return self._overwriting(target, args, kwargs, written)
        except Exception as failure:
            return self._fail(target, failure)

    def after(self, target: Any, args: Any, kwargs: Any, written: list[Tensor], out: Any, seen: Any) -> None:
        """Make the step of an operation that y reaches."""
        if self.failure is not None:
            return
        try:
            if not written:
                self._made(target, args, kwargs, out)
            elif seen is not None:
                self._write(written[0], *seen)
        except Exception as failure:
            self._fail(target, failure)

    def _fail(self, target: Any, failure: Exception) -> None:
        if self.failure is not None:  # of an operation before, which is asked for now
            return
        reason = str(failure).strip().split("\n")[0][:160]
        self.failure = f"{target}: {reason or type(failure).__name__}"
        if isinstance(failure, ContradictionError):
            self.contradicted = self.failure

    def _refuse_left_out(self) -> None:
        """What torch leaves out is refused where the output is made of it: a mask or a count is not."""
        if not self._left_out or self.contradicted is not None:
            return
        steps = self.steps if self.failure is not None else needed(self.steps, self.slot)
        reason = next((self._left_out[s.output] for s in steps if s.output in self._left_out), None)
        if reason is not None:
            self.failure = self.failure or reason
            self.contradicted = (
                f"{reason}, so that torch would leave its part out in silence: put one that has in its place"
            )

    def _made(self, target: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Of new tensors, and views."""
        reached, discrete = self._reach(target, args, kwargs)
        if not (reached or discrete):
            return
        if target is aten.view.dtype and not (is_number(args[0]) and is_number(out)):
            stored = self.stored(out)
            assert stored is not None  # the trace has numbered it
            stored.bits = stored.bits or stored.slot is None
            return
        single = isinstance(out, Tensor)
        every = leaves(out)
        outputs = {i: t for i, t in enumerate(every) if isinstance(t, Tensor)}
        if any(t.layout is not torch.strided for t in outputs.values()):
            self.opaque = True
            raise SpectralError("its result is not a dense tensor")
        if target is aten._local_scalar_dense.default and reached:
            self.taken = True
        self._judge(target, (args, kwargs), list(outputs.values()), reached, discrete)
        if target is aten.detach.default:
            self.detached = self.detached or not in_function()
        integers = [None if is_number(t) else t for t in every if isinstance(t, Tensor)]
        for entry, t in outputs.items():
            stored, geometry = self.stored(t), Geometry.of(t)
            assert stored is not None  # the trace has numbered it
            if not (reached and is_number(t) and not jumps(target, args, kwargs)):
                if stored.slot is None:
                    stored.discrete = BITS if any(jump.name == BITS for jump in discrete) else str(target)
                    stored.mask = _counts(target, (args, kwargs), bool(reached), t, discrete)
                continue
            like, number = _like(t), None if single else entry
            if stored.slot is not None:
                # What no rule knows is found by its storage, when it is read.
                if target in RULES and geometry != stored.base and geometry not in stored.views:
                    stored.views[geometry] = self._slot(target, args, kwargs, like, integers, number, reached)
                continue
            self.bytes += t.numel() * t.element_size()
            stored.base = geometry
            if single:
                stored.slot = self._slot(target, args, kwargs, like, integers, number, reached, t)
            else:
                given = target, args, kwargs, like, integers, number, reached
                stored.pending = functools.partial(self._slot, *given)
                self._waiting.append(stored)

    def _reach(self, target: Any, args: Any, kwargs: Any) -> tuple[dict[int, int], list[Jump]]:
        """The slots of the tensors that y reaches, by id, and what it reaches in jumps alone."""
        reached: dict[int, int] = {}
        discrete: list[Jump] = []
        if target in SHAPES_ALONE:
            return reached, discrete
        aside = [id(args[i]) for i in shape_alone(target, args)]
        for leaf in leaves((args, kwargs)):
            stored = self.stored(leaf) if isinstance(leaf, Tensor) and id(leaf) not in aside else None
            if stored is None:
                continue
            if stored.bits and is_number(leaf):
                discrete.append(Jump(BITS, mask=False, number=False))
                continue
            slot = self.slot_of(leaf)
            if slot != UNREACHED:
                reached[id(leaf)] = slot
            elif not is_number(leaf) and stored.slot is not None:
                discrete.append(Jump(BITS, mask=False, number=False))
            elif stored.discrete is not None:
                discrete.append(Jump(stored.discrete, stored.mask, is_number(leaf)))
        return reached, discrete

    def _judge(
        self,
        target: Any,
        arguments: Any,
        outputs: list[Tensor],
        reached: dict[int, int],
        discrete: list[Jump],
    ) -> None:
        """Tell of an operation that has no derivative, or the wrong one for what it stands for."""
        numbers = any(map(is_number, outputs))
        if reached and target not in _DRAWING_IN_TRAINING and may_draw(target, *arguments):
            raise SpectralError("it draws random numbers that depend on y")
        made = [jump.name for jump in discrete if not (jump.mask or jump.number)]
        if numbers and made and target not in BY_INDEX:
            self.bits = self.bits or BITS in made
            by = BITS if BITS in made else made[0]
            self.integers.append(f"integers made from y by {by} are used as numbers by {target}")
        if (numbers and not reached) or (reached and jumps(target, *arguments)):
            self._jump(target)
        if reached and target in SAWTOOTH:
            self.sawtooth.append(str(target))
        if reached and target in STRAIGHT_THROUGH:
            self.declared.append(str(target))

    def _jump(self, target: Any) -> None:
        self.jumps.append(str(target))
        self.jumps_inside = self.jumps_inside or in_function()

    def _slot(
        self,
        target: Any,
        args: Any,
        kwargs: Any,
        like: Tensor,
        integers: list[Any],
        entry: int | None,
        reached: dict[int, int],
        value: Tensor | None = None,
    ) -> int:
        """The slot of an operation's derivative, by its rule or else by torch's derivative of it."""
        promotes = target in PROMOTING
        slots = {i: self._cast(slot, like.dtype) for i, slot in reached.items()} if promotes else reached
        make = RULES.get(target)
        if make is not None:
            given = target, args, kwargs, like, integers, entry, slots, self.slots, self._hold
            seen = Seen(*given, promoted=promotes, value=value)
            step = make(seen)
            if isinstance(step, int):
                return step
            if step is not None and self._trials.stands(step, seen):
                return self._add(self._fused(step, seen), like)
        seen = Seen(target, args, kwargs, like, integers, entry, reached, self.slots, self._hold)
        primals = tuple(map(self._hold, seen.primals))
        local = Local(seen.inputs, self.slots, seen.operation(), primals)
        try:
            tried = self._trials.by_torch(local)
        except LeftOutError as failure:
            return self._without(local, like, target, failure)
        if local.forward != "differences" and target not in STRAIGHT_THROUGH:
            try:
                hold_against_differences(local, tried)
            except ContradictionError as failure:
                if target not in GAUGED:
                    raise
                self.doubtful = self.doubtful or f"{target}: {failure}"
            except LeftOutError as failure:
                return self._without(local, like, target, failure)
        return self._add(local, like)

    def _without(self, step: Step, like: Tensor, target: Any, failure: LeftOutError) -> int:
        """The slot of an operation whose derivative torch leaves out, until it is known whether it matters.

        Inside of a torch.autograd.Function, which may declare another, it is a failure.
        """
        if in_function():
            raise failure
        slot = self._add(step, like)
        self._left_out[slot] = f"{target}: {failure}"
        return slot

    # Writes in place

    def _overwriting(
        self, target: Any, args: Any, kwargs: Any, written: list[Tensor]
    ) -> tuple[int, str | None, bool] | None:
        """The slot of what is about to be written, and its maker where y reaches it in jumps alone."""
        plain, rest = _out_of_place(target, args, kwargs)
        reached, discrete = self._reach(plain or target, *rest)
        stored = self.stored(written[0])
        known = stored is not None and (stored.slot is not None or stored.discrete is not None)
        if not (reached or discrete or known):
            return None
        if len(written) > 1:
            raise SpectralError("it overwrites several tensors at once")
        if _meets_itself(target, args, kwargs, written[0]):
            raise SpectralError("it reads entries that it has overwritten by then, through another view")
        if target is aten.copy_.default and self._copies_bytes(*args[:2]):
            return None
        like = _like(written[0])
        if not (reached or discrete):
            return UNREACHED, None, False
        if not is_number(like) or jumps(plain, *rest):
            if jumps(plain, *rest):
                self._jump(target)
            mask = _counts(plain or target, rest, bool(reached), like, discrete)
            return UNREACHED, str(target) if reached or discrete else None, mask
        self._judge(plain or target, rest, [like], reached, discrete)
        if not reached:
            return UNREACHED, str(target) if discrete else None, False
        if plain is None:
            raise SpectralError("it overwrites its input, and has no plain form")
        if target is aten.copy_.default:
            (slot,) = reached.values()
            slot = self._cast(slot, like.dtype)
            source = rest[0][0]
            if source.shape != like.shape:
                slot = self._add(Sum((slot,), self.slots, (1.0,), (source.shape,), like.shape), like)
            return slot, None, False
        slot = self._slot(plain, *rest, like, [], None, reached)
        return self._cast(slot, like.dtype), None, False

    def _copies_bytes(self, t: Tensor, source: Tensor) -> bool:
        """Whether a storage is copied whole, as bytes or other integers: its derivative then goes along."""
        into, of = self.stored(t), self.stored(source)
        if into is None or of is None or is_number(t) or t.dtype != source.dtype:
            return False
        if of.slot is None or of.bits or not (is_whole(t) and is_whole(source)):
            return False
        into.base, into.slot, into.bits, into.discrete = of.base, of.slot, False, None
        into.views.clear()
        return True

    def _write(self, t: Tensor, slot: int, discrete: str | None, mask: bool) -> None:
        """Give the part of a storage that t shows another derivative."""
        stored = self.stored(t)
        assert stored is not None  # the trace knows what it has seen written
        mask = mask if discrete else stored.mask
        if not is_number(t) and (discrete or not is_whole(t)):
            stored.discrete, stored.mask = discrete or stored.discrete, mask
            stored.bits = discrete is not None or stored.bits or stored.slot is not None
            return
        stored.bits = stored.bits and not is_whole(t)
        if not is_number(t) or (slot == UNREACHED and stored.slot is None):
            stored.discrete, stored.mask = discrete or stored.discrete, mask
            stored.slot = None
            stored.views.clear()
            return
        geometry, whole = Geometry.of(t), stored.base or stored.first
        if geometry.conjugate or geometry.negative:
            raise SpectralError("it writes through a conjugate or negative view")
        if geometry != whole and not is_whole(t) and not _covers(geometry, whole):
            geometry, slot = self._put(stored, geometry, slot, t)
        stored.views.clear()
        stored.base, stored.slot = geometry, None if slot == UNREACHED else slot

    def _put(self, stored: Stored, geometry: Geometry, slot: int, t: Tensor) -> tuple[Geometry, int]:
        """The slot of the whole storage after a write through a view of it."""
        whole = stored.base or stored.first
        if geometry.dtype.is_complex != whole.dtype.is_complex:  # in pairs of real numbers
            if whole.dtype.is_complex:
                whole = self._as_real(stored, whole)
            else:
                geometry, slot = geometry.real(), self._real(slot, geometry)
        if geometry.dtype != whole.dtype and stored.slot is not None:
            raise self._of_bits(f"its bits are written as {geometry.dtype}")
        alike = geometry.dtype == whole.dtype
        index = _places(geometry, whole, t.device) if alike else torch.tensor(-1)
        if bool((index < 0).any()):
            span = t.untyped_storage().nbytes() // geometry.dtype.itemsize
            flat = Geometry(geometry.dtype, torch.Size((span,)), (1,), 0)
            if stored.slot is not None:
                stored.slot = self._shown(stored, flat, t.device)
            stored.base, whole = flat, flat
            index = _places(geometry, whole, t.device)
        if not _apart_in_memory(geometry) and len(index.unique()) < index.numel():
            raise SpectralError("it writes more than once to one entry")
        both = [i for i in (stored.slot, None if slot == UNREACHED else slot) if i is not None]
        which: Literal["both", "rest", "part"] = (
            "both" if len(both) == 2 else "part" if stored.slot is None else "rest"
        )
        step = Put(tuple(both), self.slots, index, whole.size, which)
        return whole, self._add(step, _like_of(whole, t.device))

    def _shown(self, stored: Stored, geometry: Geometry, device: torch.device) -> int:
        """The slot of a storage's content as a tensor of another geometry shows it."""
        base, slot = stored.base, stored.slot
        assert base is not None and slot is not None
        if geometry.conjugate or geometry.negative:
            plain = geometry.plain()
            slot = stored.views.get(plain, slot if plain == base else UNREACHED)
            if slot == UNREACHED:
                slot = stored.views[plain] = self._shown(stored, plain, device)
            like = _like_of(plain, device)
            if geometry.conjugate:
                slot = self._map(aten._conj_physical.default, slot, like, like)
            return self._map(aten.neg.default, slot, like, like) if geometry.negative else slot
        if geometry.dtype.is_complex and not base.dtype.is_complex:
            slot = self._shown(stored, geometry.real(), device)
            real, like = _like_of(geometry.real(), device), _like_of(geometry, device)
            return self._map(as_complex, slot, real, like)
        if base.dtype.is_complex and not geometry.dtype.is_complex:
            base = self._as_real(stored, base)
            assert stored.slot is not None
            slot = stored.slot
        if base.dtype != geometry.dtype:
            raise self._of_bits(f"its bits are read as {geometry.dtype}")
        if geometry == base:
            return slot
        index = _places(geometry, base, device)
        like = _like_of(geometry, device)
        return self._add(Take((slot,), self.slots, index, base.size), like)

    def _of_bits(self, reason: str) -> SpectralError:
        """What makes numbers of a part of others' bits, which has no derivative by any way."""
        self.bits = True
        self.integers.append(reason)
        return SpectralError(reason)

    def _as_real(self, stored: Stored, base: Geometry) -> Geometry:
        """Turn a storage of complex numbers into one of pairs."""
        if stored.slot is not None:
            stored.slot = self._real(stored.slot, base)
        stored.base = base.real()
        return stored.base

    def _real(self, slot: int, geometry: Geometry) -> int:
        if slot == UNREACHED:
            return slot
        device = torch.device("cpu")
        return self._map(
            as_pairs,
            slot,
            _like_of(geometry, device),
            _like_of(geometry.real(), device),
        )

    def _map(self, target: Any, slot: int, source: Tensor, like: Tensor) -> int:
        """The slot of a linear operation of one tensor."""
        function = Operation(target, ((Input(0),), {}))
        step = Linear((slot,), self.slots, function, (source.shape,), (source.dtype,))
        return self._add(step, like)

    # Steps

    def _add(self, step: Step, like: Tensor) -> int:
        self.steps.append(step)
        self._makers[step.output] = step
        self._count(step.output, like)
        self.slots = step.output + 1
        return step.output

    def _count(self, slot: int, like: Tensor) -> None:
        self.entries[slot], self.dtypes[slot] = like.numel(), like.dtype
        self._rounding = max(self._rounding, torch.finfo(like.dtype).eps)

    def _cast(self, slot: int, dtype: torch.dtype) -> int:
        source = self.dtypes[slot]
        if source == dtype or not (dtype.is_floating_point or dtype.is_complex):
            return slot
        like = torch.empty((), dtype=dtype).expand(self.entries[slot])
        return self._add(Cast((slot,), self.slots, source, dtype), like)

    def _resolve(self, stored: Stored) -> None:
        if stored.pending is not None:
            make, stored.pending = stored.pending, None
            try:
                stored.slot = make()
            except Exception as failure:
                self._fail(make.args[0], failure)
                raise

    def _hold(self, t: Tensor) -> Tensor:
        """t for a step to keep: its content as it is now."""
        if t.layout is not torch.strided:
            return t
        if t.is_inference():
            return t.clone()
        held, stored = t.detach(), self.stored(t)
        if stored is not None and stored.outside and stored.owner is None:
            return held.clone()  # it was written to, and will be put back
        if stored is not None:
            stored.held.append(held)
        return held

    def _fused(self, step: Step, seen: Seen) -> Step:
        """The step, or what it is as a part of attention, which needs none of the weights that it holds."""
        other: Step | None = None
        if isinstance(step, Softmax):
            other = fusion.scores(step, seen.primals[0], self._makers)
            if other is not None:
                self._let_go(step.value)
        if isinstance(step, Matmul):
            found = fusion.attention(step, self._makers)
            before = () if found is None else [self.dtypes[one.output] for one in found.stands_for[:-1]]
            if found is not None and self._trials.stand_for(found, before):
                other = found.step
                for t in (step.left, step.right):
                    self._let_go(t)
        return step if other is None else other

    def _let_go(self, t: Tensor) -> None:
        """Hold a tensor no longer."""
        stored = self.stored(t)
        if stored is not None:
            stored.held = [held for held in stored.held if held is not t]

    def _compare(self, program: Program, v: Tensor, Jv: Tensor) -> None:
        """Hold the rewritten program against its steps by torch's own operations, and J' u against J v.

        Raises:
            NotFiniteError: they hold NaN or infinity.
            SpectralError: they differ by more than rounding.
        """
        tolerance = min(1e3 * self.rounding, 0.1)
        u = half_along(self._trials.draw(self.output).unsqueeze(0), Jv)
        ours, Ju = program.apply(v), program.transpose(u)
        if not (torch.isfinite(Jv).all() and torch.isfinite(Ju).all()):
            raise NotFiniteError("the Jacobian at y holds NaN or infinity")
        apart, size = size_of(ours - Jv), size_of(Jv)
        if not apart <= tolerance * size:
            raise SpectralError(f"its program differs from its steps by {apart / size:.1e}")
        worst = contradiction(v, u, ours, Ju)
        if worst > tolerance:
            raise SpectralError(f"J v and J' u by its program contradict each other by {worst:.1e}")


def _counts(target: Any, arguments: Any, reached: bool, made: Tensor, discrete: list[Jump]) -> bool:
    """Whether what y reaches in jumps alone is a condition, a place or a count, and no rounded number."""
    rounds = jumps(target, *arguments) or (reached and target in (aten._to_copy.default, aten.alias.default))
    return made.dtype is torch.bool or (not rounds and all(jump.mask for jump in discrete))


def _by_torch(step: Step) -> Step:
    """The step by torch's own operation, where it is not that anyway."""
    if not isinstance(step, Convolution):
        return copy.copy(step)
    # Weights larger than the image are left as they are: to lay them out takes longer than the product.
    last = step.weight.numel() <= max(step.input_size.numel(), step.output_size.numel())
    arguments: tuple[Any, ...] = (
        in_channels_last(step.weight, last),
        None,
        step.stride,
        step.padding,
        step.dilation,
        step.transposed,
        step.output_padding,
        step.groups,
    )

    def forward(t: Tensor, weight: Tensor, *others: Any) -> Tensor:
        return in_channels_last(aten.convolution(in_channels_last(t, last), weight, *others))

    def back(g: Tensor, sizes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        weight, _, *geometry = arguments
        if (
            not step.transposed and max(step.stride) == 1
        ):  # the faster of two operations that torch has for it
            lost = [0] * len(step.stride)
            around = step.stride, step.padding, step.dilation
            return (forward(g, weight, None, *around, True, lost, step.groups),)
        like, mask = g.new_zeros(()).expand(sizes[0]), [True, False, False]
        return aten.convolution_backward(g, like, weight, None, *geometry, mask)[:1]

    function = Operation(forward, ((Input(0), *arguments), {}))
    dtypes = (step.weight.dtype,)
    return Linear(step.inputs, step.output, function, (step.input_size,), dtypes, True, back)


def _out_of_place(target: Any, args: Any, kwargs: Any) -> tuple[Any, tuple[Any, Any]]:
    """The operation that a write in place carries out, and its arguments; None where it has no plain form."""
    if target is aten.copy_.default:
        return aten.alias.default, ((args[1],), {})
    if target is aten.fill_.Tensor:
        return aten.expand.default, ((args[1], list(args[0].shape)), {})
    if target in _ERASING:
        return None, ((), {})
    if target.namespace != "aten":  # of a name that torch has too it may be another operation
        return None, (args, kwargs)
    schema = target._schema
    name = schema.name.split("::")[1]
    if "out" in kwargs:
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        names = [a.name for a in schema.arguments if a.name != "out"]
        packet = getattr(aten, name)
        for overload in packet.overloads():
            other = getattr(packet, overload)
            if not other._schema.is_mutable and [a.name for a in other._schema.arguments] == names:
                return other, (args, kwargs)
        return None, (args, kwargs)
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, schema.overload_name or "default", None), (args, kwargs)


# These draw nothing in evaluation, and in training calls at one y differ, which is told of.
_DRAWING_IN_TRAINING = {aten.rrelu_with_noise.default, aten.native_dropout.default}

# Of these nothing is left of what was there before, and what comes is constant.
_ERASING = {
    aten.zero_.default,
    aten.fill_.Scalar,
    aten.normal_.default,
    aten.uniform_.default,
    aten.bernoulli_.float,
    aten.exponential_.default,
    aten.random_.default,
}


def _covers(geometry: Geometry, whole: Geometry) -> bool:
    """Whether two geometries without gaps or overlaps show the same entries."""
    alike = geometry.dtype == whole.dtype and geometry.offset == whole.offset
    if not alike or geometry.size.numel() != whole.size.numel():
        return False
    return all(_dense(g) for g in (geometry, whole))


def _dense(geometry: Geometry) -> bool:
    expected = 1
    for stride, size in sorted(zip(geometry.stride, geometry.size, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _apart_in_memory(geometry: Geometry) -> bool:
    """Whether it is plain from its strides that no two entries lie in one place."""
    reach = 0
    for stride, size in sorted(zip(geometry.stride, geometry.size, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _meets_itself(target: Any, args: Any, kwargs: Any, written: Tensor) -> bool:
    """Whether what is read of a storage that is written to makes a difference to what is written.

    torch sees to overlaps that strides plainly tell, and no others: then the operation is carried out on
    copies, of one storage and of two.
    """
    storage = written.untyped_storage()
    others = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor) and t.layout is torch.strided]
    if sum(t.untyped_storage()._cdata == storage._cdata for t in others) < 2:
        return False
    results = []
    for copies in (1, 2):
        flat = [_bytes_of(written).clone() for _ in range(copies)]
        into = seen_at(flat[0], Geometry.of(written))
        taken = False

        def on_copies(t: Any, other: Tensor = flat[-1], into: Tensor = into) -> Any:
            nonlocal taken
            if t is written and not taken:
                taken = True
                return into
            shares = isinstance(t, Tensor) and any(t is one for one in others)
            shares = shares and t.untyped_storage()._cdata == storage._cdata
            return seen_at(other, Geometry.of(t)) if shares else t

        if "out" in kwargs:  # before the arguments, of which it may be one
            kwargs_on_copies, args_on_copies = mapped(on_copies, (kwargs, args))
        else:
            args_on_copies, kwargs_on_copies = mapped(on_copies, (args, kwargs))
        target(*args_on_copies, **kwargs_on_copies)
        results.append(flat[0])  # by its bytes: what is not written yet may be NaN
    return not torch.equal(*results)


def _bytes_of(t: Tensor) -> Tensor:
    """All of a storage."""
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage())


def _places(geometry: Geometry, base: Geometry, device: torch.device) -> Tensor:
    """Where each entry of a geometry lies in the flat form of another of its storage; -1 where in none."""
    wanted, given = geometry.positions(device), base.positions(device).flatten()
    last = max(int(wanted.max()) if wanted.numel() else 0, int(given.max()) if len(given) else 0)
    place = torch.full((last + 1,), -1, device=device)
    place[given] = torch.arange(len(given), device=device)
    return place[wanted]


def _like(t: Tensor) -> Tensor:
    """A tensor of t's shape and precision that holds nothing."""
    return torch.empty((), dtype=t.dtype, device=t.device).expand(t.shape)


def _like_of(geometry: Geometry, device: torch.device) -> Tensor:
    return torch.empty((), dtype=geometry.dtype, device=device).expand(geometry.size)
