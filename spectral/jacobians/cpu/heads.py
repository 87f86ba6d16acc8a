"""The compiled part of `attention`: heads by blocks of keys, two vectors of queries at a time.

Scores and weights are transposes, keys by queries: so they come out of `panel`, with queries in lanes, and so
they go into the next one, as columns.  The last queries go by one vector, where they fill no more.  A worker
has the matrices of one head in its own room, padded to whole panels; weights and scores of a block stay in a
core's first cache.
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
    narrow,
    narrow_onto,
    panel,
    panel_onto,
    pointer,
    store,
    turn,
    whole,
)
from spectral.kernels.compiled import cfunc, njit

LANES = BYTES // 4
WIDE = 2 * LANES  # queries at a time


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
def _scaled(target, to, count, scale):  # type: ignore[no-untyped-def]
    for i in range(to, to + count):
        target[i] *= scale


@njit()
def _copied(source, at, row, column, rows, columns, target, to, down, along):  # type: ignore[no-untyped-def]
    """target[to + i down + j along] = source[at + i row + j column]."""
    if column == 1 and down == 1:
        row, column, rows, columns, down, along = column, row, columns, rows, along, down
    if column == 1 and along == 1:
        for i in range(rows):
            for j in range(columns):
                target[to + i * down + j] = source[at + i * row + j]
        return
    high, wide = 0, 0  # what is turned over in squares of lanes
    if row == 1 and along == 1:
        high, wide = rows // LANES * LANES, columns // LANES * LANES
        for i in range(0, high, LANES):
            for j in range(0, wide, LANES):
                turn(source, at + i + j * column, column, target, to + i * down + j, down)
    for i in range(rows):
        for j in range(wide if i < high else 0, columns):
            target[to + i * down + j * along] = source[at + i * row + j * column]


@njit()
def _lanes(source, at, token, feature, count, wide, depth, target, to):  # type: ignore[no-untyped-def]
    """Up to `wide` tokens side by side, a feature a row; zeros beside them."""
    _copied(source, at, feature, token, depth, count, target, to, wide, 1)
    if count < wide:
        for c in range(depth):
            _fill(target, to + c * wide + count, wide - count)


@njit()
def _rows(source, at, token, feature, count, padded, depth, target, to, step):  # type: ignore[no-untyped-def]
    """Tokens below each other, rows `step` apart; zeros below them."""
    _copied(source, at, token, feature, count, depth, target, to, step, 1)
    for j in range(count, padded):
        _fill(target, to + j * step, depth)


@njit()
def _turned(source, at, token, feature, count, padded, depth, target, to):  # type: ignore[no-untyped-def]
    """The transpose: a feature a row, of which there are whole panels."""
    _lanes(source, at, token, feature, count, padded, depth, target, to)
    _fill(target, to + depth * padded, (whole(depth, ROWS) - depth) * padded)


@njit()
def _groups(source, at, token, feature, count, wide, depth, target, to):  # type: ignore[no-untyped-def]
    """Up to `wide` tokens below each other, WIDE features at a time, then LANES; zeros beside them."""
    deep = whole(depth, LANES)
    _fill(target, to, deep * wide)
    for first in range(0, deep, WIDE):
        step = min(WIDE, deep - first)
        here, there, most = at + first * feature, to + first * wide, min(step, depth - first)
        _copied(source, here, token, feature, count, most, target, there, step, 1)


def _multiplied(adds: bool) -> Any:
    """A function for L R, or O + L R where it `adds`: whole panels of rows, WIDE or LANES columns."""

    @njit()
    def rows_of(left, at, step, right, columns, out, to, rows, depth, wide):  # type: ignore[no-untyped-def]
        for r in range(0, rows, ROWS):
            if adds and wide == WIDE:
                panel_onto(left, at + r * step, step, right, columns, out, to + r * WIDE, depth, WIDE)
            elif adds:
                narrow_onto(left, at + r * step, step, right, columns, out, to + r * LANES, depth, LANES)
            elif wide == WIDE:
                panel(left, at + r * step, step, right, columns, out, to + r * WIDE, depth, WIDE)
            else:
                narrow(left, at + r * step, step, right, columns, out, to + r * LANES, depth, LANES)

    return rows_of


_products, _sums = _multiplied(adds=False), _multiplied(adds=True)


@njit()
def _onto(left, at, right, columns, out, to, rows, deep, wide):  # type: ignore[no-untyped-def]
    """O + L R for panels of `wide` queries; the columns of R come as `_groups` has them."""
    pairs = deep // WIDE * WIDE
    for r in range(0, rows, ROWS):
        for c in range(0, pairs, WIDE):
            from_column, into = columns + c * wide, to + r * deep + c
            panel_onto(left, at + r * wide, wide, right, from_column, out, into, wide, deep)
        if pairs < deep:
            from_column, into = columns + pairs * wide, to + r * deep + pairs
            narrow_onto(left, at + r * wide, wide, right, from_column, out, into, wide, deep)


@njit()
def _weights(out, keys, depth, to, rows, seen, wide):  # type: ignore[no-untyped-def]
    """exp of keys times the queries, which come first, and zeros below the rows that are `seen`."""
    _products(out, keys, depth, out, 0, out, to, rows, depth, wide)
    for i in range(to, to + min(rows, seen) * wide, LANES):
        store(out, i, exponential(load(out, i)))
    if seen < rows:
        _fill(out, to + seen * wide, (rows - seen) * wide)


@njit()
def _less(out, at, token, feature, rates, to, o, value, count, width):  # type: ignore[no-untyped-def]
    """The outputs o of each token, at its rate, taken from what is there."""
    for i in range(count):
        rate, here, row = rates[to + i], at + i * token, value + i * width
        if feature == 1:
            for c in range(width):
                out[here + c] -= rate * o[row + c]
        else:
            for c in range(width):
                out[here + c * feature] -= rate * o[row + c]


@njit()
def _weighed(out, to, weights, at, count):  # type: ignore[no-untyped-def]
    """Products times weights, in place."""
    for i in range(0, count, LANES):
        store(out, to + i, load(out, to + i) * load(weights, at + i))


@register_jitable
def _pointers(task):  # type: ignore[no-untyped-def]
    """q, k, v, o, scale, known, dq, dk, dv and out of a `TASK`."""
    real = np.float32
    q, k = pointer(task.q, real), pointer(task.k, real)
    v, o = pointer(task.v, real), pointer(task.o, real)
    scale, known = pointer(task.scale, real), pointer(task.known, real)
    dq, dk = pointer(task.dq, real), pointer(task.dk, real)
    dv, out = pointer(task.dv, real), pointer(task.out, real)
    return q, k, v, o, scale, known, dq, dk, dv, out


@cache
def ahead() -> Any:
    """The C function, void (*)(void *task), that takes heads, or parts of them, until none are left."""

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        n, m, depth, width = task.queries, task.keys, task.depth, task.width
        padded, groups, lines = whole(m, ROWS), -(-n // WIDE), whole(width + 1, ROWS)
        tangents, weights, products, sums, scored, changes, values, moved, _ = room_ahead(m, depth, width)
        space = pointer(task.workspace + claim(address, 1) * task.room, np.float32)
        q, k, v, o, scale, known, dq, dk, dv, out = _pointers(task)
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
                wide = WIDE if count > LANES else LANES
                here = q_at + begin * (depth + 1)
                if not task.known:
                    _lanes(q, here, depth + 1, 1, count, wide, depth + 1, space, 0)
                if task.dq:
                    at = batch * task.dq_batch + inner * task.dq_head + begin * task.dq_token
                    _lanes(dq, at, task.dq_token, task.dq_feature, count, wide, depth, space, tangents)
                    _scaled(space, tangents, depth * wide, scale[own])
                if task.dk:
                    _lanes(q, here, depth + 1, 1, count, wide, depth, space, tangents + first * wide)
                _fill(space, sums, lines * wide)
                for key in range(0, padded, KEYS):
                    rows = min(KEYS, padded - key)
                    P, P_at = space, weights
                    if task.known:
                        P, P_at = known, (own * groups + group) * padded * WIDE + key * wide
                    else:
                        _weights(space, scored + key * (depth + 1), depth + 1, weights, rows, m - key, wide)
                    if task.dv:
                        below = whole(width, ROWS)
                        _sums(space, moved + key, padded, P, P_at, space, sums, below, rows, wide)
                    if both:
                        of_key = changes + key * both
                        _products(space, of_key, both, space, tangents, space, products, rows, both, wide)
                        _weighed(space, products, P, P_at, rows * wide)
                        _sums(space, values + key, padded, space, products, space, sums, lines, rows, wide)
                at = batch * task.out_batch + inner * task.out_head + begin * task.out_token
                value = (own * n + begin) * width
                step = task.out_token, task.out_feature
                _copied(space, sums, 1, wide, count, width, out, at, step[0], step[1])
                if both:
                    _less(out, at, step[0], step[1], space, sums + width * wide, o, value, count, width)
            taken = claim(address, 0)

    return work


@cache
def back() -> Any:
    """The same for the transpose; of queries shared out, sums over them are given for each part."""

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        n, m, depth, width = task.queries, task.keys, task.depth, task.width
        padded, groups = whole(m, ROWS), -(-n // WIDE)
        deep, broad = whole(depth, LANES), whole(width, LANES)
        pulled, weights, products, sums, queries, outputs, of_keys, of_values, scored, values, turned, _ = (
            room_back(m, depth, width)
        )
        space = pointer(task.workspace + claim(address, 1) * task.room, np.float32)
        q, k, v, o, scale, known, dq, dk, dv, u = _pointers(task)
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
                wide = WIDE if count > LANES else LANES
                here = q_at + begin * (depth + 1)
                if not task.known:
                    _lanes(q, here, depth + 1, 1, count, wide, depth + 1, space, 0)
                at = batch * task.out_batch + inner * task.out_head + begin * task.out_token
                if both:
                    _lanes(u, at, task.out_token, task.out_feature, count, wide, width, space, pulled)
                    value = (own * n + begin) * width
                    _lanes(o, value, width, 1, count, wide, width, space, products)
                    _fill(space, pulled + width * wide, wide)
                    for c in range(width):
                        for i in range(wide):
                            along = space[pulled + c * wide + i] * space[products + c * wide + i]
                            space[pulled + width * wide + i] -= along
                if task.dk:
                    _groups(q, here, depth + 1, 1, count, wide, depth, space, queries)
                if task.dv:
                    _groups(u, at, task.out_token, task.out_feature, count, wide, width, space, outputs)
                if task.dq:
                    _fill(space, sums, whole(depth, ROWS) * wide)
                for key in range(0, padded, KEYS):
                    rows = min(KEYS, padded - key)
                    P, P_at = space, weights
                    if task.known:
                        P, P_at = known, (own * groups + group) * padded * WIDE + key * wide
                    else:
                        _weights(space, scored + key * (depth + 1), depth + 1, weights, rows, m - key, wide)
                    if task.dv:
                        _onto(P, P_at, space, outputs, space, of_values + key * broad, rows, broad, wide)
                    if both:
                        of_key, tall = values + key * (width + 1), width + 1
                        _products(space, of_key, tall, space, pulled, space, products, rows, tall, wide)
                        _weighed(space, products, P, P_at, rows * wide)
                    if task.dk:
                        _onto(space, products, space, queries, space, of_keys + key * deep, rows, deep, wide)
                    if task.dq:
                        lines = whole(depth, ROWS)
                        _sums(space, turned + key, padded, space, products, space, sums, lines, rows, wide)
                if task.dq:
                    at = batch * task.dq_batch + inner * task.dq_head + begin * task.dq_token
                    step = task.dq_token, task.dq_feature
                    _scaled(space, sums, depth * wide, scale[own])
                    _copied(space, sums, 1, wide, count, depth, dq, at, step[0], step[1])
            if task.dk:
                at = batch * task.dk_batch + inner * task.dk_head + part * task.dk_part
                _copied(space, of_keys, deep, 1, m, depth, dk, at, task.dk_token, task.dk_feature)
            if task.dv:
                at = batch * task.dv_batch + inner * task.dv_head + part * task.dv_part
                _copied(space, of_values, broad, 1, m, width, dv, at, task.dv_token, task.dv_feature)
            taken = claim(address, 0)

    return work
