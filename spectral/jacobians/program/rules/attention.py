"""Attention as one step, of the kernels that torch has for it; written by hand it is found by `fusion`.

    o = P v,   P = softmax(S),   S = s q k' + mask

    J v     dS = s (dq k' + q dk'),  do = P dv + (P o dS) v - r o,     r the row sums of P o dS
    J' u    dP = u v',  dS = P o (dP - D),                             D the row sums of u o o
            dq = s dS k,  dk = s dS' q,  dv = P' u

P is formed anew, a tile of queries and keys at a time, from q, k and the logarithms l of the sums of exp(S)
over keys, so that memory grows as the number of tokens; of windows and few tokens, where it is no larger than
KEPT times q and k, it is kept.  In float32 on x86 CPUs all of that is compiled code's
(`spectral.jacobians.cpu.attention`), but for masked weights that are too many to keep.  What is subtracted is
one more column of a product: S - l = [s q, -l] [k, 1]', dP - D = [u, -D] [v, 1]', and r comes as the last
of (P o dS) [v, 1].

References: Dao, Fu, Ermon, Rudra, Re, FlashAttention, NeurIPS 2022; for J v the same with two products more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from spectral.errors import ReachError
from spectral.jacobians.cpu.attention import Heads, kept, offered
from spectral.jacobians.program.rules.base import INSTEAD, Seen, named, rule
from spectral.jacobians.program.steps import Step, aten, cast, precise, some, within
from spectral.jacobians.program.trace import bound

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows

# Entries of a tile: on a CPU what its caches hold, and enough for threads that wait for each other not to
# show; on a GPU enough for the launches not to.
TILE = {"cpu": 1 << 19, "cuda": 1 << 24}
KEPT = 4  # so many weights an entry of queries and keys are kept: half the time of windows
FEW = 1 << 19  # so many are, whatever made them: two MiB
HIDDEN = 1e30  # for l where a query sees no key: its weights are zeros, as torch has it

Role = Literal["q", "k", "v"]
ROLES: tuple[Role, ...] = ("q", "k", "v")


class Tile(NamedTuple):
    """Some heads, queries and keys."""

    heads: slice
    rows: slice
    columns: slice


@dataclass
class Weights:
    """P = softmax(q k' + mask), by tiles.

    Attributes:
        q: (N, n, d + 1) queries times the scale, and -l.
        k: (N, m, d + 1) keys, and ones.
        batch: the axes that N counts, as the mask has them.
        mask: as broadcast to (*batch, n, m): added, or, of bools, False where a query does not see a key.
        causal: whether query i sees the keys up to i alone.
        kept: P, where it is small.
    """

    q: Tensor
    k: Tensor
    batch: torch.Size
    mask: Tensor | None = None
    causal: bool = False
    kept: Tensor | None = None

    @classmethod
    def at(cls, q: Tensor, k: Tensor, batch: torch.Size, mask: Tensor | None, causal: bool) -> Weights:
        """The weights of queries (N, n, d), scaled, and keys (N, m, d), in float32 at least."""
        work = working(q.dtype)
        q, k = q.to(work), k.to(work)
        mask = mask if mask is None or mask.dtype is torch.bool else mask.to(work)
        weights = cls(with_column(q, 0), with_column(k, 1), batch, mask, causal)
        total = q.new_full((*q.shape[:2], 1), -math.inf)
        for tile in weights.tiles():
            part = total[tile.heads, tile.rows]
            part.copy_(torch.logaddexp(part, weights.exponents(tile).logsumexp(-1, keepdim=True)))
        weights.q[..., -1:] = -total.masked_fill(total == -math.inf, HIDDEN)
        if weights.few:
            weights.kept = weights.whole()
        return weights

    @property
    def size(self) -> torch.Size:
        """(N, n, m)."""
        return torch.Size((*self.q.shape[:2], self.k.shape[1]))

    @property
    def few(self) -> bool:
        """Whether there are few enough to be kept."""
        made_of = self.q[..., :-1].numel() + self.k[..., :-1].numel()
        return self.size.numel() <= max(KEPT * made_of, FEW)

    @property
    def most(self) -> int:
        """Entries of a tile, at most."""
        return TILE.get(self.q.device.type, TILE["cuda"])

    def tiles(self) -> Iterator[Tile]:
        """All of P but what a causal mask hides; of few queries and keys, several heads together."""
        (N, n, m), most = self.size, self.most
        wide = min(m, math.isqrt(2 * most))
        high = min(n, max(most // wide, 1))
        for heads in _parts(N, most // (n * m)):
            for rows in _parts(n, high):
                for columns in _parts(m, wide):
                    if not (self.causal and columns.start >= rows.stop):
                        yield Tile(heads, rows, columns)

    def exponents(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """S - l of a tile."""
        q, k = self.q[tile.heads, tile.rows], self.k[tile.heads, tile.columns].mT
        out = torch.bmm(q, k, out=out) if out is not None else torch.bmm(q, k)
        if self.mask is not None:
            mask = self._mask(self.mask, tile)
            out = out.masked_fill_(~mask, -math.inf) if mask.dtype is torch.bool else out.add_(mask)
        if self.causal and tile.columns.stop > tile.rows.start + 1:
            seen = out.new_ones(out.shape[1:], dtype=torch.bool).tril(tile.rows.start - tile.columns.start)
            out.masked_fill_(~seen, -math.inf)
        return out

    def of(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """P of a tile, to be read alone."""
        return self.exponents(tile, out).exp_() if self.kept is None else self.kept[tile]

    def whole(self) -> Tensor:
        """P, (N, n, m)."""
        P = self.q.new_zeros(self.size)
        for tile in self.tiles():
            P[tile] = self.of(tile)
        return P

    def to(self, dtype: torch.dtype) -> Weights:
        """In another precision, or float32 where that is coarser: exp would make much of rounding."""
        work = working(dtype)
        mask = self.mask
        if mask is not None and mask.is_floating_point():
            mask = cast(mask, work)
        weights = replace(self, q=cast(self.q, work), k=cast(self.k, work), mask=mask, kept=None)
        if self.few:  # those of the queries and keys, to the last digit, as J' u may form them
            weights.kept = weights.whole()
        return weights

    def select(self, index: Tensor, n: int) -> Weights:
        """Those of some inputs, each with its heads."""
        heads, mask = within(index, n, len(self.q)), self.mask
        if mask is not None and mask.ndim == len(self.batch) + 2 and len(mask) > 1:
            mask = mask[within(index, n, len(mask))]
        batch = some(self.batch, index, n)
        kept = None if self.kept is None else self.kept[heads]
        return replace(self, q=self.q[heads], k=self.k[heads], batch=batch, mask=mask, kept=kept)

    def _mask(self, mask: Tensor, tile: Tile) -> Tensor:
        """The mask of a tile."""
        shape = mask.shape[:-2]
        n, m = self.size[1:]
        part = mask.expand(*shape, n, m)[..., tile.rows, tile.columns]
        if shape.numel() == 1:
            return part.reshape(part.shape[-2:])
        heads, places = torch.arange(tile.heads.start, tile.heads.stop, device=mask.device), []
        for size in reversed(self.batch):
            places.append(heads % size)
            heads = heads // size
        return part.expand(*self.batch, *part.shape[-2:])[tuple(reversed(places))]


class Given(NamedTuple):
    """Where q, k, v or o comes among a step's inputs, its size there, whether as a transpose, its dtype."""

    place: int
    size: torch.Size
    turned: bool
    dtype: torch.dtype


@dataclass
class Attention(Step):
    """dq, dk, dv -> P dv + (P o dS) v - r o, those of them that y reaches.

    Attributes:
        weights: P.
        v: (N, m, e + 1) values, and ones.
        o: (N, n, e) outputs.
        scale: s, one number or (N, 1, 1).
        given: of each of q, k and v that y reaches, how it is given.
        result: how o is wanted.
    """

    weights: Weights
    v: Tensor
    o: Tensor
    scale: Tensor
    given: dict[Role, Given]
    result: Given
    heads: Heads | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Set up `heads`, where they are at hand: without a mask they keep no weights, and else their own."""
        weights = self.weights
        plain = weights.mask is None and not weights.causal
        if not (offered(self.o) and (plain or weights.few)):
            return
        known = kept(weights.whole() if weights.kept is None else weights.kept) if weights.few else None
        scale = self.scale.reshape(-1).expand(len(self.o)).contiguous()
        self.heads = Heads(weights.q, weights.k, self.v, self.o, scale, known)
        self.weights = replace(weights, kept=None)

    @classmethod
    def at(
        cls,
        inputs: tuple[int, ...],
        output: int,
        weights: Weights,
        v: Tensor,
        scale: Tensor,
        given: dict[Role, Given],
        result: Given,
    ) -> Attention:
        """The derivative at values v (N, m, e)."""
        v = v.to(weights.q.dtype)
        o = v.new_zeros(*weights.size[:2], v.shape[-1])
        for tile in weights.tiles():
            o[tile.heads, tile.rows] += weights.of(tile) @ v[tile.heads, tile.columns]
        return cls(inputs, output, weights, with_column(v, 1), o, scale.to(v.dtype), given, result)

    def apply(self, *tangents: Tensor) -> Tensor:
        """P dv + (P o dS) v - r o."""
        first = next(iter(self.given.values()))
        lead = tangents[first.place].shape[: -len(first.size)]
        if self.heads is not None:
            dq, dk, dv = (self._taken(role, tangents, self._by_head) for role in ROLES)
            result, out = self._made(self.result, lead)
            self.heads.ahead(dq, dk, dv, out)
            return result.to(self.result.dtype)
        count, width = lead.numel(), self.o.shape[-1]
        dq, dk, dv = (self._taken(role, tangents, self._flat) for role in ROLES)
        left, right = self._factors(dq, dk, count)
        total = self.o.new_zeros(count * len(self.o), self.o.shape[1], width + (left is not None))
        plain = total[..., :width]
        for tile, span, P, room in self._tiles(count):
            if left is not None and right is not None:
                W = torch.bmm(left[span, tile.rows], right[span, tile.columns].mT, out=room)
                W.view(-1, *P.shape).mul_(P)
                total[span, tile.rows].baddbmm_(W, _repeated(self.v[tile.heads, tile.columns], len(W)))
            if dv is not None:
                plain[span, tile.rows].baddbmm_(_repeated(P, len(room)), dv[span, tile.columns])
        if left is not None:
            of_vectors = total.view(count, *self.o.shape[:2], -1)
            plain = torch.addcmul(of_vectors[..., :width], of_vectors[..., width:], self.o, value=-1)
        return _given(plain, self.result, lead)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """dq, dk, dv for u = g."""
        lead = g.shape[: -len(self.result.size)]
        if self.heads is not None:
            made = {role: self._made(given, lead) for role, given in self.given.items()}
            into = {role: heads for role, (_, heads) in made.items() if role == "v" or self._scored}
            self.heads.back(self._by_head(g, self.result), *map(into.get, ROLES))
            for role in made.keys() - into.keys():
                made[role][1].zero_()
            return self._by_place({role: made[role][0].to(given.dtype) for role, given in self.given.items()})
        count = lead.numel()
        u = self._flat(g, self.result)
        if self._has_kernel:
            sums = self._pulled_by_torch(u)
        else:
            D = (u.view(count, *self.o.shape) * self.o).sum(-1, keepdim=True).view(*u.shape[:2], 1)
            sums = self._pulled(torch.cat([u, -D], -1), count)
        if "q" in sums:
            sums["q"].view(count, *self.o.shape[:2], -1).mul_(self.scale)
        return self._by_place({role: _given(sums[role], given, lead) for role, given in self.given.items()})

    def _by_place(self, parts: dict[Role, Tensor]) -> tuple[Tensor, ...]:
        """Cotangents of the inputs, of which one may come as several of q, k and v."""
        sums: dict[int, Tensor] = {}
        for role, part in parts.items():
            place = self.given[role].place
            sums[place] = sums[place] + part if place in sums else part
        return tuple(sums[i] for i in range(len(self.inputs)))

    @property
    def _has_kernel(self) -> bool:
        """Whether torch has a kernel for J' u: of heads alike, for all three, without a mask."""
        alike = self.weights.q.shape[-1] == self.v.shape[-1] == self.o.shape[-1] + 1
        plain = self.weights.mask is None and self.o.dtype in (torch.float32, torch.float64)
        return (
            _BACKWARD is not None and self.o.device.type == "cpu" and alike and plain and len(self.given) == 3
        )

    def _pulled_by_torch(self, u: Tensor) -> dict[Role, Tensor]:
        """The same as `_pulled`, by one call: threads meet once, where a tile's products are six."""
        assert _BACKWARD is not None
        q, k = self.weights.q, self.weights.k
        held = (q[..., :-1], k[..., :-1], self.v[..., :-1], self.o, -q[..., -1:])
        q, k, v, o, lse = (_repeated(t, len(u)).unsqueeze(0) for t in held)
        parts = _BACKWARD(u.unsqueeze(0), q, k, v, o, lse.squeeze(-1), 0.0, self.weights.causal, scale=1.0)
        dq, dk, dv = (part[0] for part in parts)
        return {"q": dq, "k": dk, "v": dv}

    def _pulled(self, u: Tensor, count: int) -> dict[Role, Tensor]:
        """dq / s, dk and dv of [u, -D] (count N, n, e + 1).

        Sums over queries are formed as transposes, u' P: P' u would read P across its rows.
        """
        depth, width = self.weights.q.shape[-1] - 1, self.o.shape[-1]
        _, n, m = self.weights.size
        sizes: dict[Role, tuple[int, int]] = {"q": (n, depth), "k": (depth, m), "v": (width, m)}
        sums = {role: u.new_zeros(len(u), *sizes[role]) for role in self.given}
        for tile, span, P, room in self._tiles(count):
            g = u[span, tile.rows]
            if "v" in sums:
                sums["v"][span, :, tile.columns].baddbmm_(g[..., :-1].mT, _repeated(P, len(g)))
            if not self._scored:
                continue
            v = _repeated(self.v[tile.heads, tile.columns], len(g))
            W = torch.bmm(g, v.mT, out=room)
            W.view(-1, *P.shape).mul_(P)
            if "q" in sums:
                k = self.weights.k[tile.heads, tile.columns, :-1]
                sums["q"][span, tile.rows].baddbmm_(W, _repeated(k, len(W)))
            if "k" in sums:
                q = self.weights.q[tile.heads, tile.rows, :-1]
                sums["k"][span, :, tile.columns].baddbmm_(_repeated(q, len(W)).mT, W)
        return {role: total if role == "q" else total.mT for role, total in sums.items()}

    def to(self, dtype: torch.dtype) -> Attention:
        """The step for vectors of another precision; its own arithmetic is that of `Weights.to`."""
        work = working(dtype)
        given = {role: one._replace(dtype=precise(one.dtype, dtype)) for role, one in self.given.items()}
        result = self.result._replace(dtype=precise(self.result.dtype, dtype))
        v, o, scale = (cast(t, work) for t in (self.v, self.o, self.scale))
        weights = self.weights.to(dtype)
        return replace(self, weights=weights, v=v, o=o, scale=scale, given=given, result=result)

    def reach(self, *rows: Rows) -> Rows:
        """None: every pixel is looked at."""
        raise ReachError("it looks at all rows")

    def select(self, index: Tensor, n: int) -> Attention | None:
        """That of some inputs, each with its heads."""
        sizes = [self.result.size, *(one.size for one in self.given.values())]
        batch = self.weights.batch
        if not batch or batch[0] % n or not all(len(size) > 2 and size[0] % n == 0 for size in sizes):
            return None
        weights, heads = self.weights.select(index, n), within(index, n, len(self.o))
        given = {role: one._replace(size=some(one.size, index, n)) for role, one in self.given.items()}
        result = self.result._replace(size=some(self.result.size, index, n))
        scale = self.scale[heads] if self.scale.ndim else self.scale
        v, o = self.v[heads], self.o[heads]
        return replace(self, weights=weights, v=v, o=o, scale=scale, given=given, result=result)

    def _tiles(self, count: int) -> Iterator[tuple[Tile, slice, Tensor, Tensor]]:
        """Tiles of P, each with the heads of `count` vectors that it is for, and room for a product."""
        N, entries = len(self.o), self.weights.size.numel()
        first, second = self.o.new_empty(2, min(self.weights.most, count * entries))
        together = max(self.weights.most // entries, 1)
        for tile in self.weights.tiles():
            heads, rows, columns = (part.stop - part.start for part in tile)
            P = self.weights.of(tile, first[: heads * rows * columns].view(heads, rows, columns))
            for at in range(0, count, together):
                last = min(at + together, count) - 1
                span = slice(at * N + tile.heads.start, last * N + tile.heads.stop)
                many = (last - at + 1) * heads
                yield tile, span, P, second[: many * rows * columns].view(many, rows, columns)

    def _factors(
        self, dq: Tensor | None, dk: Tensor | None, count: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """L and R with dS = L R'."""
        if dq is not None:
            dq = dq.view(count, len(self.o), *dq.shape[1:]).mul(self.scale).flatten(0, 1)
        if dk is None:
            return dq, None if dq is None else _repeated(self.weights.k[..., :-1], len(dq))
        q = _repeated(self.weights.q[..., :-1], len(dk))
        if dq is None:
            return q, dk
        return torch.cat([dq, q], -1), torch.cat([_repeated(self.weights.k[..., :-1], len(dk)), dk], -1)

    @property
    def _scored(self) -> bool:
        """Whether P changes with y: it is one where there is a single key."""
        return self.weights.size[2] > 1 and self.given.keys() != {"v"}

    def _taken(
        self, role: Role, tangents: tuple[Tensor, ...], shaped: Callable[[Tensor, Given], Tensor]
    ) -> Tensor | None:
        """The tangent of q, k or v; None where y does not reach it."""
        given = self.given.get(role)
        if given is None or (role != "v" and not self._scored):
            return None
        return shaped(tangents[given.place], given)

    def _flat(self, t: Tensor, given: Given) -> Tensor:
        """(count N, tokens, depth)."""
        t = (t.mT if given.turned else t).to(self.o.dtype)
        return t.reshape(-1, *t.shape[-2:])

    def _by_head(self, t: Tensor, given: Given) -> Tensor:
        """(X, H, tokens, depth), X H = count N, of any strides."""
        t = (t.mT if given.turned else t).to(self.o.dtype)
        return t.reshape(-1, self._inner, *t.shape[-2:])

    def _made(self, given: Given, lead: torch.Size) -> tuple[Tensor, Tensor]:
        """Room for what is given, and the same by heads; in memory the heads of a token lie side by side.

        So a network has them, which goes on with all heads of a token.
        """
        size = (*given.size[:-2], *given.size[:-3:-1]) if given.turned else given.size
        batch, inner = [*lead, *size[:-2]], self._inner
        tokens, depth = size[-2:]
        count = math.prod(batch) // inner
        if len(size) > 3 and size[-3] == inner:
            heads = self.o.new_empty(count, tokens, inner, depth).transpose(1, 2)
        else:
            heads = self.o.new_empty(count, inner, tokens, depth)
        whole = heads.view(*batch, tokens, depth)
        return whole.mT if given.turned else whole, heads

    @property
    def _inner(self) -> int:
        """H: of 4 axes and more, the heads of one input."""
        return self.result.size[-3] if len(self.result.size) > 3 else 1


def working(dtype: torch.dtype) -> torch.dtype:
    """The precision of arithmetic on numbers of a dtype."""
    return torch.promote_types(dtype, torch.float32)


def with_column(t: Tensor, value: float) -> Tensor:
    """t with one more column, of one value."""
    return torch.nn.functional.pad(t, (0, 1), value=value)


def _repeated(t: Tensor, many: int) -> Tensor:
    """Matrices (N, ...) as often as it takes to have so many."""
    return t if len(t) == many else t.repeat(many // len(t), 1, 1)


def _given(t: Tensor, given: Given, lead: torch.Size) -> Tensor:
    """(count N, tokens, depth) as it is given, and in which precision."""
    size = (*given.size[:-2], *given.size[:-3:-1]) if given.turned else given.size
    t = t.reshape(*lead, *size).to(given.dtype)
    return t.mT if given.turned else t


def _parts(n: int, most: int) -> Iterator[slice]:
    """0 .. n in parts of about one size, no larger than `most`, or 1."""
    count = -(-n // max(most, 1))
    for i in range(count):
        yield slice(n * i // count, n * (i + 1) // count)


def _once(mask: Tensor) -> Tensor:
    """A mask without what it was expanded by, which a copy would write out."""
    for axis in range(mask.ndim):
        mask = mask.narrow(axis, 0, 1) if mask.stride(axis) == 0 else mask
    return mask


def _in_plain_form(target: Any) -> Callable[..., Any]:
    """A kernel's function in operations that torch differentiates forwards as well."""

    def function(*args: Any, **kwargs: Any) -> Any:
        call = bound(target, args, kwargs)
        mask = call.get("attn_mask", call.get("attn_bias"))
        causal, scale = call["is_causal"], call["scale"]
        q, k, v = call["query"], call["key"], call["value"]
        return aten._scaled_dot_product_attention_math(q, k, v, mask, 0.0, causal, scale=scale)

    return function


_BACKWARD = getattr(aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
_KERNELS = named(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
)
INSTEAD.update({target: _in_plain_form(target) for target in _KERNELS})


@rule(*_KERNELS)
def _attention(seen: Seen) -> Step | None:
    call = bound(seen.target, seen.args, seen.kwargs)
    q, k, v = call["query"], call["key"], call["value"]
    mask = call.get("attn_mask", call.get("attn_bias"))
    alike = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and min(q.numel(), k.numel(), v.numel()) > 0
    if seen.entry != 0 or seen.reaches(mask) or not alike or call["dropout_p"] != 0:
        return None
    scale = call["scale"] or q.shape[-1] ** -0.5
    roles: dict[Role, Tensor] = {"q": q, "k": k, "v": v}
    given = {
        role: Given(seen.places[id(t)], t.shape, False, t.dtype)
        for role, t in roles.items()
        if seen.reaches(t)
    }
    work = working(q.dtype)
    mask = None if mask is None else _once(seen.hold(mask))
    q, k, v = (t.to(work).flatten(0, -3) for t in (q, k, v))
    weights = Weights.at(q * scale, k, seen.like.shape[:-2], mask, call["is_causal"])
    result = Given(-1, seen.like.shape, False, seen.like.dtype)
    scale = torch.tensor(scale, dtype=work, device=q.device)
    return Attention.at(seen.inputs, seen.output, weights, v, scale, given, result)
