"""The Jacobian of any PyTorch callable at one input, as a linear operator.

J v is a Jacobian-vector product, J' u a vector-Jacobian product.  Where the model can be followed operation
by operation, its derivative is a program of linear steps (`spectral.jacobians.program`); elsewhere torch
differentiates the whole (`spectral.jacobians.autograd`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from spectral.errors import (
    AmbiguousError,
    NotFiniteError,
    OptionError,
    ReachError,
    ShapeError,
    SpectralError,
)
from spectral.jacobians import autograd
from spectral.jacobians.chunks import Chunks, Product, free_bytes
from spectral.jacobians.cpu.denormals import flushed
from spectral.jacobians.faster import FasterBack
from spectral.jacobians.keywords import advised, keywords_of
from spectral.jacobians.model import Model, same_random_numbers
from spectral.jacobians.of_model import OfModel
from spectral.jacobians.precision import Precision, arithmetic, own, tf32
from spectral.jacobians.program import Program, Recorder, Repeat, Replayed
from spectral.jacobians.program.reach import Reach
from spectral.jacobians.program.recorder import contradiction, half_along, inner, size_of
from spectral.jacobians.weights import Weights
from spectral.operators.base import LinearOperator
from spectral.options import choice

# Differences of the model are the last word on a derivative; those that differ by more, relative, say none.
DIFFERENCES = 0.05
NEAR = 2e-4  # of y's size: how far off the model is run again, for its difference too
FAR = 0.03  # of y's size: how far off the record is played, for what is kept constant to show
# Up to so much memory of a graph, vectors that are returned are multiplied once by autograd.
GRAPH_BYTES = 1 << 30

log = logging.getLogger("spectral")

Method = Literal["auto", "frozen", "jvp", "double-backward", "differences"]
WAYS: tuple[Method, ...] = ("frozen", "jvp", "double-backward", "differences")
_INPUTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_PAIRS = {"jvp": autograd.forward, "double-backward": autograd.reverse, "differences": autograd.differences}


def jacobian(
    model: Callable[..., Any],
    y: Tensor,
    *,
    batched: bool = False,
    method: Method = "auto",
    precision: Precision | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Jacobian:
    """The Jacobian J = d model(y) / dy as a linear operator with products J v and J' u.

    By default all of y is one input and J is (r, d), d = y.numel().  With `batched` y[0], y[1], ... are
    independent inputs and the operator holds one Jacobian for each, `batch` = (len(y),).  Modules are put in
    eval mode for each call and put back after it, with a note where that changes what they compute; no
    parameter's requires_grad is touched.  J is of the
    weights as they are: once they change, its products raise SpectralError.

    Args:
        model: an nn.Module or any callable, y -> tensor.  Of an output wrapped in a dataclass, mapping or
            sequence the entry `sample`, or else the first tensor, is taken; `repr` says so.
        y: the input, floating point, of any shape.
        batched: whether the first axis of y counts independent inputs.
        method: how products are formed.  "frozen" records the network once as linear steps, and keeps gates
            and slopes alone.  The others keep a graph for J' u, and form J v by torch's forward mode ("jvp"),
            by two passes back ("double-backward"), or as central differences of the model, their error told
            in `eps` ("differences").  "auto" takes the first that is right, and says why where that is not
            "frozen": the record must give what the model gives at another input, its rules agree with
            torch's own derivatives, <u, J v> with <J' u, v>, and the other ways with differences.
        precision: of the arithmetic inside products, by default the model's own; see `at_precision`.
        model_kwargs: keywords for the model, {name: value}: noise level, label, ...

    Raises:
        OptionError: y is no dense floating-point tensor, model cannot be called, or model_kwargs is no
            mapping.
        ShapeError: y has no entries, or no batch axis where `batched`.
        ModelOutputError: the model returned no floating-point tensor.
        NotDeterministicError: two calls at y differ (noise inside the model, a state that it keeps).
        NotFiniteError: y, the output, or a trial product holds NaN or infinity.
        AmbiguousError: autograd's derivative is another than that of what is computed, and may be meant.
        SpectralError: no way is right: a value leaves torch, an operation has no derivative, the declared
            ones contradict each other; or with `batched` one input reaches another's output.

    Example:
        >>> J = spectral.jacobian(lambda y: y.square() / 2, torch.tensor([1.0, 2.0, 3.0]))  # diag(y)
        >>> J @ torch.ones(3), J.T @ torch.ones(3)
        (tensor([1., 2., 3.]), tensor([1., 2., 3.]))
        >>> J.count  # products so far
        2
    """
    choice("method", method, ("auto", *WAYS))
    if not callable(model):
        raise OptionError(f"a model is called on y, and a {type(model).__name__} cannot be")
    if not isinstance(y, Tensor) or y.dtype not in _INPUTS:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise OptionError(f"y must be a floating-point tensor, got {kind}: images are floats in [0, 1]")
    if y.layout is not torch.strided or y.device.type == "meta":
        what = "holds no numbers" if y.device.type == "meta" else f"has the layout {y.layout}"
        raise OptionError(f"y must be a dense tensor, and this one {what}")
    if y.numel() == 0 or (batched and y.ndim < 2):
        raise ShapeError(f"y has shape {tuple(y.shape)}: expected at least one entry and, batched, two axes")
    J = Jacobian(model, y.detach().clone(), batched, method, keywords_of(model_kwargs))
    return J if precision is None else J.at_precision(precision)


class WrongProductsError(SpectralError):
    """What was found with a Jacobian's products is contradicted by ways that share no fault with them."""

    def __init__(self, jacobian: Jacobian, reason: str) -> None:
        self.jacobian, self.reason = jacobian, reason
        super().__init__(f"products of {jacobian!r} are wrong: {reason}")


