"""The compiled part of `attention`: heads by blocks of keys, two vectors of queries at a time.

Scores and weights are transposes, keys by queries: so they come out of `panel`, with queries in lanes, and so
they go into the next one, as columns.  A worker has the matrices of one head in its own room, padded to whole
panels; weights and scores of a block stay in a core's first cache.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import register_jitable

from spectral.jacobians.cpu.attention import KEYS, TASK
from spectral.jacobians.cpu.simd import (
    BYTES,
    ROWS,
    claim,
    exponential,
    load,
    narrow_onto,
    panel,
    panel_onto,
    pointer,
    store,
)
from spectral.kernels.compiled import cfunc, njit

LANES = BYTES // 4
WIDE = 2 * LANES  # queries at a time


@register_jitable
def whole(length, step):  # type: ignore[no-untyped-def]
    """The length, up to a multiple of a step."""
    return -(-length // step) * step


@register_jitable
def room_ahead(keys, depth, width):  # type: ignore[no-untyped-def]
    """Where each thing that `ahead` works with begins, in numbers, but for the queries; and the end."""
    padded = whole(keys, ROWS)
    tangents = (depth + 1) * WIDE
    weights = tangents + 2 * depth * WIDE
    products = weights + KEYS * WIDE
    sums = products + KEYS * WIDE
    scored = sums + whole(width + 1, ROWS) * WIDE
    changes = scored + padded * (depth + 1)
    values = changes + padded * 2 * depth
    moved = values + padded * whole(width + 1, ROWS)
    return (
        tangents,
        weights,
        products,
        sums,
        scored,
        changes,
        values,
        moved,
        moved + padded * whole(width, ROWS),
    )


@register_jitable
def room_back(keys, depth, width):  # type: ignore[no-untyped-def]
    """Where each thing that `back` works with begins, in numbers, but for the queries; and the end."""
    padded = whole(keys, ROWS)
    pulled = (depth + 1) * WIDE
    weights = pulled + (width + 1) * WIDE
    products = weights + KEYS * WIDE
    sums = products + KEYS * WIDE
    queries = sums + whole(depth, ROWS) * WIDE
    outputs = queries + whole(depth, LANES) * WIDE
    of_keys = outputs + whole(width, LANES) * WIDE
    of_values = of_keys + padded * whole(depth, LANES)
    scored = of_values + padded * whole(width, LANES)
    values = scored + padded * (depth + 1)
    turned = values + padded * (width + 1)
    end = turned + padded * whole(depth, ROWS)
    return pulled, weights, products, sums, queries, outputs, of_keys, of_values, scored, values, turned, end


@njit(inline="always")
def _fill(target, to, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        target[to + i] = 0


@njit()
def _lanes(source, at, token, feature, count, depth, scale, target, to):  # type: ignore[no-untyped-def]
    """Up to WIDE tokens side by side, a feature a row; zeros beside them."""
    for c in range(depth):
        for i in range(count):
            target[to + c * WIDE + i] = scale * source[at + i * token + c * feature]
        for i in range(count, WIDE):
            target[to + c * WIDE + i] = 0


@njit()
def _rows(source, at, token, feature, count, padded, depth, target, to, step):  # type: ignore[no-untyped-def]
    """Tokens below each other, rows `step` apart; zeros below them."""
    for j in range(count):
        for c in range(depth):
            target[to + j * step + c] = source[at + j * token + c * feature]
    for j in range(count, padded):
        for c in range(depth):
            target[to + j * step + c] = 0


@njit()
def _turned(source, at, token, feature, count, padded, depth, target, to):  # type: ignore[no-untyped-def]
    """The transpose: a feature a row, of which there are whole panels."""
    for c in range(whole(depth, ROWS)):
        for j in range(padded):
            inside = c < depth and j < count
            target[to + c * padded + j] = source[at + j * token + c * feature] if inside else 0


@njit()
def _groups(source, at, token, feature, count, depth, target, to):  # type: ignore[no-untyped-def]
    """Up to WIDE tokens below each other, WIDE features at a time, then LANES; zeros beside them."""
    deep = whole(depth, LANES)
    for c in range(deep):
        first, step = c // WIDE * WIDE, WIDE if c < deep // WIDE * WIDE else LANES
        for i in range(WIDE):
            value = source[at + i * token + c * feature] if c < depth and i < count else 0
            target[to + first * WIDE + i * step + c - first] = value


@njit()
def _products(left, at, step, right, columns, out, to, rows, depth):  # type: ignore[no-untyped-def]
    """L R for whole panels of rows."""
    for r in range(0, rows, ROWS):
        panel(left, at + r * step, step, right, columns, out, to + r * WIDE, depth, WIDE)


@njit()
def _sums(left, at, step, right, columns, out, to, rows, depth):  # type: ignore[no-untyped-def]
    """O + L R for whole panels of rows."""
    for r in range(0, rows, ROWS):
        panel_onto(left, at + r * step, step, right, columns, out, to + r * WIDE, depth, WIDE)


@njit()
def _onto(left, at, right, columns, out, to, rows, deep):  # type: ignore[no-untyped-def]
    """O + L R for panels of WIDE queries; the columns of R come as `_groups` has them."""
    pairs = deep // WIDE * WIDE
    for r in range(0, rows, ROWS):
        for c in range(0, pairs, WIDE):
            from_column, into = columns + c * WIDE, to + r * deep + c
            panel_onto(left, at + r * WIDE, WIDE, right, from_column, out, into, WIDE, deep)
        if pairs < deep:
            from_column, into = columns + pairs * WIDE, to + r * deep + pairs
            narrow_onto(left, at + r * WIDE, WIDE, right, from_column, out, into, WIDE, deep)


@njit()
def _written(source, at, step, count, depth, target, to, token, feature):  # type: ignore[no-untyped-def]
    """Tokens below each other, rows `step` apart, to where they belong."""
    for j in range(count):
        for c in range(depth):
            target[to + j * token + c * feature] = source[at + j * step + c]


@njit()
def _weights(out, keys, depth, to, rows, seen):  # type: ignore[no-untyped-def]
    """exp of keys times the queries, which come first, and zeros below the rows that are `seen`."""
    _products(out, keys, depth, out, 0, out, to, rows, depth)
    for i in range(to, to + min(rows, seen) * WIDE, LANES):
        store(out, i, exponential(load(out, i)))
    if seen < rows:
        _fill(out, to + seen * WIDE, (rows - seen) * WIDE)


@njit()
def _weighed(out, to, weights, at, count):  # type: ignore[no-untyped-def]
    """Products times weights, in place."""
    for i in range(0, count, LANES):
        store(out, to + i, load(out, to + i) * load(weights, at + i))


@cache
def ahead() -> Any:
    """The C function, void (*)(void *task), that takes heads, or parts of them, until none are left."""

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        real = np.float32
        n, m, depth, width = task.queries, task.keys, task.depth, task.width
        padded, groups, lines = whole(m, ROWS), -(-n // WIDE), whole(width + 1, ROWS)
        tangents, weights, products, sums, scored, changes, values, moved, _ = room_ahead(m, depth, width)
        space = pointer(task.workspace + claim(address, 1) * task.room, real)
        q, k = pointer(task.q, real), pointer(task.k, real)
        v, o = pointer(task.v, real), pointer(task.o, real)
        scale, known = pointer(task.scale, real), pointer(task.known, real)
        dq, dk = pointer(task.dq, real), pointer(task.dk, real)
        dv, out = pointer(task.dv, real), pointer(task.out, real)
        first = depth if task.dq else 0
        both = first + (depth if task.dk else 0)
        current = -1
        taken = claim(address, 0)
        while taken < task.parts * task.heads:
            head, part = divmod(taken, task.parts)
            own = head % task.known_heads
            batch, inner = divmod(head, task.inner)
            k_at, v_at, q_at = own * m * (depth + 1), own * m * (width + 1), own * n * (depth + 1)
            if head != current:
                current = head
                if not task.known:
                    _rows(k, k_at, depth + 1, 1, m, padded, depth + 1, space, scored, depth + 1)
                if task.dq:
                    _rows(k, k_at, depth + 1, 1, m, padded, depth, space, changes, both)
                if task.dk:
                    at = batch * task.dk_batch + inner * task.dk_head
                    step = task.dk_token, task.dk_feature
                    _rows(dk, at, step[0], step[1], m, padded, depth, space, changes + first, both)
                if both:
                    _turned(v, v_at, width + 1, 1, m, padded, width + 1, space, values)
                if task.dv:
                    at = batch * task.dv_batch + inner * task.dv_head
                    _turned(dv, at, task.dv_token, task.dv_feature, m, padded, width, space, moved)
            for group in range(groups * part // task.parts, groups * (part + 1) // task.parts):
                begin = group * WIDE
                count = min(WIDE, n - begin)
                here = q_at + begin * (depth + 1)
                if not task.known:
                    _lanes(q, here, depth + 1, 1, count, depth + 1, real(1), space, 0)
                if task.dq:
                    at = batch * task.dq_batch + inner * task.dq_head + begin * task.dq_token
                    s = scale[own]
                    _lanes(dq, at, task.dq_token, task.dq_feature, count, depth, s, space, tangents)
                if task.dk:
                    _lanes(q, here, depth + 1, 1, count, depth, real(1), space, tangents + first * WIDE)
                _fill(space, sums, lines * WIDE)
                for key in range(0, padded, KEYS):
                    rows = min(KEYS, padded - key)
                    P, P_at = space, weights
                    if task.known:
                        P, P_at = known, ((own * groups + group) * padded + key) * WIDE
                    else:
                        _weights(space, scored + key * (depth + 1), depth + 1, weights, rows, m - key)
                    if task.dv:
                        _sums(space, moved + key, padded, P, P_at, space, sums, whole(width, ROWS), rows)
                    if both:
                        _products(
                            space, changes + key * both, both, space, tangents, space, products, rows, both
                        )
                        _weighed(space, products, P, P_at, rows * WIDE)
                        _sums(space, values + key, padded, space, products, space, sums, lines, rows)
                at = batch * task.out_batch + inner * task.out_head + begin * task.out_token
                value = (own * n + begin) * width
                for i in range(count):
                    along = space[sums + width * WIDE + i]
                    for c in range(width):
                        total = space[sums + c * WIDE + i] - along * o[value + i * width + c]
                        out[at + i * task.out_token + c * task.out_feature] = total
            taken = claim(address, 0)

    return work


@cache
def back() -> Any:
    """The same for the transpose; of queries shared out, sums over them are given for each part."""

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        real = np.float32
        n, m, depth, width = task.queries, task.keys, task.depth, task.width
        padded, groups = whole(m, ROWS), -(-n // WIDE)
        deep, broad = whole(depth, LANES), whole(width, LANES)
        pulled, weights, products, sums, queries, outputs, of_keys, of_values, scored, values, turned, _ = (
            room_back(m, depth, width)
        )
        space = pointer(task.workspace + claim(address, 1) * task.room, real)
        q, k = pointer(task.q, real), pointer(task.k, real)
        v, o = pointer(task.v, real), pointer(task.o, real)
        scale, known = pointer(task.scale, real), pointer(task.known, real)
        dq, dk = pointer(task.dq, real), pointer(task.dk, real)
        dv, u = pointer(task.dv, real), pointer(task.out, real)
        both = task.dq or task.dk
        current = -1
        taken = claim(address, 0)
        while taken < task.parts * task.heads:
            head, part = divmod(taken, task.parts)
            own = head % task.known_heads
            batch, inner = divmod(head, task.inner)
            k_at, v_at, q_at = own * m * (depth + 1), own * m * (width + 1), own * n * (depth + 1)
            if head != current:
                current = head
                if not task.known:
                    _rows(k, k_at, depth + 1, 1, m, padded, depth + 1, space, scored, depth + 1)
                if both:
                    _rows(v, v_at, width + 1, 1, m, padded, width + 1, space, values, width + 1)
                if task.dq:
                    _turned(k, k_at, depth + 1, 1, m, padded, depth, space, turned)
            _fill(space, of_keys, scored - of_keys)
            for group in range(groups * part // task.parts, groups * (part + 1) // task.parts):
                begin = group * WIDE
                count = min(WIDE, n - begin)
                here = q_at + begin * (depth + 1)
                if not task.known:
                    _lanes(q, here, depth + 1, 1, count, depth + 1, real(1), space, 0)
                at = batch * task.out_batch + inner * task.out_head + begin * task.out_token
                if both:
                    _lanes(u, at, task.out_token, task.out_feature, count, width, real(1), space, pulled)
                    value = (own * n + begin) * width
                    _fill(space, pulled + width * WIDE, WIDE)
                    for i in range(count):
                        along = real(0)
                        for c in range(width):
                            along += space[pulled + c * WIDE + i] * o[value + i * width + c]
                        space[pulled + width * WIDE + i] = -along
                if task.dk:
                    _groups(q, here, depth + 1, 1, count, depth, space, queries)
                if task.dv:
                    _groups(u, at, task.out_token, task.out_feature, count, width, space, outputs)
                if task.dq:
                    _fill(space, sums, whole(depth, ROWS) * WIDE)
                for key in range(0, padded, KEYS):
                    rows = min(KEYS, padded - key)
                    P, P_at = space, weights
                    if task.known:
                        P, P_at = known, ((own * groups + group) * padded + key) * WIDE
                    else:
                        _weights(space, scored + key * (depth + 1), depth + 1, weights, rows, m - key)
                    if task.dv:
                        _onto(P, P_at, space, outputs, space, of_values + key * broad, rows, broad)
                    if both:
                        of_key = values + key * (width + 1)
                        _products(space, of_key, width + 1, space, pulled, space, products, rows, width + 1)
                        _weighed(space, products, P, P_at, rows * WIDE)
                    if task.dk:
                        _onto(space, products, space, queries, space, of_keys + key * deep, rows, deep)
                    if task.dq:
                        lines = whole(depth, ROWS)
                        _sums(space, turned + key, padded, space, products, space, sums, lines, rows)
                if task.dq:
                    at = batch * task.dq_batch + inner * task.dq_head + begin * task.dq_token
                    for i in range(count):
                        for c in range(depth):
                            value = scale[own] * space[sums + c * WIDE + i]
                            dq[at + i * task.dq_token + c * task.dq_feature] = value
            if task.dk:
                at = batch * task.dk_batch + inner * task.dk_head + part * task.dk_part
                _written(space, of_keys, deep, m, depth, dk, at, task.dk_token, task.dk_feature)
            if task.dv:
                at = batch * task.dv_batch + inner * task.dv_head + part * task.dv_part
                _written(space, of_values, broad, m, width, dv, at, task.dv_token, task.dv_feature)
            taken = claim(address, 0)

    return work
