"""GPU kernels of `skip_recurrence`; `ops/_triton_cells.py` says how they go about a step.

With `keep` every step is evaluated. Without, a step at which no sequence of a tile updates costs a
tile no product. On the way back, neither does such a step, nor one before it.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton_cells as shared
from longrnn.ops._triton_cells import (
    activate,
    add_product,
    candidates,
    differentiate,
    layer_at,
    load_gates,
    load_plane,
    pre_activations,
    sequences_of,
    side_by_side,
    store_gates,
    store_plane,
)
from longrnn.ops._triton_math import load_real, sigmoids, store_real
from longrnn.ops.candidates import input_gradient, weight_gradients
from longrnn.ops.skip_recurrence.cpu import allocate


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    update_prob: Tensor,
    accum_prob: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Run the stack; see `op.py` for what the arguments mean."""
    results = allocate(x, hidden, cells, keep)
    if lengths is not None:  # padded steps, which no program sees
        for result in results:
            result.zero_()
    p, depth = shared.plan(x, hidden, cu_seqlens, cell, dim), hidden.shape[0]
    inputs = (
        *(x, shared.pack(weights, p), weight_u, bias_u, hidden, cells, update_prob, accum_prob),
        *(masks, lengths, cu_seqlens),
    )
    if p.tiles:
        with torch.cuda.device_of(x):
            _forward_kernel[(p.tiles,)](
                *(None if t is None else t.contiguous() for t in inputs),
                *results,
                p.scratch(_PLANES * depth + _RESET_PLANES, x),
                *p.sizes,
                x.shape[:-1].numel(),
                KEEP=keep,
                DEPTH=depth,
                **p.options,
            )
    return results


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    hidden: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: Sequence[Tensor],
    cell: str,
    dim: int,
    needs_x: bool,
) -> list[Tensor]:
    """Gradients of x (empty if not needed), weights, weight_u, bias_u and the initial state."""
    gates, before, cells, inputs, gate = kept
    p, depth = shared.plan(x, hidden, cu_seqlens, cell, dim), hidden.shape[0]
    d = torch.zeros_like(gates)  # steps without an update stay so
    initial = [hidden.new_empty(hidden.shape) for _ in range(2 if cell == "lstm" else 1)]
    scalars = [gate.new_empty(hidden.shape[1], 1) for _ in range(2)]
    by_weight_u = gate.new_zeros(p.tiles, p.n)
    by_bias_u = gate.new_zeros(p.tiles)
    incoming = (shared.pack(weights, p), weight_u, masks, lengths, cu_seqlens, *grads)
    if p.tiles:
        with torch.cuda.device_of(x):
            _backward_kernel[(p.tiles,)](
                *(None if t is None else t.contiguous() for t in incoming),
                *(gates, before, cells, gate, d),
                *(*initial, *([None] * (2 - len(initial))), *scalars, by_weight_u, by_bias_u),
                p.scratch(_BACKWARD_PLANES * depth + 1, x),
                *p.sizes,
                x.shape[:-1].numel(),
                DEPTH=depth,
                **p.options,
            )
    d = d.flatten(1, -2)
    of_weights: list[Tensor] = []
    for k in range(depth):
        features = inputs[k - 1] if k else shared.zero_padding(x, lengths, dim)
        states = [before[k]]
        if cell == "gru-reset-before":
            states.append(gates[k].chunk(4, -1)[1] * before[k])
        seen = torch.cat([*states, features, torch.ones_like(features[..., :1])], -1)
        of_weights += weight_gradients(cell, d[k], seen.flatten(0, -2), features.shape[-1])
    by_x = input_gradient(cell, d[0], weights[0]).view(x.shape) if needs_x else x.new_empty(0)
    by_gate = [by_weight_u.sum(0, keepdim=True)[:, : hidden.shape[-1]], by_bias_u.sum().reshape(1)]
    return [by_x, *of_weights, by_gate[0].contiguous(), by_gate[1], *initial, *scalars]