@dataclass
class _Trial:
    """Where a model and its record are tried, while J is made.

    Attributes:
        shift: the direction from y.
        near, away: inputs a short and a long step along it.
        generator: for further ones.
        value: the model at `near`, with a graph; None where there can be none.
        difference: of the model along the shift, from y to `near`; None in half precision.
        unplayed: the record, where `near` alone has proved it.
    """

    shift: Tensor
    near: Tensor
    away: Tensor
    generator: torch.Generator
    value: Tensor | None = None
    difference: Tensor | None = None
    unplayed: Recorder | None = None


class Jacobian(OfModel):
    """J at one input; made by `jacobian`.

    Attributes:
        input_shape: of one input, y.shape (y.shape[1:] where batched).
        output: model(y), the denoised image.
        method: "frozen", "jvp", "double-backward" or "differences", how products are formed.
        notes: what was decided on the way, for the repr.
        precision: of the arithmetic inside products; None for the model's own.
        eps: the relative rounding of a product, that of the coarsest number inside the model.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        y: Tensor,
        batched: bool,
        method: Method,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.notes: list[str] = []
        self._y = _outside_inference(y)
        self._model = Model(function, model_kwargs)
        self._name = self._model.name
        self._model.check_loaded()
        if not torch.isfinite(y).all():
            raise NotFiniteError("y holds NaN or infinity")
        with _aside(y.device):
            record = self._record()
            y = self._y
            if not torch.isfinite(self.output).all():
                raise NotFiniteError(f"{self._name} returned NaN or infinity at y")
            if self._model.switched:
                self._note(f"{self._name} was in training mode: J is that of its evaluation mode")
            batch = (y.shape[0],) if batched else ()
            if batched and (self.output.ndim < 1 or self.output.shape[0] != y.shape[0]):
                raise ShapeError(
                    f"batched: {len(y)} inputs gave an output of shape {tuple(self.output.shape)}"
                )
            if not batched and y.ndim == 4 and len(y) > 1 and self.output.shape[:1] == y.shape[:1]:
                self._note(f"the {len(y)} images of y are one problem: batched=True takes each by itself")
            self.input_shape = tuple(y.shape[len(batch) :])
            self.output_shape = tuple(self.output.shape[len(batch) :])
            shape = (math.prod(self.output_shape), math.prod(self.input_shape))
            super().__init__(shape, dtype=y.dtype, device=y.device, batch=batch)
            self.precision: Precision | None = None
            self._arithmetic = own(y.dtype, y.device)
            self._weights: Weights | None = None  # until J is made
            self._push: Product
            self._pull: Product
            self._recorded_pull: Product | None = None  # by the program alone
            self._program: Program | None = None
            self._jumps: list[str] = []
            self._declared = False  # whether J is a derivative that the model declares, and not its own
            self._hidden = False  # whether autograd's derivative is another, and settled not to be the one
            self._ways = WAYS if method == "auto" else (method,)
            self._trial: _Trial | None = None
            self.method = self._prepare(record, self._ways)
            self._trial = None  # images, and the record
            others = record.outside() if isinstance(record, Recorder) else []
            self._weights = Weights(self._model.function, others)
        if batched and len(y) > 1:
            self._check_independence()

    def __deepcopy__(self, memo: dict[int, Any]) -> Jacobian:
        """One that counts its own products: all else that J holds is constant, and shared."""
        twin = copy.copy(self)
        twin.notes = [*self.notes]
        return twin

    @property
    def name(self) -> str:
        """The model's."""
        return self._name

    def reach(self) -> Reach:
        """How far along an image's rows the recorded program looks.

        Raises:
            ReachError: over all rows, or nobody can tell.
        """
        if self._program is None:
            raise ReachError(
                f"products of {self!r} are not formed by a program, whose steps would tell how far they "
                "look: an image cannot be cut into strips for it"
            )
        return self._program.reach()

    @property
    def graph_bytes(self) -> int:
        """About what a graph of the model would hold."""
        return self._graph_bytes

    @property
    def product_bytes(self) -> int:
        """What a product of one vector holds at once, at most; 0 where there is no program."""
        return 0 if self._program is None else self._program.live_entries * self._arithmetic.dtype.itemsize

    @property
    def program_bytes(self) -> int:
        """What the recorded program holds, weights and all; 0 where there is none."""
        return 0 if self._program is None else self._program.bytes

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self._push, V, self._y.shape, self._entering(self._y))

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._through(self._pull, V, self.output.shape, self._entering(self.output))

    def _entering(self, side: Tensor) -> torch.dtype:
        """The precision in which vectors enter a product, on the side of the input or the output."""
        return side.dtype if self.precision is None else self._arithmetic.dtype

    def at_precision(self, precision: Precision) -> Jacobian:
        """J with the arithmetic inside its products in another precision, without recording it again.

        Rows come and go in at least float32.  "tf32" is float32 with the products of matrices and
        convolutions rounded as TensorFloat-32, on GPUs that have it; "float32" forbids that.  Products are
        counted here too.

        Raises:
            OptionError: no such precision.
            SpectralError: products are not formed by a program, whose constants could be rounded, or it
                holds an operation that does not exist in that precision.
        """
        here = arithmetic(precision, self.device)
        twin = copy.copy(self)
        twin.count, twin._whole, twin.precision, twin._arithmetic = 0, self, precision, here
        twin.eps = max(self.eps if here.dtype == self._arithmetic.dtype else 0, here.eps)
        twin.dtype = torch.promote_types(self.dtype, torch.promote_types(here.dtype, torch.float32))
        twin.notes = [*self.notes, here.note]
        if here.dtype != self._arithmetic.dtype:
            if self._program is None:
                raise SpectralError(
                    f"{self!r} has no program to form products in {precision}: convert model and y, or leave "
                    "precision out"
                )
            twin._adopt(self._program.to(here.dtype))
            try:
                twin._check_adjoint()
            except (RuntimeError, TypeError) as failure:
                raise SpectralError(f"{self!r} cannot form products in {precision}: {failure}") from failure
        return twin

    def _select(self, index: Tensor) -> LinearOperator:
        """By the program of some of the inputs, or else J anew at them, once its outputs are the same."""
        index = index.to(self.device)
        function, keywords = self._model.function, _of_some(self._model.keywords, len(self._y), index)
        program = None if self._program is None else self._program.select(index)
        if program is not None:
            part = copy.copy(self)
            part._model, part._y = Model(function, keywords), self._y[index]
            part.output, part.batch, part.count, part.notes = (
                self.output[index],
                (len(index),),
                0,
                [*self.notes],
            )
            part._adopt(program)
            return part
        try:
            part = Jacobian(function, self._y[index], True, self.method, keywords)
            torch.testing.assert_close(
                part.output, self.output[index], rtol=self._tolerance, atol=self._tolerance
            )
        except Exception as failure:
            # A model that takes no other number of inputs says so in exceptions of its own.
            self._note(f"selections go through all inputs ({type(failure).__name__})")
            return super()._select(index)
        return part if self.precision is None else part.at_precision(self.precision)

    def _through(self, product: Product, V: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """product of blocks (m, *shape), as one of rows (*batch, m, n)."""
        self.check_weights(thorough=False)
        rows = _outside_inference(V)
        rows = (rows.transpose(0, 1) if self.batch else rows).reshape(-1, *shape)
        on_host = flushed() if self.device.type == "cpu" else contextlib.nullcontext()
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            tf32(self.precision),
            on_host,
        ):
            result = product(rows.to(dtype)).to(self.dtype)
        result = result.reshape(len(rows), *self.batch, -1)
        if result.untyped_storage().data_ptr() == V.untyped_storage().data_ptr():
            result = result.clone()  # of a model that only moves pixels
        return result.transpose(0, 1).contiguous() if self.batch else result

    # How products come to be formed

    def _record(self) -> Recorder | SpectralError:
        """Call the model once, recorded; where that cannot be, plainly, and say why."""
        failure: Exception | None = None
        for precision in (None, self._model.precision()):
            if precision is not None:
                if failure is None or precision == self._y.dtype:
                    break
                self._y = self._y.to(precision)
            for recorded in (True, False):
                try:
                    with self._model.ready():
                        if recorded:
                            record = Recorder.of(self._model, self._y)
                            self.output = record.output
                        else:
                            self.output = self._model(self._y).detach()
                except Exception as reason:
                    failure = failure if isinstance(failure, SpectralError) else reason
                    continue
                if precision is not None:
                    self._note(f"y was taken to {precision}, the precision of {self._name}")
                if self._model.label is not None:
                    self._note(self._model.label)
                if not recorded:
                    return SpectralError(_first_line(failure))
                return SpectralError(record.failure) if record.opaque else record
        assert failure is not None
        told = advised(failure, self._model.function, self._name, self._y, self._model.keywords)
        if told is failure:
            raise failure
        raise told from failure

    def _prepare(self, record: Recorder | SpectralError, methods: tuple[Method, ...]) -> Method:
        """Set up the first way that is right.

        Raises:
            SpectralError: none is; it tells of each why.
        """
        leaves = self._examine(record)
        if leaves is not None:
            raise SpectralError(f"no derivative of {self._name} is to be had: {leaves}")
        return self._first_right(record, methods, [])

    def _first_right(
        self, record: Recorder | SpectralError, methods: tuple[Method, ...], reasons: list[str]
    ) -> Method:
        """Set up the first of some ways that is right; `reasons` say why none before them was."""
        for method in methods:
            try:
                if method == "frozen":
                    program, Jv = self._recorded(record)
                    self._adopt(program)
                    self._check_differences(Jv)
                else:
                    self._differentiate(method)
            except (NotFiniteError, AmbiguousError):
                raise
            except Exception as failure:
                # What torch cannot differentiate it reports in many exception types, all to the same effect.
                reasons.append(f"not {method} ({_first_line(failure)})")
                if isinstance(failure, torch.OutOfMemoryError):
                    break
            else:
                for reason in reasons:
                    self._note(reason)
                return method
        raise SpectralError(f"no derivative of {self._name} is to be had: {'; '.join(reasons)}")

    def _examine(self, record: Recorder | SpectralError) -> str | None:
        """Find out what the model does beside what was recorded; why no derivative is right, if none is.

        Raises:
            NotDeterministicError: another call at y gives something else.
        """
        self._functions: list[str] = []  # of the model's own, in autograd's graph
        self._coarsest = max(torch.finfo(self.output.dtype).eps, self._arithmetic.eps)
        generator = torch.Generator().manual_seed(2)
        size = autograd.rms(self._y)
        shift = 1 + torch.randn(self._y.shape, generator=generator, device="cpu").to(self._y)
        # Short, for few units to switch on the way; rounding in float32 is some 1e-3 of the difference.
        step, far = ((NEAR if self._fine else 0.02) * size, (FAR if self._fine else 0.05) * size)
        with self._model.ready():
            if isinstance(record, SpectralError):
                self._model.check_deterministic(self._y, self.output)
                return None
            self._coarsest = max(self._coarsest, record.rounding)
            self._jumps = record.jumps
            trial = _Trial(shift, self._y + step * shift, self._y + far * shift, generator)
            self._trial = trial
            trial.value, proved = self._repeated(record, trial.near)
            # Where differences tell nothing, another input does.
            trial.unplayed = record if proved and self._coarsest <= 1e-4 else None
            if trial.unplayed is None:
                lost = self._played(record, trial)
                if lost is not None:
                    return lost
            if self._fine:
                value = self._model(trial.near) if trial.value is None else trial.value
                trial.difference = (value - self.output) / step
        if record.contradicted is not None:
            return record.contradicted
        if record.integers and (record.bits or not (self._functions or record.detached)):
            return f"{record.integers[0]}: they have no derivative"
        return None

    def _repeated(self, record: Recorder, near: Tensor) -> tuple[Tensor | None, bool]:
        """The model at an input close to y, with a graph, and whether what it does there is the record.

        None where a graph cannot be: it works in ways that one does not allow, and needs none.
        """
        repeat = Repeat()
        try:
            output = repeat.run(self._model, near)
        except Exception:
            self._functions = []
            return None, False
        self._functions = autograd.declared_functions(output)
        plain = self._model.plain
        proved = not (plain.left or plain.looked) and repeat.is_that_of(record)
        return output.detach(), proved

    def _played(self, record: Recorder, trial: _Trial) -> str | None:
        """Hold the record against the model at inputs that are not near; what it has lost, if anything.

        Raises:
            NotDeterministicError: another call at y gives something else.
        """
        played = record.play(trial.away)
        within = (10 if self._fine else 0.3) * torch.finfo(played.dtype).eps
        apart = _apart(self._model(trial.away), played)
        if apart <= within and trial.value is not None:
            played = record.play(trial.near)
            if _apart(trial.value, played) > within:
                # With a graph some go another way than without, and what alternates comes back now.
                apart = _apart(self._model(trial.near), played)
        if apart <= within and self._reads_numbers(record):
            apart = self._furthest(record, trial.generator)
        if apart <= within:
            return None
        if not self._reads_numbers(record):
            counts = set(self._model.plain.left)
            if counts and counts <= {"item", "__int__"}:  # which jump within a step so long
                away = self._y + (trial.away - self._y) * (1e-6 / FAR)
                apart = _apart(self._model(away), record.play(away))
        self._model.check_deterministic(self._y, self.output)
        if apart <= within:
            return None
        record.failure = f"the record gives at another input something else, by {apart:.1e}, relative"
        left = self._model.plain.left
        if not left and self._model.plain.functions:
            return None
        how = f" ({', '.join(left)})" if left else ", or is kept from call to call,"
        return (
            f"a value made from y leaves torch{how} and comes back as a constant, so that its part of the "
            "derivative is lost: keep it a tensor, or write a torch.autograd.Function"
        )

    def _reads_numbers(self, record: Recorder) -> bool:
        """Whether numbers that depend on y were read out of torch, and may have come back as constants."""
        return record.taken or not {"numpy", "__array__", "tolist", "__dlpack__"}.isdisjoint(
            self._model.plain.left
        )

    def _furthest(self, record: Recorder, generator: torch.Generator) -> float:
        """How far the record is from the model, relative, at inputs that change what is read most.

        A deviation, a mean or a largest entry hardly changes along a direction at random.
        """
        y, size = self._y, autograd.rms(self._y)
        noise = torch.randn(y.shape, generator=generator, device="cpu").to(y)
        moved = [y + move for move in (0.01 * y, 0.01 * size * torch.ones_like(y), 0.03 * size * noise)]
        return max(_apart(self._model(x), record.play(x)) for x in moved)

    def _check_differences(self, Jv: Tensor) -> None:
        """Hold J v, v the shift, against differences of the model: rules and torch's own may be wrong alike.

        Raises:
            SpectralError: it is off, and differences by several steps agree with one another.
        """
        trial = self._trial
        assert trial is not None  # until J is made
        D, off = trial.difference, None
        if D is not None and self._differences_tell:
            scale = max(size_of(Jv), size_of(D), 1e-300)
            if size_of(Jv - D) <= self._finest * scale:
                return
            off = self._off_differences(trial.shift, Jv, scale)
        if off:
            raise SpectralError(f"J v is off by {off:.1e} |J v| from differences of the model")
        if off is None and trial.unplayed is not None:
            with self._model.ready():
                lost = self._played(trial.unplayed, trial)
            if lost is not None:
                raise SpectralError(lost)

    def _recorded(self, record: Recorder | SpectralError) -> tuple[Program, Tensor]:
        """The recorded program, unless the model declares another derivative; and J v, v the shift."""
        if isinstance(record, SpectralError):
            raise record
        if record.integers:
            raise SpectralError(record.integers[0])
        assert self._trial is not None  # until J is made
        program, Jv = record.program(self._trial.shift)
        self.eps = max(self._arithmetic.eps, record.rounding)
        self._graph_bytes = record.bytes
        if record.jumps or self._functions:
            program = self._settled(program, record)
        for name in dict.fromkeys(record.jumps):
            self._note(f"{name} is constant but for jumps: its derivative is 0")
        for name in dict.fromkeys(record.declared):
            self._declared = True
            self._jumps.append(name)
            self._note(f"{name} rounds: its derivative is the one that torch declares, straight through")
        return program.in_faster_layout(), Jv

    def _settled(self, program: Program, record: Recorder) -> Program:
        """The program of the derivative that is meant: autograd may have been told another.

        Of what jumps the true derivative is 0, and another is declared by x + (q(x) - x).detach() or by a
        function of the model's own.  A detached part anywhere else only hides a derivative that is there.
        Where q has a derivative too, nothing tells a rounding in steps made of x from a denoiser x - noise(x)
        whose noise is detached.

        Raises:
            SpectralError: autograd's is the one that is meant.
            AmbiguousError: autograd's is meant in one place, or hides some, or both.
        """
        u = self._random(self.shape[0], seed=1).reshape(self.output.shape).to(self.output.dtype)
        try:
            with self._model.ready():
                pull = autograd.backwards(self._model, self._y)
                declared = pull(u)
        except Exception:
            return program  # there is no other

        def agrees(with_program: Program) -> bool:
            ours = with_program.transpose(u.unsqueeze(0))[0]
            return size_of(ours - declared) <= self._tolerance * max(size_of(ours), size_of(declared))

        if agrees(program):
            return program
        by = ", ".join(self._functions) or "a detached part"
        if not record.jumps:
            self._hold_against_differences(program, pull, by)
            return program
        if self._ways == ("frozen",):
            self._hidden = True
            return program
        straight, loose = record.straight_through()
        if straight is not None and not loose and agrees(straight):
            self._declared = True
            self._note(f"straight through: J is the derivative that autograd declares for {record.jumps[0]}")
            return straight
        cut = record.detached or self._model.plain.cut
        if straight is None and record.jumps_inside and not cut:
            self._declared = True
            raise SpectralError(
                f"{record.jumps[0]} is constant but for jumps, and {by} declares a derivative"
            )
        if straight is not None or record.jumps_inside:
            raise AmbiguousError(
                f"the derivative of {self._name} is ambiguous: with {record.jumps[0]} in it autograd's is "
                "another than that of what is computed, as a straight-through estimator means it, or else as "
                'a part is detached or under no_grad: choose method="double-backward" (autograd) or "frozen" '
                "(computed)"
            )
        self._hidden = True
        self._note(f"autograd does not see all of the derivative ({by}): not used")
        return program

    def _hold_against_differences(self, program: Program, pull: autograd.Function, by: str) -> None:
        """Whether a smooth model's differences agree with the program, and not with what is declared.

        In low precision they tell nothing, and the derivative of what is computed stands.

        Raises:
            SpectralError: they agree with what is declared.
        """
        if self._grain > 1e-4:
            self._hidden = True
            self._note(
                f"autograd's derivative is another, by {by}, the precision too low to try it: not used"
            )
            return
        v = self._random(self.shape[1]).reshape(self._y.shape)
        with self._model.ready():
            D = autograd.difference(self._model, self._y, v)
            size, wide = size_of(D) ** 2, D.to(self.output.dtype)
            true = [abs(inner(J, v) - size) for J in (program.transpose(wide.unsqueeze(0))[0], pull(wide))]
        if true[0] > true[1]:
            raise SpectralError(f"differences of the model agree with the derivative that {by} declares")
        self._note(f"differences of the model contradict the derivative that {by} declares: not used")

    def _differentiate(self, method: Method) -> None:
        """Set up J v and J' u by torch, checked by each other and by differences of the model."""
        with self._model.ready():
            pair = _PAIRS[method](self._model, self._y)
        self._push, self._pull = self._one_by_one(pair.push), self._one_by_one(pair.pull)
        self._graph_bytes, self.eps = 0, self._coarsest
        v = self._random(self.shape[1]).reshape(self._y.shape)
        rough = self._coarsest > 1e-4
        if method == "differences":
            if rough or self._jumps:
                raise SpectralError("the model is too rough for differences")
            with self._model.ready():
                near, far = (autograd.difference(self._model, self._y, v, step) for step in (2e-3, 8e-3))
            error = size_of(near - far) / max(size_of(near), 1e-300)
            if not error <= DIFFERENCES:
                raise SpectralError(f"two differences of the model differ by {error:.1e}, relative")
            self.eps = max(self.eps, error / 10)
        self._check_adjoint()
        self._declared = self._declared or (bool(self._jumps) and len(self._ways) == 1)
        if self._jumps and self._declared:
            self._note(
                f"{self._jumps[0]} is constant but for jumps: J is the derivative that autograd declares"
            )
        elif not rough and method != "differences":
            with self._model.ready():
                Jv = pair.push(v)
            off = self._off_differences(v, Jv, size_of(Jv))
            if off or (off is None and not self._jumps):
                raise SpectralError(
                    "differences of the model are too rough to confirm J v"
                    if off is None
                    else f"J v is off by {off:.1e} |J v| from differences of the model"
                )

    def _one_by_one(self, product: autograd.Function) -> Product:
        """A product of blocks from one of single vectors."""

        def each(V: Tensor) -> Tensor:
            with same_random_numbers(V.device), self._model.ready():
                return torch.stack([product(v) for v in V])

        return each

    def check_weights(self, thorough: bool = True) -> None:
        """That the model's weights are those that J was made of.

        Writes through `.data`, which torch does not count, show only where it is `thorough`.

        Raises:
            SpectralError: they have changed.
        """
        changed = self._weights is not None and self._weights.changed(thorough)
        if thorough and not changed and self.method != "frozen":
            with _aside(self.device), self._model.ready():
                changed = _apart(self.output, self._model(self._y)) > 100 * self._coarsest
        if changed:
            raise SpectralError(
                f"the weights of {self._name} have changed, or what else it holds, since this Jacobian was "
                "made: make it anew"
            )

    def confirm(self, V: Tensor, U: Tensor, norm: float) -> None:
        """Multiply vectors that are to be returned once more by other ways than products are formed.

        A random combination of V's rows goes through differences of the model, one of U's through autograd,
        where its graph is not too large.  These products are not counted.

        Args:
            V: (*batch, k, n) rows; with none nothing is done.
            U: (*batch, k, r) rows.
            norm: |J|, or less where only a part of it was solved; errors are told of it.

        Raises:
            WrongProductsError: the products are wrong.
        """
        self.check_weights()
        if V.shape[-2] == 0 or self.precision is not None:
            return
        with _aside(self.device):
            u = self._combined(U, 4)
            Ju = self._through(
                self._recorded_pull or self._pull, u, self.output.shape, self._entering(self.output)
            )
            Ju = Ju.reshape(self._y.shape)
            v = self._combined(V, 3)
            Jv = self._apply(v).reshape(self.output.shape)
            # Of a small part of J, `norm` may be far below what its rounding is relative to.
            norm = max(norm, *(size_of(W) / (size_of(x) or 1.0) for W, x in ((Ju, u), (Jv, v))))
            v = v.reshape(self._y.shape)
            backwards = self._off_autograd(u.reshape(self.output.shape), Ju, v, Jv, norm)
            ahead = self._off_differences(v, Jv, norm)
        agrees = backwards is not None and backwards <= 10 * self._tolerance
        if ahead and not agrees:
            raise WrongProductsError(
                self, f"differences of the model along what was found differ by {ahead:.1e} |J|"
            )
        if backwards is not None and not agrees:
            if ahead is None:
                raise WrongProductsError(
                    self,
                    f"autograd's differ by {backwards:.1e} |J|, and differences of the model are too rough "
                    "to tell which are right",
                )
            self._note(
                f"autograd's J' u differs by {backwards:.0e} |J|: the model cuts its graph or declares "
                "another derivative; differences of the model agree with J"
            )

    def by_next_way(self, wrong: WrongProductsError) -> Jacobian:
        """J by the next way of forming products, where "auto" was asked for and there is one that is right.

        Raises:
            WrongProductsError: `wrong` itself, where there is none.
        """
        rest = self._ways[self._ways.index(self.method) + 1 :]
        if not rest or self.precision is not None:
            raise wrong
        other = copy.copy(self)
        other.notes, other.count, other._program, other._recorded_pull = [*self.notes], 0, None, None
        with _aside(self.device):
            other.method = other._first_right(wrong, rest, [f"not {self.method} ({wrong.reason})"])
        return other

    @property
    def _fine(self) -> bool:
        """Whether y is of single precision at least."""
        return torch.finfo(self._y.dtype).eps < 1e-4

    @property
    def _differences_tell(self) -> bool:
        """Whether J is the model's own derivative, and the model fine enough for differences to tell it."""
        return not self._declared and self._grain <= 1e-4

    @property
    def _grain(self) -> float:
        """The rounding of the model, relative."""
        return max(torch.finfo(self.output.dtype).eps, self.eps)

    @property
    def _finest(self) -> float:
        """What is not asked of differences: rounding and kinks of a deep network take as much in float32."""
        return 1e-5 if self._grain < 1e-12 else DIFFERENCES

    def _off_differences(self, v: Tensor, Jv: Tensor, scale: float) -> float | None:
        """How far J v is off, over `scale`, where differences of the model contradict it; 0 where not.

        None where they cannot tell: those by different steps h differ, as across jumps.  Units that switch
        within a step show in (f(y + h v) - 2 f(y) + f(y - h v)) / h, those that do at y itself for every h.
        """
        if not self._differences_tell:
            return None
        # Units and thresholds switch within a large step, rounding shows in a small one.
        steps = (2e-5, 2e-3, 2e-7) if self._grain < 1e-12 else (2e-4, 2e-3, 2e-2)
        scale = max(scale, 1e-300)  # of J = 0
        tried: list[tuple[float, Tensor, float]] = []
        length = float(v.abs().max())
        for step in steps:
            h = step * autograd.rms(self._y) / (length or 1.0)
            with self._model.ready():
                ahead, behind = self._model(self._y + h * v), self._model(self._y - h * v)
            D, bend = (ahead - behind) / (2 * h), size_of(ahead - 2 * self.output + behind) / h / scale
            off = size_of(Jv - D) / scale
            if off <= self._finest:
                return 0.0
            tried.append((step, D, bend))
        apart, i, j = min(
            (size_of(tried[i][1] - tried[j][1]) / scale, i, j) for i in range(3) for j in range(i + 1, 3)
        )
        if not apart <= DIFFERENCES:
            return None
        _, D, bend = min(tried[i], tried[j], key=lambda one: one[0])
        off = size_of(Jv - D) / scale
        return off if off > max(5 * apart, bend, self._finest) else 0.0

    def _off_autograd(self, u: Tensor, Ju: Tensor, v: Tensor, Jv: Tensor, norm: float) -> float | None:
        """How far J' u is from autograd's, and |J v|^2 from <J' J v, v> by that, over |J|.

        None where there is no such other way, or no room.
        """
        if self.method != "frozen" or self._hidden:
            return None
        if self._too_large:
            return None
        try:
            with self._model.ready():
                pull = autograd.backwards(self._model, self._y)
                declared, ahead = pull(u.to(self.output.dtype)), pull(Jv.to(self.output.dtype))
        except Exception:  # torch cannot, which is why there is a program
            return None
        apart = abs(inner(Jv, Jv) - inner(ahead, v)) / max(size_of(Jv) * size_of(v), 1e-300)
        return max(size_of(Ju - declared), apart) / max(norm, size_of(Ju), 1e-300)

    @property
    def _too_large(self) -> bool:
        """Whether a graph of the model takes more memory than it may."""
        return self._graph_bytes > min(GRAPH_BYTES, free_bytes(self.device) // 4)

    def _combined(self, rows: Tensor, seed: int) -> Tensor:
        """A random combination of rows (*batch, k, n), a vector of unit norm a problem."""
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(rows.shape[-2], generator=generator, device="cpu").to(rows.device, rows.dtype)
        vector = (weights.unsqueeze(-1) * rows).sum(-2)
        norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        return (vector / norm.clamp(min=torch.finfo(norm.dtype).tiny)).to(self.dtype).unsqueeze(-2)

    def _adopt(self, program: Program) -> None:
        """Form products by a program, in blocks; on a GPU by graphs, where those are faster."""
        chunks = Chunks(program.live_entries * self._arithmetic.dtype.itemsize)
        self._program = program
        products: list[Product] = [program.apply, program.transpose]
        if self.device.type == "cuda":
            products = [Replayed(product, chunks.vector_bytes, self._note) for product in products]
        self._push, pull = (functools.partial(chunks, product) for product in products)
        self._pull = self._recorded_pull = pull
        if self.device.type == "cpu" and self.precision is None and program.leaves_room_to_gain:
            self._pull = FasterBack(pull, self._kept_graph, self._tolerance, self._note)

    def _kept_graph(self) -> Product:
        """J' u by a graph of the model, where it is the same derivative and there is room for it."""
        if self._hidden or self._declared or self._too_large:
            raise SpectralError("no graph is kept")
        with _aside(self.device), self._model.ready():
            return self._one_by_one(autograd.backwards(self._model, self._y))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.info("%s: %s", self._name, text)

    def _check_adjoint(self) -> None:
        """<u, J v> = <J' u, v> to the rounding of the model's own precision; u by `half_along`."""
        v, u = self._random(self.shape[1]), self._random(self.shape[0], seed=1)
        Jv = self._apply(v)
        if not torch.isfinite(Jv).all():
            raise NotFiniteError(f"the Jacobian of {self._name} at y holds NaN or infinity")
        u = half_along(u, Jv)
        Ju = self._apply_transpose(u)
        if not torch.isfinite(Ju).all():
            raise NotFiniteError(f"the Jacobian of {self._name} at y holds NaN or infinity")
        worst = contradiction(v, u, Jv, Ju)
        if worst > self._tolerance:
            raise SpectralError(
                f"J v and J' u of {self._name} contradict each other by {worst:.1e} (relative): one of its "
                "operations has a wrong derivative (a custom autograd function?), or is not differentiable"
            )

    def _check_independence(self) -> None:
        """No input reaches another's output: two that differ are on different sides in one of log2 B cuts."""
        n = len(self._y)
        numbers, v = torch.arange(n), self._random(self.shape[1])
        for bit in range((n - 1).bit_length()):
            for side in (0, 1):
                inside = ((numbers >> bit) & 1 == side).to(self.device)
                shown = torch.where(inside.view(-1, 1, 1), v, 0)
                if self._apply(shown)[~inside].any():
                    raise SpectralError(
                        f"batched: the output of {self._name} for one input depends on the others: "
                        "pass the inputs one by one, or batched=False for their joint Jacobian"
                    )

    @property
    def _tolerance(self) -> float:
        """Relative disagreement that rounding may explain."""
        return min(1e3 * self.eps, 0.1)

    def _random(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(*self.batch, 1, n, generator=generator, device="cpu")
        return drawn.to(self.device, self.dtype)

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        batch = f", batch={self.batch[0]}" if self.batch else ""
        size = f"{self.shape[0]}x{self.shape[1]}"
        return f"Jacobian({size} of {self._name}, {self.dtype}, {self.device}{batch}, {self.method}{notes})"


@contextlib.contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Outside of inference mode, no random number used up; torch warns of graphs that it builds itself."""
    with torch.inference_mode(False), same_random_numbers(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _apart(value: Tensor, played: Tensor) -> float:
    """How far what was played is from the model's value, relative."""
    return size_of((value - played).nan_to_num()) / max(size_of(value.nan_to_num()), 1e-300)


def _of_some(keywords: dict[str, Any], n: int, index: Tensor) -> dict[str, Any]:
    """Keywords of which those with an entry an input keep the entries of some."""
    return {
        name: value[index.to(value.device)]
        if isinstance(value, Tensor) and value.ndim and len(value) == n
        else value
        for name, value in keywords.items()
    }


def _outside_inference(x: Tensor) -> Tensor:
    """x, or a clone of an inference-mode tensor, which could not enter a graph."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def _first_line(failure: Exception | None) -> str:
    text = str(failure).strip().split("\n")[0][:200]
    return text or type(failure).__name__
