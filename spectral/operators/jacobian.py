"""The Jacobian of any PyTorch callable at one input, as a linear operator.

J v is a Jacobian-vector product, J' u a vector-Jacobian product.  There are three ways to form them: replay
the network's derivative as a program of linear steps (`spectral.operators.frozen`); replay the forward mode
as torch.func.linearize records it; or differentiate forwards afresh with torch.func.jvp.  The last two keep
the graph of the reverse mode for J' u.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectral.errors import (
    ModelOutputError,
    NotDeterministicError,
    NotFiniteError,
    OptionError,
    ShapeError,
    SpectralError,
)
from spectral.kernels.denormals import flushed
from spectral.operators.base import LinearOperator
from spectral.operators.chunks import Chunks, Product
from spectral.operators.frozen import Program, Replayed, record
from spectral.operators.keywords import keywords_of
from spectral.operators.precision import Precision, arithmetic, own, tf32

# The program at a larger input (entries) is checked by differences of the model, with a step of STEP |y|:
# torch.func.jvp holds twice what a forward pass does, which is more than the program itself ever needs.
EXACTLY_CHECKED = 1 << 16
STEP, DIFFERENCE_TOLERANCE = 1e-4, 0.05

log = logging.getLogger("spectral")

Method = Literal["auto", "frozen", "linearize", "jvp"]
WAYS: tuple[Method, ...] = ("frozen", "linearize", "jvp")


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
    eval mode for each call and put back after it; no parameter's requires_grad is touched.

    Args:
        model: an nn.Module or any callable, y -> tensor.  Of an output wrapped in a dataclass, mapping or
            sequence the entry `sample`, or else the first tensor, is taken; `repr` says so.
        y: the input, floating point, of any shape.
        batched: whether the first axis of y counts independent inputs.
        method: how products are formed.  "frozen" records the network once as linear steps, and keeps gates
            and slopes alone; "linearize" replays torch's record of the forward mode, and keeps more; "jvp"
            differentiates at each product, about three forward passes, and keeps nothing for J v.  "auto"
            takes the first that can follow the model, and says why where that is not "frozen".  Each is
            checked on one random vector: "frozen" against torch.func, all by <u, J v> = <J' u, v>.
        precision: of the arithmetic inside products, by default the model's own; see `at_precision`.
        model_kwargs: keywords for the model, {name: value}: noise level, label, ...

    Raises:
        OptionError: y is no floating-point tensor, or model_kwargs no mapping.
        ShapeError: y has no entries, or no batch axis where `batched`.
        ModelOutputError: the model returned no floating-point tensor.
        NotDeterministicError: two calls at y differ (dropout, sampling, noise inside the model).
        NotFiniteError: y, the output, or a trial product holds NaN or infinity.
        SpectralError: J v and J' u contradict each other, or with `batched` one input reaches another's
            output.
    """
    if method not in ("auto", *WAYS):
        raise OptionError(f"method is one of auto, {', '.join(WAYS)}; got {method!r}")
    if not isinstance(y, Tensor) or not y.is_floating_point():
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise OptionError(f"y must be a floating-point tensor, got {kind}: images are floats in [0, 1]")
    if y.numel() == 0 or (batched and y.ndim < 2):
        raise ShapeError(f"y has shape {tuple(y.shape)}: expected at least one entry and, batched, two axes")
    J = Jacobian(model, y.detach(), batched, method, keywords_of(model_kwargs))
    return J if precision is None else J.at_precision(precision)