# Planes of ROWS x N in scratch memory. Forward: h twice, c, and the input of a layer; a cell that
# resets before adds pre-activations and r h, which layers share. Backward: gradients of h and c,
# and twice of pre-activations; and those of a resetting candidate.
_PLANES, _RESET_PLANES = tl.constexpr(4), tl.constexpr(5)
_BACKWARD_PLANES = tl.constexpr(10)


@triton.jit
def _forward_kernel(
    x_ptr,
    packed_ptr,
    weight_u_ptr,
    bias_u_ptr,
    hidden_ptr,
    cells_ptr,
    prob_ptr,
    accum_ptr,
    masks_ptr,
    lengths_ptr,
    ends_ptr,
    output_ptr,
    updates_ptr,
    last_hidden_ptr,
    last_cells_ptr,
    last_prob_ptr,
    last_accum_ptr,
    gates_ptr,
    kept_hidden_ptr,
    kept_cells_ptr,
    inputs_ptr,
    gate_ptr,
    scratch_ptr,
    count,
    T,
    n,
    m,
    step,
    apart,
    total,
    KEEP: tl.constexpr,
    DEPTH: tl.constexpr,
    CELL: tl.constexpr,
    CARRY: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    PLANE: tl.constexpr = ROWS * N
    tile = tl.program_id(0)
    s, there, first, steps = sequences_of(tile, count, T, step, apart, lengths_ptr, ends_ptr, ROWS)
    scratch = scratch_ptr + tile.to(tl.int64) * ((_PLANES * DEPTH + _RESET_PLANES) * PLANE)
    for layer in tl.static_range(DEPTH):
        to = scratch + _PLANES * layer * PLANE
        rows = layer * count + s
        load_plane(to, hidden_ptr, rows, there, n, CARRY, ROWS, UNITS, N)
        if CELL == "lstm":
            load_plane(to + 2 * PLANE, cells_ptr, rows, there, n, CARRY, ROWS, UNITS, N)
    tl.debug_barrier()
    prob = load_real(prob_ptr, s, there, CARRY)
    accum = load_real(accum_ptr, s, there, CARRY)
    bias_u = tl.load(bias_u_ptr)
    parity = 0  # which plane holds h
    for t in range(0, tl.max(steps)):
        live = t < steps
        row = first + t * step
        accumulated = accum + tl.where(prob <= 1.0 - accum, prob, 1.0 - accum)
        update = (accumulated > 0.5) & live  # a tie skips
        tl.store(updates_ptr + row, update.to(CARRY), mask=live)
        worth = update
        if KEEP:
            worth = live
            tl.store(gate_ptr + 4 * row, prob, mask=live)
            tl.store(gate_ptr + 4 * row + 1, accum, mask=live)
            tl.store(gate_ptr + 4 * row + 2, accumulated, mask=live)
        if tl.max(worth.to(tl.int32)) > 0:
            new_prob = prob
            for layer in tl.static_range(DEPTH):
                along = _evaluate(
                    *(x_ptr, packed_ptr, weight_u_ptr, masks_ptr, output_ptr, gates_ptr),
                    *(kept_hidden_ptr, kept_cells_ptr, inputs_ptr, scratch, row, live, update),
                    *(parity, n, m, total, layer, KEEP, DEPTH, CELL, CARRY, PRECISION),
                    *(ROWS, UNITS, CHUNK, N, M),
                )
                tl.debug_barrier()
                if layer == DEPTH - 1:
                    new_prob, _ = sigmoids(along + bias_u)
            if KEEP:
                tl.store(gate_ptr + 4 * row + 3, new_prob, mask=live)
            prob = tl.where(update, new_prob, prob)
            parity = 1 - parity
        else:
            top = scratch + (_PLANES * (DEPTH - 1) + parity) * PLANE
            store_plane(output_ptr, top, row, live, n, ROWS, UNITS, N)
        accum = tl.where(update, 0.0, tl.where(live, accumulated, accum))
    for layer in tl.static_range(DEPTH):
        state = scratch + _PLANES * layer * PLANE
        rows = layer * count + s
        store_plane(last_hidden_ptr, state + parity * PLANE, rows, there, n, ROWS, UNITS, N)
        if CELL == "lstm":
            store_plane(last_cells_ptr, state + 2 * PLANE, rows, there, n, ROWS, UNITS, N)
    tl.store(last_prob_ptr + s, prob, mask=there)
    tl.store(last_accum_ptr + s, accum, mask=there)


@triton.jit
def _evaluate(
    x_ptr,
    packed_ptr,
    weight_u_ptr,
    masks_ptr,
    output_ptr,
    gates_ptr,
    kept_hidden_ptr,
    kept_cells_ptr,
    inputs_ptr,
    scratch,
    row,
    live,
    update,
    parity,
    n,
    m,
    total,
    LAYER: tl.constexpr,
    KEEP: tl.constexpr,
    DEPTH: tl.constexpr,
    CELL: tl.constexpr,
    CARRY: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    """One layer's step; returns what the gate's weights make of the candidate."""
    PLANE: tl.constexpr = ROWS * N
    WIDTH: tl.constexpr = N if LAYER > 0 else M
    by_h, by_x, by_reset, bias = layer_at(packed_ptr, LAYER, CELL, N, M)
    layer = scratch + _PLANES * LAYER * PLANE
    in_plane = tl.arange(0, ROWS) * N
    states = layer + parity * PLANE + in_plane
    if LAYER > 0:
        features = layer + 3 * PLANE + in_plane
        width = n
    else:
        features = x_ptr + row * m
        width = m
    reset = scratch + _PLANES * DEPTH * PLANE  # four pre-activations, and r h
    if CELL == "gru-reset-before":
        for j in range(0, N, UNITS):
            g0, g1, g2, g3 = pre_activations(
                *(states, features, live, width, by_h, by_x, bias, j),
                *(WIDTH, CARRY, PRECISION, ROWS, UNITS, CHUNK, N),
            )
            mine = in_plane[:, None] + (j + tl.arange(0, UNITS))[None, :]
            r, _ = sigmoids(g1)
            tl.store(reset + mine, g0)
            tl.store(reset + PLANE + mine, r)
            tl.store(reset + 2 * PLANE + mine, g2)
            tl.store(reset + 3 * PLANE + mine, g3)
            tl.store(reset + 4 * PLANE + mine, r * tl.load(layer + parity * PLANE + mine))
        tl.debug_barrier()
    along = tl.zeros((ROWS,), CARRY)
    for j in range(0, N, UNITS):
        unit = j + tl.arange(0, UNITS)
        mine = in_plane[:, None] + unit[None, :]
        if CELL == "gru-reset-before":
            g0 = tl.load(reset + mine)
            g1 = tl.load(reset + PLANE + mine)
            g2 = tl.load(reset + 2 * PLANE + mine)
            g3 = add_product(
                *(tl.load(reset + 3 * PLANE + mine), reset + 4 * PLANE + in_plane, live, N),
                *(by_reset + unit * N, 1, N, CHUNK, PRECISION),
            )
        else:
            g0, g1, g2, g3 = pre_activations(
                *(states, features, live, width, by_h, by_x, bias, j),
                *(WIDTH, CARRY, PRECISION, ROWS, UNITS, CHUNK, N),
            )
        g0, g1, g2, g3 = activate(g0, g1, g2, g3, CELL)
        h = tl.load(layer + parity * PLANE + mine)
        c = h
        if CELL == "lstm":
            c = tl.load(layer + 2 * PLANE + mine)
        new_h, new_c = candidates(g0, g1, g2, g3, h, c, CELL)
        inside = live[:, None] & (unit < n)[None, :]
        at = ((LAYER * total + row) * n)[:, None] + unit[None, :]
        if KEEP:
            store_gates(gates_ptr, g0, g1, g2, g3, LAYER * total + row, unit, n, inside)
            store_real(kept_hidden_ptr, at, h, inside)
            if CELL == "lstm":
                store_real(kept_cells_ptr, at, c, inside)
        after = tl.where(update[:, None], new_h, h)
        tl.store(layer + (1 - parity) * PLANE + mine, after)
        if CELL == "lstm":
            tl.store(layer + 2 * PLANE + mine, tl.where(update[:, None], new_c, c))
        if LAYER == DEPTH - 1:
            weight_u = tl.load(weight_u_ptr + unit, mask=unit < n, other=0.0)
            along += tl.sum(new_c * weight_u[None, :], axis=1)
            store_real(output_ptr, (row * n)[:, None] + unit[None, :], after, inside)
        else:
            if masks_ptr is not None:
                new_h *= load_real(masks_ptr, at, inside, CARRY)
            tl.store(layer + (_PLANES + 3) * PLANE + mine, new_h)
            if KEEP:
                store_real(inputs_ptr, at, new_h, inside)
    return along


@triton.jit
def _backward_kernel(
    packed_ptr,
    weight_u_ptr,
    masks_ptr,
    lengths_ptr,
    ends_ptr,
    grad_output_ptr,
    grad_updates_ptr,
    grad_hidden_ptr,
    grad_cells_ptr,
    grad_prob_ptr,
    grad_accum_ptr,
    gates_ptr,
    before_ptr,
    cells_ptr,
    gate_ptr,
    d_ptr,
    initial_hidden_ptr,
    initial_cells_ptr,
    initial_prob_ptr,
    initial_accum_ptr,
    by_weight_u_ptr,
    by_bias_u_ptr,
    scratch_ptr,
    count,
    T,
    n,
    m,
    step,
    apart,
    total,
    DEPTH: tl.constexpr,
    CELL: tl.constexpr,
    CARRY: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    PLANE: tl.constexpr = ROWS * N
    tile = tl.program_id(0)
    s, there, first, steps = sequences_of(tile, count, T, step, apart, lengths_ptr, ends_ptr, ROWS)
    scratch = scratch_ptr + tile.to(tl.int64) * ((_BACKWARD_PLANES * DEPTH + 1) * PLANE)
    by_weight_u = by_weight_u_ptr + tile.to(tl.int64) * N
    in_plane = tl.arange(0, ROWS) * N
    for layer in tl.static_range(DEPTH):
        to = scratch + _BACKWARD_PLANES * layer * PLANE
        rows = layer * count + s
        load_plane(to, grad_hidden_ptr, rows, there, n, CARRY, ROWS, UNITS, N)
        load_plane(to + PLANE, grad_cells_ptr, rows, there, n, CARRY, ROWS, UNITS, N)
    tl.debug_barrier()
    grad_prob = tl.zeros((ROWS,), CARRY)
    grad_accum = grad_prob
    if grad_prob_ptr is not None:
        grad_prob = tl.load(grad_prob_ptr + s, mask=there, other=0.0)
    if grad_accum_ptr is not None:
        grad_accum = tl.load(grad_accum_ptr + s, mask=there, other=0.0)
    by_bias_u = tl.zeros((ROWS,), CARRY)
    parity = 0  # which planes hold the last gradients of pre-activations
    pending = 0  # whether the gradients of h still lack their products
    stop = tl.max(steps)
    for i in range(0, stop):
        t = stop - 1 - i
        live = t < steps
        row = first + t * step
        prob = tl.load(gate_ptr + 4 * row, mask=live, other=0.0)
        accum = tl.load(gate_ptr + 4 * row + 1, mask=live, other=0.0)
        accumulated = tl.load(gate_ptr + 4 * row + 2, mask=live, other=0.0)
        new_prob = tl.load(gate_ptr + 4 * row + 3, mask=live, other=0.0)
        update = accumulated > 0.5
        busy = tl.max(update.to(tl.int32))
        logit = tl.where(update, grad_prob * new_prob * (1.0 - new_prob), 0.0)
        by_bias_u += logit
        change = tl.zeros((ROWS,), CARRY)  # in the loss, if the state were the candidate
        for below_top in tl.static_range(DEPTH):
            change += _differentiate_layer(
                *(packed_ptr, weight_u_ptr, masks_ptr, grad_output_ptr, gates_ptr, before_ptr),
                *(cells_ptr, d_ptr, by_weight_u, scratch, row, live, update, logit),
                *(parity, pending, busy, n, total, DEPTH - 1 - below_top, DEPTH, CELL),
                *(CARRY, PRECISION, ROWS, UNITS, CHUNK, N, M),
            )
            tl.debug_barrier()
        grad = change + grad_prob * (new_prob - prob) - grad_accum * accumulated
        if grad_updates_ptr is not None:
            grad += tl.load(grad_updates_ptr + row, mask=live, other=0.0)
        grad += tl.where(update, 0.0, grad_accum)
        rises = prob <= 1.0 - accum  # by p, and not by what is left to 1
        grad_prob = tl.where(
            live, tl.where(update, 0.0, grad_prob) + tl.where(rises, grad, 0.0), grad_prob
        )
        grad_accum = tl.where(live, tl.where(rises, grad, 0.0), grad_accum)
        parity = 1 - parity
        pending = busy
    for layer in tl.static_range(DEPTH):
        by_h, _x, _r, _b = layer_at(packed_ptr, layer, CELL, N, M)
        state = scratch + _BACKWARD_PLANES * layer * PLANE
        for j in range(0, N, UNITS):
            unit = j + tl.arange(0, UNITS)
            inside = there[:, None] & (unit < n)[None, :]
            at = ((layer * count + s) * n)[:, None] + unit[None, :]
            mine = in_plane[:, None] + unit[None, :]
            gh = tl.load(state + mine)
            if pending > 0:
                gh = add_product(
                    *(gh, state + (2 + 4 * parity) * PLANE + 4 * in_plane, there, 4 * N),
                    *(by_h + unit, N, 4 * N, CHUNK, PRECISION),
                )
            store_real(initial_hidden_ptr, at, gh, inside)
        if CELL == "lstm":
            rows = layer * count + s
            store_plane(initial_cells_ptr, state + PLANE, rows, there, n, ROWS, UNITS, N)
    tl.store(initial_prob_ptr + s, grad_prob, mask=there)
    tl.store(initial_accum_ptr + s, grad_accum, mask=there)
    tl.store(by_bias_u_ptr + tile, tl.sum(by_bias_u))


@triton.jit
def _differentiate_layer(
    packed_ptr,
    weight_u_ptr,
    masks_ptr,
    grad_output_ptr,
    gates_ptr,
    before_ptr,
    cells_ptr,
    d_ptr,
    by_weight_u,
    scratch,
    row,
    live,
    update,
    logit,
    parity,
    pending,
    busy,
    n,
    total,
    LAYER: tl.constexpr,
    DEPTH: tl.constexpr,
    CELL: tl.constexpr,
    CARRY: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    """One layer's step; returns what the loss would change by if its state were the candidate."""
    PLANE: tl.constexpr = ROWS * N
    by_h, _x, by_reset, _b = layer_at(packed_ptr, LAYER, CELL, N, M)
    layer = scratch + _BACKWARD_PLANES * LAYER * PLANE
    in_plane = tl.arange(0, ROWS) * N
    old = layer + (2 + 4 * parity) * PLANE  # gradients of pre-activations: of the step after
    new = layer + (6 - 4 * parity) * PLANE  # and of this one
    reset = scratch + _BACKWARD_PLANES * DEPTH * PLANE
    change = tl.zeros((ROWS,), CARRY)
    everyone = row == row
    for j in range(0, N, UNITS):
        unit = j + tl.arange(0, UNITS)
        inside = live[:, None] & (unit < n)[None, :]
        mine = in_plane[:, None] + unit[None, :]
        at = ((LAYER * total + row) * n)[:, None] + unit[None, :]
        gh = tl.load(layer + mine)
        gc = tl.load(layer + PLANE + mine)
        if pending > 0:
            gh = add_product(
                *(gh, old + 4 * in_plane, everyone, 4 * N),
                *(by_h + unit, N, 4 * N, CHUNK, PRECISION),
            )
        if LAYER == DEPTH - 1 and grad_output_ptr is not None:
            output_at = (row * n)[:, None] + unit[None, :]
            gh += load_real(grad_output_ptr, output_at, inside, CARRY)
        g0, g1, g2, g3 = load_gates(gates_ptr, LAYER * total + row, unit, n, inside, CARRY)
        h = load_real(before_ptr, at, inside, CARRY)
        c = h
        if CELL == "lstm":
            c = load_real(cells_ptr, at, inside, CARRY)
        new_h, new_c = candidates(g0, g1, g2, g3, h, c, CELL)
        gain = gh * (new_h - h)
        if CELL == "lstm":
            gain += gc * (new_c - c)
        change += tl.sum(tl.where(inside, gain, 0.0), axis=1)
        if busy > 0:
            to_h = gh
            to_c = gc
            if LAYER == DEPTH - 1:
                weight_u = tl.load(weight_u_ptr + unit, mask=unit < n, other=0.0)
                grown = tl.sum(logit[:, None] * new_c, axis=0)
                tl.store(by_weight_u + unit, tl.load(by_weight_u + unit) + grown)
                if CELL == "lstm":
                    to_c += logit[:, None] * weight_u[None, :]
                else:
                    to_h += logit[:, None] * weight_u[None, :]
            else:
                _h, above_by_x, _r, _b = layer_at(packed_ptr, LAYER + 1, CELL, N, M)
                above = add_product(
                    tl.zeros((ROWS, UNITS), CARRY),
                    *(new + _BACKWARD_PLANES * PLANE + 4 * in_plane, everyone, 4 * N),
                    *(above_by_x + unit, N, 4 * N, CHUNK, PRECISION),
                )
                if masks_ptr is not None:
                    above *= load_real(masks_ptr, at, inside, CARRY)
                to_h += above
            d0, d1, d2, d3, dh, dc = differentiate(g0, g1, g2, g3, h, c, to_h, to_c, CELL)
            taken = update[:, None] & (unit < n)[None, :]
            d0 = tl.where(taken, d0, 0.0)
            d1 = tl.where(taken, d1, 0.0)
            d2 = tl.where(taken, d2, 0.0)
            d3 = tl.where(taken, d3, 0.0)
            column = 4 * j + tl.arange(0, 4 * UNITS)
            tl.store(
                new + 4 * in_plane[:, None] + column[None, :],
                side_by_side(d0, d1, d2, d3, 4 * UNITS),
            )
            if CELL == "gru-reset-before":
                tl.store(reset + mine, d3)
            store_gates(d_ptr, d0, d1, d2, d3, LAYER * total + row, unit, n, taken)
            gh = tl.where(update[:, None], dh, gh)
            gc = tl.where(update[:, None], dc, gc)
        tl.store(layer + mine, gh)
        tl.store(layer + PLANE + mine, gc)
    if CELL == "gru-reset-before" and busy > 0:
        tl.debug_barrier()
        for j in range(0, N, UNITS):
            unit = j + tl.arange(0, UNITS)
            taken = update[:, None] & (unit < n)[None, :]
            mine = in_plane[:, None] + unit[None, :]
            at = ((LAYER * total + row) * n)[:, None] + unit[None, :]
            gate_at = ((LAYER * total + row) * (4 * n))[:, None] + unit[None, :]
            grad = add_product(  # of r h
                *(tl.zeros((ROWS, UNITS), CARRY), reset + in_plane, everyone, N),
                *(by_reset + unit, N, N, CHUNK, PRECISION),
            )
            r = load_real(gates_ptr, gate_at + n, taken, CARRY)
            h = load_real(before_ptr, at, taken, CARRY)
            d1 = grad * h * r * (1.0 - r)
            tl.store(new + 4 * mine + 1, d1)
            store_real(d_ptr, gate_at + n, d1, taken)
            tl.store(layer + mine, tl.load(layer + mine) + grad * r)
    return change
