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
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import float32_as, on_host, tell
from spectral.errors import (
    NotFiniteError,
    OptionError,
    ReachError,
    ShapeError,
    SpectralError,
)
from spectral.jacobians.cpu import openmp
from spectral.jacobians.cpu.denormals import flushed
from spectral.jacobians.draws import CALLS
from spectral.jacobians.evidence import Evidence, aside, distance
from spectral.jacobians.faster import FasterBack
from spectral.jacobians.keywords import keywords_of
from spectral.jacobians.model import Model
from spectral.jacobians.of_model import OfModel
from spectral.jacobians.precision import Arithmetic, Precision, arithmetic, float32_of
from spectral.jacobians.program import Chunks, Program, Recorder, Replayed
from spectral.jacobians.program.program import Product
from spectral.jacobians.program.reach import Reach
from spectral.jacobians.program.trials import contradiction, half_along, size_of
from spectral.jacobians.ways import WAYS, Method, called, first_right, kept_graph
from spectral.jacobians.weights import Held, Weights
from spectral.operators.base import LinearOperator
from spectral.options import choice

log = logging.getLogger("spectral")

_INPUTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


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
        OptionError: y is no dense floating-point tensor, or on another device than the model; model cannot be
            called, or model_kwargs is no mapping.
        ShapeError: y or the output has no entries, or y no batch axis where `batched`.
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
    check_asked(model, y, batched)
    J = Jacobian(model, y.detach().clone(), batched, method, keywords_of(model_kwargs))
    return J if precision is None else J.at_precision(precision)


def check_asked(model: Any, y: Any, batched: bool = False, name: str = "y") -> None:
    """That a model can be called, on an input, of this name, that has a Jacobian.

    Raises:
        OptionError, ShapeError: see `jacobian`.
    """
    if not callable(model):
        raise OptionError(f"a model is called on y, and a {type(model).__name__} cannot be")
    if not isinstance(y, Tensor) or y.dtype not in _INPUTS:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise OptionError(f"{name} must be a floating-point tensor, got {kind}: images are floats in [0, 1]")
    if y.layout is not torch.strided or y.device.type == "meta":
        what = "holds no numbers" if y.device.type == "meta" else f"has the layout {y.layout}"
        raise OptionError(f"{name} must be a dense tensor, and this one {what}")
    if y.numel() == 0 or (batched and y.ndim < 2):
        raise ShapeError(
            f"{name} has shape {tuple(y.shape)}: expected at least one entry and, batched, two axes"
        )


class WrongProductsError(SpectralError):
    """What was found with a Jacobian's products is contradicted by ways that share no fault with them."""

    def __init__(self, jacobian: Jacobian, reason: str) -> None:
        self.jacobian, self.reason = jacobian, reason
        super().__init__(f"products of {jacobian!r} are wrong: {reason}")