class Jacobian(LinearOperator):
    """J at one input; made by `jacobian`.

    Attributes:
        input_shape: of one input, y.shape (y.shape[1:] where batched).
        output: model(y), the denoised image.
        method: "frozen", "linearize" or "jvp", how products are formed.
        notes: what was decided on the way, for the repr.
        precision: of the arithmetic inside products; None for the model's own.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        y: Tensor,
        batched: bool,
        method: Method,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.notes: list[str] = []
        self._modules = _modules_in(model)
        self._arithmetic = own(y.dtype, y.device)
        y = _outside_inference(y)
        self._stand_at(model, model_kwargs, y)
        self._name = type(model).__name__ if isinstance(model, nn.Module) else _name_of(model)
        if not torch.isfinite(y).all():
            raise NotFiniteError("y holds NaN or infinity")

        with self._evaluating():
            self.output = self._model(y)
            self._check_output()
        batch = (y.shape[0],) if batched else ()
        if batched and (self.output.ndim < 1 or self.output.shape[0] != y.shape[0]):
            raise ShapeError(f"batched: {len(y)} inputs gave an output of shape {tuple(self.output.shape)}")
        self.input_shape = tuple(y.shape[len(batch) :])
        self.output_shape = tuple(self.output.shape[len(batch) :])
        shape = (math.prod(self.output_shape), math.prod(self.input_shape))
        super().__init__(shape, dtype=y.dtype, device=y.device, batch=batch)

        self.precision: Precision | None = None
        self._push: Product
        self._pull: Product
        self._program: Program | None = None
        self.method = self._prepare(WAYS if method == "auto" else (method,))
        if batched and len(y) > 1:
            self._check_independence()
        self._check_adjoint()

    def symmetric_part(self) -> LinearOperator:
        """(J + J') / 2, for a model whose output has the shape of its input.

        Raises:
            ShapeError: the shapes differ.
        """
        if self.input_shape != self.output_shape:
            raise ShapeError(
                f"{self._name} maps {self.input_shape} to {self.output_shape}; a symmetric part needs equal "
                "shapes: select the image from the output, or ask for singular triplets"
            )
        return super().symmetric_part()

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self._push, V, self._y.shape)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._through(self._pull, V, self.output.shape)

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
        twin.dtype = torch.promote_types(self.dtype, torch.promote_types(here.dtype, torch.float32))
        twin.notes = [*self.notes, here.note]
        if (here.dtype, here.short) != (self._arithmetic.dtype, self._arithmetic.short):
            if self._program is None:
                raise SpectralError(
                    f"{self!r} has no program to form products in {precision}: convert model and y, or leave "
                    "precision out"
                )
            program = self._program.to(here.dtype)
            twin._adopt(program.short() if here.short else program)
            try:
                twin._check_adjoint()
            except (RuntimeError, TypeError) as failure:
                raise SpectralError(f"{self!r} cannot form products in {precision}: {failure}") from failure
        return twin

    def _select(self, index: Tensor) -> LinearOperator:
        """By the program of some of the inputs, or else J anew at them, once its outputs are the same."""
        model, keywords = self._given
        index = index.to(self.device)
        keywords = _of_some(keywords, len(self._y), index)
        program = None if self._program is None else self._program.select(index)
        if program is not None:
            part = copy.copy(self)
            part._stand_at(model, keywords, self._y[index])
            part.output, part.batch, part.count, part.notes = (
                self.output[index],
                (len(index),),
                0,
                [*self.notes],
            )
            part._adopt(program)
            return part
        try:
            part = Jacobian(model, self._y[index], True, self.method, keywords)
            torch.testing.assert_close(
                part.output, self.output[index], rtol=self._tolerance, atol=self._tolerance
            )
        except Exception as failure:
            # A model that takes no other number of inputs says so in exceptions of its own.
            self._note(f"selections go through all inputs ({type(failure).__name__})")
            return super()._select(index)
        return part if self.precision is None else part.at_precision(self.precision)

    def _stand_at(self, model: Callable[..., Any], keywords: dict[str, Any], y: Tensor) -> None:
        self._given, self._y = (model, keywords), y
        self._model = functools.partial(self._call, model, keywords)

    def _through(self, product: Product, V: Tensor, shape: torch.Size) -> Tensor:
        """product of blocks (m, *shape), as one of rows (*batch, m, n)."""
        rows = _outside_inference(V)
        rows = (rows.transpose(0, 1) if self.batch else rows).reshape(-1, *shape)
        on_host = flushed() if self.device.type == "cpu" else contextlib.nullcontext()
        with self._evaluating(), tf32(self.precision), on_host:
            result = product(rows.to(self._arithmetic.dtype)).to(self.dtype)
        result = result.reshape(len(rows), *self.batch, -1)
        if result.untyped_storage().data_ptr() == V.untyped_storage().data_ptr():
            result = result.clone()  # of a model that only moves pixels
        return result.transpose(0, 1).contiguous() if self.batch else result

    def _prepare(self, ways: tuple[Method, ...]) -> Method:
        """Set up the first way that can follow the model; the last one's failure is the caller's."""
        for way in ways:
            try:
                with self._evaluating(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns about graphs that it builds itself
                    getattr(self, f"_prepare_{way}")()
            except Exception as failure:
                # What torch cannot trace it reports in many exception types, all to the same effect.
                if way == ways[-1]:
                    if isinstance(failure, SpectralError):
                        raise
                    raise SpectralError(f'method="{way}" failed on {self._name}: {failure}') from failure
                reason = str(failure).strip().split("\n")[0][:120]
                self._note(f"not {way} ({type(failure).__name__}: {reason})")
            else:
                return way
        raise AssertionError("unreachable")

    def _prepare_frozen(self) -> None:
        v = self._random(self.shape[1]).reshape(self._y.shape)
        name, expected, tolerance = self._tangent(v)
        program = record(self._model, self._y)
        error = (program.apply(v.unsqueeze(0))[0] - expected).double().norm()
        error /= expected.double().norm().clamp(min=1e-300)
        if not error <= tolerance:
            raise SpectralError(f"the recorded program differs from {name} by {error:.1e} (relative)")
        self._adopt(program.in_faster_layout())

    def _tangent(self, v: Tensor) -> tuple[str, Tensor, float]:
        """J v that a program must agree with: where it comes from, itself, and how closely."""
        rounding = torch.finfo(self.dtype).eps
        if self._y.numel() <= EXACTLY_CHECKED or rounding > STEP / 100:  # half precision has no differences
            return "torch.func.jvp", torch.func.jvp(self._model, (self._y,), (v,))[1], self._tolerance
        h = STEP * self._y.norm() / v.norm()
        differences = (self._model(self._y + h * v) - self._model(self._y - h * v)) / (2 * h)
        return "the model's differences", differences, DIFFERENCE_TOLERANCE

    def _adopt(self, program: Program) -> None:
        """Form products by a program, in blocks; on a GPU by graphs, where those are faster."""
        chunks = Chunks(program.live_entries * self._arithmetic.dtype.itemsize)
        self._program = program
        products: list[Product] = [program.apply, program.transpose]
        if self.device.type == "cuda":
            products = [Replayed(product, chunks.vector_bytes, self._note) for product in products]
        self._push, self._pull = (functools.partial(chunks, product) for product in products)

    def _prepare_linearize(self) -> None:
        push = torch.func.linearize(self._model, self._y)[1]
        self._push = _one_by_one(push)
        push(torch.zeros_like(self._y))
        self._keep_graph()

    def _prepare_jvp(self) -> None:
        self._push = _one_by_one(lambda v: torch.func.jvp(self._model, (self._y,), (v,))[1])
        self._push(torch.zeros_like(self._y).unsqueeze(0))
        self._keep_graph()

    def _keep_graph(self) -> None:
        pullback = torch.func.vjp(self._model, self._y)[1]
        self._pull = _one_by_one(lambda u: pullback(u)[0])

    def _call(self, model: Callable[..., Any], model_kwargs: dict[str, Any], y: Tensor) -> Tensor:
        output = tensor = model(y, **model_kwargs)
        if not isinstance(output, Tensor):
            label, tensor = _first_tensor(output)
            if tensor is None:
                raise ModelOutputError(f"{self._name} returned a {type(output).__name__} without a tensor")
            self._note(f"output {label} of {type(output).__name__}")
        if not tensor.is_floating_point():
            raise ModelOutputError(f"{self._name} returned {tensor.dtype}, which has no derivative")
        return tensor

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode, no outer graph, and attention in its plain form, the only one that can be differentiated
        forwards, for one call; every module's own training flag is put back."""
        training = [m for m in self._modules if m.training]
        try:
            for m in training:
                m.training = False
            with torch.inference_mode(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            for m in training:
                m.training = True

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.info("%s: %s", self._name, text)

    def _check_output(self) -> None:
        if not torch.isfinite(self.output).all():
            raise NotFiniteError(f"{self._name} returned NaN or infinity at y")
        again = self._model(self._y)
        tolerance = 100 * torch.finfo(self.output.dtype).eps * self.output.abs().max()
        if (again - self.output).abs().max() > tolerance:
            raise NotDeterministicError(
                f"two calls of {self._name} at the same y differ by {(again - self.output).abs().max():.1e}: "
                "switch off dropout and noise inside the model (fix its random draws), then call again"
            )

    def _check_adjoint(self) -> None:
        """<u, J v> = <J' u, v> for one random pair, to the rounding of the model's own precision."""
        v, u = self._random(self.shape[1]), self._random(self.shape[0], seed=1)
        Jv, Ju = self._apply(v), self._apply_transpose(u)
        if not (torch.isfinite(Jv).all() and torch.isfinite(Ju).all()):
            raise NotFiniteError(f"the Jacobian of {self._name} at y holds NaN or infinity")
        forward, backward = (u.double() * Jv.double()).sum(-1), (Ju.double() * v.double()).sum(-1)
        norm = torch.linalg.vector_norm
        size = norm(u.double(), dim=-1) * norm(Jv.double(), dim=-1)
        size = torch.maximum(size, norm(v.double(), dim=-1) * norm(Ju.double(), dim=-1))
        worst = ((forward - backward).abs() / size.clamp(min=1e-300)).max().item()
        if worst > self._tolerance:
            raise SpectralError(
                f"J v and J' u of {self._name} contradict each other by {worst:.1e} (relative): one of its "
                "operations has a wrong derivative (a custom autograd function?), or is not differentiable"
            )

    def _check_independence(self) -> None:
        u = torch.zeros_like(self.output)
        u[0] = 1
        with self._evaluating():
            reached = self._pull(u.unsqueeze(0))[0, 1:].any()
        if reached:
            raise SpectralError(
                f"batched: the output of {self._name} for one input depends on the others: "
                "pass the inputs one by one, or batched=False for their joint Jacobian"
            )

    @property
    def _tolerance(self) -> float:
        """Relative disagreement that rounding may explain."""
        return min(1e3 * self._arithmetic.eps, 0.1)

    def _random(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*self.batch, 1, n, generator=generator).to(self.device, self.dtype)

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        batch = f", batch={self.batch[0]}" if self.batch else ""
        size = f"{self.shape[0]}x{self.shape[1]}"
        return f"Jacobian({size} of {self._name}, {self.dtype}, {self.device}{batch}, {self.method}{notes})"


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


def _of_some(keywords: dict[str, Any], n: int, index: Tensor) -> dict[str, Any]:
    """Keywords of which those with an entry an input keep the entries of some."""
    return {
        name: value[index.to(value.device)]
        if isinstance(value, Tensor) and value.ndim and len(value) == n
        else value
        for name, value in keywords.items()
    }


def _one_by_one(product: Product) -> Product:
    """A product of blocks from one of single vectors."""
    return lambda V: torch.stack([product(v) for v in V])


def _outside_inference(x: Tensor) -> Tensor:
    """x, or a clone of an inference-mode tensor, which could not enter a graph."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def _name_of(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", type(model).__name__)


def _modules_in(model: Any) -> list[nn.Module]:
    """Every module a callable visibly runs: itself, or what a function, method or partial closes over."""
    seen: dict[int, nn.Module] = {}
    pending, visited = [model], set()
    while pending:
        item = pending.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, nn.Module):
            seen.update((id(m), m) for m in item.modules())
        elif isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif inspect.ismethod(item):
            pending += [item.__self__, item.__func__]
        elif inspect.isfunction(item):
            held = inspect.getclosurevars(item)
            pending += [*held.nonlocals.values(), *held.globals.values(), *(item.__defaults__ or ())]
        elif isinstance(item, (list, tuple)):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
        elif callable(item) and hasattr(item, "__dict__") and not inspect.isclass(item):
            pending += vars(item).values()
    return list(seen.values())
