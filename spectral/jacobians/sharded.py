"""The Jacobian of a model at one image whose rows lie in several processes.

    A = R P E

with P the model's own Jacobian at a strip and its halo, recorded in each process for itself, E what brings
the halo (`spectral.operators.sharded`), and R what keeps the strip's rows.  A row of the output is made of
rows of the input within the network's reach, which its program tells (`spectral.jacobians.program.reach`):
where the halo covers that, and cuts lie where poolings begin, A's rows on the strip are those of the whole
image's Jacobian, exactly, and J' = E' P' R'.

That the model at a strip is the model at the image is tried, in every process, before any product is used
(`spectral.jacobians.strips`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import NotFiniteError, OptionError, ReachError, ShapeError, SpectralError
from spectral.jacobians.fingerprint import fingerprint
from spectral.jacobians.jacobian import Jacobian, WrongProductsError, check_asked, jacobian
from spectral.jacobians.keywords import keywords_of
from spectral.jacobians.model import Model, same_random_numbers
from spectral.jacobians.of_model import OfModel
from spectral.jacobians.precision import Precision
from spectral.jacobians.program import Recorder
from spectral.jacobians.program.reach import Reach
from spectral.jacobians.strips import by_planes, tried
from spectral.operators.ranks import TIMEOUT, Ranks, unlike
from spectral.operators.sharded import Cuts, Halo, ShardedSpace
from spectral.operators.space import Space
from spectral.options import choice, number
from spectral.words import digest, in_words

GatheredT = TypeVar("GatheredT")

TRIED_ROWS = 128  # of a first record, which tells the reach


@front_door
def sharded(
    model: Callable[..., Any],
    y: Tensor,
    *,
    given: Literal["whole", "strip"] = "whole",
    timeout: float = TIMEOUT,
    model_kwargs: Mapping[str, Any] | None = None,
) -> ShardedJacobian:
    """The Jacobian at one image, its rows shared by the processes that torchrun has started.

    All processes make the same calls with it, and get the same numbers; what is as long as an image (y,
    vectors, their products) each has of its own rows alone.  `spectral.top_eigs(A, k=20)`, `top_svd`,
    `trace` and all the rest take it as any operator.

    Args:
        model: as for `jacobian`, the same in each process, on the device of y; of an image (..., H, W) it
            makes one with as many rows.
        y: the image; with given="strip" this process's rows of it, from the top one after the other.
        given: "whole" where y is the whole image in each process, which is cut into strips as equal as the
            network's poolings let them be; "strip" where it is cut already.
        timeout: seconds without a word from another process after which it is given up; one that ends is
            told of at once.
        model_kwargs: keywords for the model, as for `jacobian`; none of them may have rows.

    Raises:
        ReachError: the network looks at all rows (attention, norms over the image, global pooling, circular
            padding, what is not known), strips are cut where its poolings do not begin, it computes
            something else at a strip than at the image, or in half precision, in which that would not show.
        OptionError: there are fewer rows than processes, or a keyword has rows.
        RankError: a process ended, fell silent, or failed.
        ShapeError: strips do not fit together, or y has no rows.
        Exception: as of `jacobian`.
    """
    if number("timeout", timeout) <= 0:
        raise OptionError(f"timeout is a number of seconds, positive; got {timeout}")
    ranks = Ranks.of_process(timeout)
    with ranks.interruptible():
        told = ranks.agree(lambda: _told(model, y, given, model_kwargs))
        _check_alike(ranks, told)
        return _made(ranks, model, y.detach().clone(), given, keywords_of(model_kwargs))


def _made(
    ranks: Ranks, model: Callable[..., Any], y: Tensor, given: str, keywords: dict[str, Any]
) -> ShardedJacobian:
    if ranks.size == 1:
        reach = Reach(0, 0, 1)
    else:
        reach = ranks.agree(lambda: _first_reach(model, y, keywords))
        reach = Reach(*(int(ranks.largest(part)) for part in (reach.above, reach.below, reach.multiple)))
    if given == "whole":
        cuts = Cuts.even(y.shape[-2], ranks.size, reach.multiple)
        own = cuts.of(ranks.rank)
        y = y[..., own.start : own.stop, :]
    else:
        (heights,) = ranks.gather(torch.tensor(y.shape[-2]))
        bounds = [0, *heights.long().cumsum(0).tolist()]
        cuts = Cuts(tuple(bounds))
    _check_cuts(cuts, reach)
    halo = Halo(ranks, cuts, *reach.halo)
    planes = math.prod(y.shape[:-2])
    extended = halo.extend(by_planes(y.contiguous()[None], planes))[0]
    extended = extended.reshape(*y.shape[:-2], *extended.shape[-2:])
    local = ranks.agree(lambda: _local(model, extended, keywords, reach, ranks.size))
    _check_outputs(ranks, local)
    A = ShardedJacobian(local, ranks, cuts, halo, reach, y.contiguous())
    if ranks.size > 1:
        if A.eps > 1e-4:
            raise ReachError(
                f"{A.name} computes in half precision, in which what it makes of a strip cannot be told from "
                'what it makes of the image: give model and y in float32, and precision="bfloat16" for '
                "products"
            )
        A.note(tried(A, model, keywords, A.y))
    return A


class ShardedJacobian(OfModel):
    """J at an image whose rows lie in several processes; made by `sharded`.

    Attributes:
        input_shape, output_shape: of the strip here.
        whole_shape: of the image.
        ranks, cuts, halo, reach: the processes, which rows each has, and what it is given besides.
        local: the Jacobian at the strip and its halo.
        y: the strip.
        notes: what was decided on the way.
        strip: (first, last, all) rows of the image that lie here.
    """

    def __init__(
        self, local: Jacobian, ranks: Ranks, cuts: Cuts, halo: Halo, reach: Reach, y: Tensor
    ) -> None:
        self.y = y
        self.local, self.ranks, self.cuts, self.halo, self.reach = local, ranks, cuts, halo, reach
        own = cuts.of(ranks.rank)
        self.input_shape, self.output_shape = (
            (*shape[:-2], len(own), shape[-1]) for shape in (local.input_shape, local.output_shape)
        )
        self.whole_shape = (*self.input_shape[:-2], cuts.rows, self.input_shape[-1])
        shapes = self.output_shape, self.input_shape
        sides: list[Space] = [
            ShardedSpace.of_images(ranks, cuts, math.prod(shape[:-2]), shape[-1])
            if ranks.size > 1
            else Space(math.prod(shape))
            for shape in shapes
        ]
        super().__init__(
            (sides[0].dimension, sides[1].dimension),
            dtype=local.dtype,
            device=local.device,
            eps=ranks.largest(local.eps),
            spaces=(sides[0], sides[1]),
        )
        self.notes = [*local.notes]
        self.strip = None if ranks.size == 1 else (own.start, own.stop, cuts.rows)
        if ranks.size > 1:
            self.note(
                f"rows {own.start} to {own.stop} of {cuts.rows} here, {len(halo.rows)} with what is within "
                f"reach ({reach.above} above, {reach.below} below)"
            )
        everywhere = ranks.largest(float(not halo.whole)) == 0
        if ranks.size > 1 and everywhere:
            self.note("the whole image is within reach of every strip: no memory of the network's is saved")

    @property
    def name(self) -> str:
        """The model's."""
        return self.local.name

    @property
    def output(self) -> Tensor:
        """model(y) on the rows here."""
        return self.local.output[..., self.halo.own, :]

    @property
    def bytes_per_product(self) -> tuple[int, int]:
        """What a product with J sends and receives here, in bytes: rows of halos; with J' the two change."""
        wide = torch.promote_types(self.dtype, torch.float32) if self.dtype.itemsize < 4 else self.dtype
        row = math.prod(self.input_shape[:-2]) * self.input_shape[-1] * wide.itemsize
        return self.halo.bytes_each_way(row)

    def gather(self, found: GatheredT) -> GatheredT | None:
        """Whole vectors in the first process, None in the others.

        Args:
            found: vectors (..., *input shape) or (..., *output shape) of the rows here; or a result of
                `top_eigs`, `top_svd` or `top_eigs_full`, all of whose vectors are gathered, so that it can be
                saved, plotted and compared as any other.

        Raises:
            ShapeError: the vectors are not of these rows.
        """
        with self._called("gather", found):
            return self._gathered(found)

    def _gathered(self, found: GatheredT) -> GatheredT | None:
        if is_dataclass(found) and not isinstance(found, type) and hasattr(found, "strip"):
            if found.strip is None:
                return found if self.ranks.rank == 0 else None
            every = vars(found).items()
            names = [name for name, value in every if name in _VECTORS and isinstance(value, Tensor)]
            whole: dict[str, Any] = {name: self._gathered(getattr(found, name)) for name in names}
            return None if self.ranks.rank else replace(found, strip=None, **whole)
        V = cast(Tensor, found)
        for shape, space in ((self.input_shape, self.domain), (self.output_shape, self.codomain)):
            if isinstance(V, Tensor) and V.shape[-len(shape) :] == shape:
                lead = V.shape[: V.ndim - len(shape)]
                rows = space.collected(V.reshape(*lead, space.n))
                if rows is None:
                    return None
                whole_shape = (*shape[:-2], self.cuts.rows, shape[-1])
                return cast(GatheredT, rows.reshape(*lead, *whole_shape))
        got = tuple(V.shape) if isinstance(V, Tensor) else type(V).__name__
        raise ShapeError(f"vectors of the rows here have the shape (..., {self.input_shape}); got {got}")

    def check_weights(self, thorough: bool = True) -> None:
        """See `Jacobian.check_weights`; of all processes where it is thorough."""
        if thorough:
            self.ranks.agree(self.local.check_weights)
        else:
            self.local.check_weights(thorough=False)

    def confirm(self, V: Tensor, U: Tensor, norm: float) -> None:
        """See `Jacobian.confirm`: in each process, of the strip and its halo.

        Raises:
            SpectralError: the products are wrong.
        """
        extended = self._extended(V)
        embedded = self._embedded(U)

        def work() -> None:
            try:
                self.local.confirm(extended.flatten(1), embedded.flatten(1), norm)
            except WrongProductsError as wrong:
                raise SpectralError(f"{wrong}; make the operator anew, of one process") from wrong

        self.ranks.agree(work)

    def at_precision(self, precision: Precision) -> ShardedJacobian:
        """See `Jacobian.at_precision`."""
        local = self.ranks.agree(lambda: self.local.at_precision(precision))
        twin = ShardedJacobian(local, self.ranks, self.cuts, self.halo, self.reach, self.y)
        twin._whole = self
        twin.notes = [*self.notes, *(note for note in local.notes if note not in self.notes)]
        return twin

    def in_step(self, asked: Callable[[], Mapping[str, Any]]) -> contextlib.AbstractContextManager[None]:
        """See `Ranks.in_step`."""
        return self.ranks.in_step(asked)

    def apply(self, V: Tensor) -> Tensor:
        """See `LinearOperator.apply`; in all processes, of as many vectors."""
        with self._called("apply", V, self.domain):
            return super().apply(V)

    def apply_transpose(self, V: Tensor) -> Tensor:
        """See `LinearOperator.apply_transpose`; in all processes, of as many vectors."""
        with self._called("apply_transpose", V, self.codomain):
            return super().apply_transpose(V)

    def _called(
        self, call: str, given: Any, space: Space | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """While a call of the operator itself runs, which all processes make; see `Ranks.in_step`."""

        def asked() -> dict[str, Any]:
            told: dict[str, Any] = {"call": f"A.{call}", "given": type(given).__name__}
            if isinstance(given, Tensor):
                size = list(given.shape)
                if space is not None:
                    told |= {"vectors": size[:-1], "of the rows here": size[-1:] == [space.n]}
                else:
                    told["shape"] = [*size[:-2], "rows", *size[-1:]]
                told["dtype"] = str(given.dtype)
            return told

        return self.ranks.in_step(asked)

    def note(self, text: str) -> None:
        """Add to the notes."""
        if text and text not in self.notes:
            self.notes.append(text)

    def _apply(self, V: Tensor) -> Tensor:
        W = self.local.apply(self._extended(V).flatten(1))
        rows = W.reshape(len(V), -1, len(self.halo.rows), self.output_shape[-1])
        return rows[..., self.halo.own, :].reshape(len(V), -1)

    def _apply_transpose(self, U: Tensor) -> Tensor:
        G = self.local.apply_transpose(self._embedded(U).flatten(1))
        rows = G.reshape(len(U), -1, len(self.halo.rows), self.input_shape[-1])
        return self.halo.add_back(rows).reshape(len(U), -1)

    def _extended(self, V: Tensor) -> Tensor:
        """E v, (m, planes, strip and halo, W)."""
        return self.halo.extend(
            by_planes(V.reshape(len(V), *self.input_shape), math.prod(self.input_shape[:-2]))
        )

    def _embedded(self, U: Tensor) -> Tensor:
        """R' u."""
        planes, width = math.prod(self.output_shape[:-2]), self.output_shape[-1]
        out = U.new_zeros(len(U), planes, len(self.halo.rows), width)
        out[..., self.halo.own, :] = U.reshape(len(U), planes, -1, width)
        return out

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        size = f"{self.shape[0]}x{self.shape[1]}"
        return (
            f"ShardedJacobian({size} of {self.name} over {self.ranks.size} processes, {self.dtype}, "
            f"{self.device}, {self.local.method}{notes})"
        )


_VECTORS = ("vectors", "left", "right", "schur_vectors")


def _told(
    model: Callable[..., Any], y: Tensor, given: str, model_kwargs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is asked here, in words that JSON holds.

    Raises:
        OptionError, ShapeError, NotFiniteError: it cannot be; see `sharded` and `jacobian`.
    """
    choice("given", given, ("whole", "strip"))
    check_asked(model, y)
    if y.ndim < 2:
        raise ShapeError("y is an image with rows, a tensor of shape (..., H, W)")
    if not torch.isfinite(y).all():
        raise NotFiniteError("y holds NaN or infinity")
    keywords = keywords_of(model_kwargs)
    for name, value in keywords.items():
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[-2] > 1:
            raise OptionError(
                f"the keyword {name} has rows, {tuple(value.shape)}, which are not cut with those of y: make "
                "it a channel of y, or a part of the model"
            )
    shape = list(y.shape) if given == "whole" else [*y.shape[:-2], "rows", y.shape[-1]]
    told = {"call": "sharded", "given": given, "shape": shape, "dtype": str(y.dtype)}
    told |= {"image": digest(y)} if given == "whole" else {}
    return told | {"model_kwargs": in_words(keywords), "model": fingerprint(model, attributes=False)}


def _check_alike(ranks: Ranks, told: dict[str, Any]) -> None:
    """That all processes ask the same, before anything is exchanged whose size that decides.

    Raises:
        ShapeError: they have different images.
        OptionError: they have other weights, or keywords.
    """
    apart = ranks.apart(told) if ranks.size > 1 else {}
    other = {name: every for name, every in apart.items() if name in ("given", "shape", "dtype")}
    if other:
        raise ShapeError(f"the processes were given different images: {unlike(other)}")
    if "image" in apart:
        raise ShapeError(
            'the processes were given different images: with given="whole" y is the same in each, made '
            "from one seed, or read from one file"
        )
    if "model" in apart:
        raise OptionError(
            "the processes were given different models, or other weights: load them from one file in each, "
            "or seed each alike before they are made"
        )
    if apart:
        raise OptionError(f"the processes are asked for different things: {unlike(apart)}")


def _check_cuts(cuts: Cuts, reach: Reach) -> None:
    """That poolings begin in strips where they do in the image.

    Raises:
        ReachError: they do not.
    """
    off = [bound for bound in cuts.bounds[1:-1] if bound % reach.multiple]
    if off:
        at = [round(bound / reach.multiple) * reach.multiple for bound in cuts.bounds[1:-1]]
        raise ReachError(
            f"an image is cut for this network at multiples of {reach.multiple} rows, where its poolings "
            f"begin, and strips begin at {', '.join(map(str, off))}: cut at {', '.join(map(str, at))}, or "
            'give the whole image with given="whole"'
        )


def _first_reach(model: Callable[..., Any], y: Tensor, keywords: dict[str, Any]) -> Reach:
    """The reach, of a record at the first rows of what lies here; networks may take multiples alone."""
    failure: Exception | None = None
    all_rows = y.shape[-2]
    few = [all_rows // multiple * multiple for multiple in (64, 32, 16, 8, 4, 2)]
    for rows in dict.fromkeys((min(TRIED_ROWS, all_rows), *filter(None, few), all_rows)):
        called = Model(model, keywords)
        try:
            with torch.inference_mode(False), same_random_numbers(y.device), called.ready():
                part = y[..., :rows, :].clone()
                return Recorder.of(called, part).program()[0].reach()
        except ReachError:
            raise
        except Exception as reason:
            failure = reason
    assert failure is not None  # there is a row at least
    raise failure


def _local(
    model: Callable[..., Any], extended: Tensor, keywords: dict[str, Any], reach: Reach, processes: int
) -> Jacobian:
    """The Jacobian at the strip and its halo, where its program looks no further than was thought."""
    J = jacobian(model, extended, model_kwargs=keywords)
    if processes == 1:
        return J
    if J.output_shape[-2] != extended.shape[-2] or len(J.output_shape) < 2:
        raise ReachError(
            f"{J.name} makes {J.output_shape[-2:]} of {tuple(extended.shape[-2:])} pixels: strips take an "
            "output with the rows of the input"
        )
    now = J.reach()
    if not reach.covers(now):
        raise ReachError(
            f"{J.name} looks {now.above} and {now.below} rows far at {extended.shape[-2]} rows, and "
            f"{reach.above} and {reach.below} at fewer: it depends on the size of its input, and an image "
            "cannot be cut into strips for it"
        )
    return J


def _check_outputs(ranks: Ranks, local: Jacobian) -> None:
    """That outputs, of which rows are exchanged too, are alike but for their rows.

    Raises:
        ReachError: they are not.
    """
    shape = [*local.output_shape[:-2], "rows", local.output_shape[-1]]
    apart = ranks.apart({"output": shape, "dtype": str(local.output.dtype)}) if ranks.size > 1 else {}
    if apart:
        raise ReachError(
            f"{local.name} makes something else of one strip than of another: {unlike(apart)}: an image "
            "cannot be cut into strips for it"
        )