class Jacobian(OfModel):
    """J at one input; made by `jacobian`.

    Attributes:
        input_shape: of one input, y.shape (y.shape[1:] where batched).
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
        self._model = Model(function, model_kwargs)
        self._model.check_loaded()
        if not torch.isfinite(y).all():
            raise NotFiniteError("y holds NaN or infinity")
        with aside(y.device):
            record, y, output = called(self._model, _outside_inference(y), self._note)
            if not torch.isfinite(output).all():
                raise NotFiniteError(f"{self.name} returned NaN or infinity at y")
            if output.numel() == 0:
                raise ShapeError(
                    f"{self.name} returned no entries: its output has shape {tuple(output.shape)}"
                )
            if self._model.switched:
                self._note(self._model.in_evaluation("J is"))
            batch = (y.shape[0],) if batched else ()
            if batched and (output.ndim < 1 or output.shape[0] != y.shape[0]):
                raise ShapeError(f"batched: {len(y)} inputs gave an output of shape {tuple(output.shape)}")
            if not batched and y.ndim == 4 and len(y) > 1 and output.shape[:1] == y.shape[:1]:
                self._note(f"the {len(y)} images of y are one problem: batched=True takes each by itself")
            self.input_shape = tuple(y.shape[len(batch) :])
            self.output_shape = tuple(output.shape[len(batch) :])
            shape = (math.prod(self.output_shape), math.prod(self.input_shape))
            super().__init__(shape, dtype=y.dtype, device=y.device, batch=batch)
            self.precision: Precision | None = None
            self._arithmetic = Arithmetic(y.dtype, torch.finfo(y.dtype).eps)
            self._weights: Weights | None = None  # until J is made
            self._push: Product
            self._pull: Product
            self._recorded_pull: Product | None = None  # by the program alone
            self._program: Program | None = None
            self._evidence = Evidence(self._model, y, output, self._arithmetic.eps)
            lost = self._evidence.examine(record)
            if self._evidence.draws:
                self._note(
                    f"{self.name} draws random numbers that no seed fixes: {CALLS} calls at y were alike, "
                    "and J is right as long as all are"
                )
            if lost is not None:
                raise SpectralError(f"no derivative of {self.name} is to be had: {lost}")
            self._ways = WAYS if method == "auto" else (method,)
            self.method = first_right(self, record, self._ways, [])
            self._evidence.trial = None  # images, and the record
            others, sums = (record.outside(), record.sums()) if isinstance(record, Recorder) else ([], {})
            self._weights = Weights(self._model.function, others, sums)
            self._held = Held(self._weights.modules, self._model.owner)
            self._made_of = self._evidence  # a selection has that of its own inputs
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
        return self._model.name

    @property
    def output(self) -> Tensor:
        """model(y), the denoised image."""
        return self._evidence.output

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
        return self._evidence.graph_bytes

    @property
    def product_bytes(self) -> int:
        """What a product of one vector holds at once, at most; 0 where there is no program."""
        return 0 if self._program is None else self._program.live_entries * self._arithmetic.dtype.itemsize

    @property
    def program_bytes(self) -> int:
        """What the recorded program holds, weights and all; 0 where there is none."""
        return 0 if self._program is None else self._program.bytes

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self._push, V, self._evidence.y.shape, self._entering(self._evidence.y))

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
        function, y = self._model.function, self._evidence.y
        keywords = _of_some(self._model.keywords, len(y), index)
        program = None if self._program is None else self._program.select(index)
        if program is not None:
            part = copy.copy(self)
            part._model = Model(function, keywords)
            part._evidence = self._evidence.of(part._model, index)
            part.batch, part.count, part.notes = (len(index),), 0, [*self.notes]
            part._adopt(program)
            return part
        try:
            # As it was asked for: "frozen" alone is another derivative than one that is declared.
            asked: Method = "auto" if self._ways == WAYS else self.method
            part = Jacobian(function, y[index], True, asked, keywords)
            if (part.method, part._evidence.declared) != (self.method, self._evidence.declared):
                raise SpectralError(f"some inputs alone go by {part.method}")
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
        by_host = flushed() if self.device.type == "cpu" else contextlib.nullcontext()
        with (
            on_host(),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            float32_as(float32_of(self.precision)),
            by_host,
        ):
            result = product(rows.to(dtype)).to(self.dtype)
        result = result.reshape(len(rows), *self.batch, -1)
        if result.untyped_storage().data_ptr() == V.untyped_storage().data_ptr():
            result = result.clone()  # of a model that only moves pixels
        return result.transpose(0, 1).contiguous() if self.batch else result

    def check_weights(self, thorough: bool = True) -> None:
        """That the model's weights are those that J was made of.

        Writes through `.data`, which torch does not count, show only where it is `thorough`, and so does
        what else the model holds or looks at, in its output.

        Raises:
            SpectralError: they have changed.
            NotDeterministicError: the model is another from call to call.
        """
        changed = self._weights is not None and self._weights.changed(thorough)
        self._raise_if(changed or (thorough and self._weights is not None and self._is_another()))

    def _is_another(self) -> bool:
        """Whether the model's output at y is another than it was.

        Raises:
            NotDeterministicError: it is another from call to call.
        """
        at = self._made_of
        within = (100 if at.coarsest <= 1e-4 else 10) * at.coarsest  # in half precision 100 are most of it
        with aside(self.device):
            with at.model.ready():
                now = at.model(at.y)
            alike = now.shape == at.output.shape and not distance(at.output, now) > within
            if not alike:
                with at.model.ready():
                    at.model.check_deterministic(at.y, now)
        return not alike

    def _raise_if(self, changed: bool) -> None:
        if changed:
            raise SpectralError(
                f"the weights of {self.name} have changed, or what else it holds, since this Jacobian was "
                "made: make it anew"
            )

    def check_current(self) -> None:
        """That the weights, to the last of them, are those that J was made of; see `check_weights`.

        The model is called where anything else that it holds by name is another.  In a forked process see
        `openmp.check_fork`.
        """
        openmp.check_fork()
        if self._weights is None:
            return
        self._raise_if(self._weights.changed(True))
        if self._held.changed(self._weights.modules):
            self._raise_if(self._is_another())
            self._held = Held(self._weights.modules, self._model.owner)

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
        with aside(self.device):
            u = self._combined(U, 4)
            Ju = self._through(
                self._recorded_pull or self._pull, u, self.output.shape, self._entering(self.output)
            )
            Ju = Ju.reshape(self._evidence.y.shape)
            v = self._combined(V, 3)
            Jv = self._apply(v).reshape(self.output.shape)
            # Of a small part of J, `norm` may be far below what its rounding is relative to.
            norm = max(norm, *(size_of(W) / (size_of(x) or 1.0) for W, x in ((Ju, u), (Jv, v))))
            v = v.reshape(self._evidence.y.shape)
            backwards = None
            if self.method in ("frozen", "differences"):
                backwards = self._evidence.off_autograd(u.reshape(self.output.shape), Ju, v, Jv, norm)
            ahead = self._evidence.off_differences(v, Jv, norm)
            if ahead is None and self._evidence.differences_tell:  # by jumps, or as no two calls are alike
                with self._model.ready():
                    self._model.check_deterministic(self._evidence.y, self.output)
        by_differences = self.method == "differences"  # which the model's own can hardly contradict
        within = 30 * self.eps if by_differences else 10 * self._tolerance
        agrees = backwards is not None and backwards <= within
        if ahead and not agrees:
            raise WrongProductsError(
                self, f"differences of the model along what was found differ by {ahead:.1e} |J|"
            )
        if backwards is not None and not agrees:
            if ahead is None or by_differences:
                raise WrongProductsError(
                    self,
                    f"autograd's differ by {backwards:.1e} |J|, and differences of the model are too rough "
                    "to tell which are right",
                )
            self._note(
                f"autograd's J' u differs by {backwards:.0e} |J|: the model cuts its graph or declares "
                "another derivative; differences of the model agree with J"
            )
        if self._evidence.no_graph and ahead is not None:
            self._note(
                "autograd sees no way from the output to y, all of it detached or without gradients: J is "
                "the derivative of what is computed, and differences of the model agree"
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
        other._evidence = copy.copy(self._evidence)
        with aside(self.device):
            other.method = first_right(other, wrong, rest, [f"not {self.method} ({wrong.reason})"])
        return other

    def _combined(self, rows: Tensor, seed: int) -> Tensor:
        """A random combination of rows (*batch, k, n), a vector of unit norm per problem."""
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(rows.shape[-2], generator=generator, device="cpu").to(rows.device, rows.dtype)
        vector = (weights.unsqueeze(-1) * rows).sum(-2)
        norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        return (vector / norm.clamp(min=torch.finfo(norm.dtype).tiny)).to(self.dtype).unsqueeze(-2)

    def _adopt(self, program: Program) -> None:
        """Form products by a program, in blocks; on a GPU by graphs, where those are faster.

        Nothing that they hold holds J: Python looks late for memory in circles, and copies outlive J.
        """
        chunks = Chunks(program.live_entries * self._arithmetic.dtype.itemsize)
        self._program = program
        products: list[Product] = [program.apply, program.transpose]
        if self.device.type == "cuda":
            note = functools.partial(_noted, self.notes, self.name)
            products = [Replayed(product, chunks.vector_bytes, note) for product in products]
        self._push, pull = (functools.partial(chunks, product) for product in products)
        self._pull = self._recorded_pull = pull
        if self.device.type == "cpu" and self.precision is None and program.leaves_room_to_gain:
            self._pull = FasterBack(pull, functools.partial(kept_graph, self._evidence), self._tolerance)

    def _note(self, text: str) -> None:
        _noted(self.notes, self.name, text)

    def _check_adjoint(self, tolerance: float | None = None, seed: int = 0) -> None:
        """<u, J v> = <J' u, v> to the rounding of the model's own precision; u by `half_along`."""
        tolerance = self._tolerance if tolerance is None else tolerance
        v, u = self._random(self.shape[1], seed), self._random(self.shape[0], seed + 1)
        Jv = self._apply(v)
        if not torch.isfinite(Jv).all():
            raise NotFiniteError(f"the Jacobian of {self.name} at y holds NaN or infinity")
        u = half_along(u, Jv)
        Ju = self._apply_transpose(u)
        if not torch.isfinite(Ju).all():
            raise NotFiniteError(f"the Jacobian of {self.name} at y holds NaN or infinity")
        worst = contradiction(v, u, Jv, Ju)
        if worst > tolerance:
            raise SpectralError(
                f"J v and J' u of {self.name} contradict each other by {worst:.1e} (relative): one of its "
                "operations has a wrong derivative (a custom autograd function?), or is not differentiable"
            )

    def _check_independence(self) -> None:
        """No input reaches another's output: two that differ are on different sides in one of log2 B cuts."""
        n = len(self._evidence.y)
        numbers, v = torch.arange(n), self._random(self.shape[1])
        for bit in range((n - 1).bit_length()):
            for side in (0, 1):
                inside = ((numbers >> bit) & 1 == side).to(self.device)
                shown = torch.where(inside.view(-1, 1, 1), v, 0)
                if self._apply(shown)[~inside].any():
                    raise SpectralError(
                        f"batched: the output of {self.name} for one input depends on the others: "
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
        remark = getattr(self._pull, "remark", "")
        notes = "".join(f"; {note}" for note in [*self.notes, *([remark] if remark else [])])
        batch = f", batch={self.batch[0]}" if self.batch else ""
        size = f"{self.shape[0]}x{self.shape[1]}"
        return f"Jacobian({size} of {self.name}, {self.dtype}, {self.device}{batch}, {self.method}{notes})"


def _noted(notes: list[str], name: str, text: str) -> None:
    """Add a note of what was decided, once, and tell of it."""
    if text not in notes:
        notes.append(text)
        tell(text)
        log.info("%s: %s", name, text)


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
