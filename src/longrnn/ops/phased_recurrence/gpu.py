"""GPU kernels of `phased_recurrence`; `ops/_triton_cells.py` says how they go about a step.

Phases are computed in float64, for every unit and step. With `keep` or a leak every unit is
evaluated. Without, a block of units that are closed in all sequences of a tile costs no product.
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
from longrnn.ops._triton_math import load_real, store_real, tanh
from longrnn.ops.candidates import input_gradient, weight_gradients
from longrnn.ops.phased_recurrence.cpu import allocate
from longrnn.ops.time_gate.gpu import clock


def forward(
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    leak: float,
    dim: int,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Run the layer; see `op.py` for what the arguments mean."""
    results = output, last_hidden, last_cells, gates, seen, kept_cells = allocate(
        x, hidden, cells, keep
    )
    if lengths is not None:  # padded steps, which no program sees
        for result in results:
            result.zero_()
    n = hidden.shape[-1]
    if keep:
        seen[..., n:-1] = shared.zero_padding(x, lengths, dim)
        seen[..., -1] = 1
    p = shared.plan(x, hidden, cu_seqlens, cell, dim)
    inputs = (
        *(x, times, shared.pack([weight_ih, weight_hh, bias], p), peephole, period, shift),
        *(on_ratio, hidden, cells, lengths, cu_seqlens),
    )
    if p.tiles:
        with torch.cuda.device_of(x):
            _forward_kernel[(p.tiles,)](
                *(None if t is None else t.contiguous() for t in inputs),
                *(output, last_hidden, last_cells, gates, seen, kept_cells),
                p.scratch(_PLANES, x),
                *p.sizes,
                KEEP=keep,
                LEAK=float(leak),
                REVERSE=reverse,
                **p.options,
            )
    return results


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: Sequence[Tensor],
    cell: str,
    leak: float,
    dim: int,
    reverse: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients in the order of the tensors above, but for those that are None."""
    gates, seen, _ = kept
    p = shared.plan(x, hidden, cu_seqlens, cell, dim)
    n, padded = hidden.shape[-1], lengths is not None
    d = torch.zeros_like(gates) if padded else torch.empty_like(gates)
    by_times = torch.zeros_like(times) if padded else times.new_empty(times.shape)
    by_hidden = hidden.new_empty(hidden.shape)
    by_cells = None if cells is None else cells.new_empty(cells.shape)
    sums = period.new_zeros(p.tiles, 6, p.n)
    inputs = (
        *(times, shared.pack([weight_ih, weight_hh, bias], p), peephole, period, shift, on_ratio),
        *(lengths, cu_seqlens, *kept, *grads),
    )
    if p.tiles:
        with torch.cuda.device_of(x):
            _backward_kernel[(p.tiles,)](
                *(None if t is None else t.contiguous() for t in inputs),
                *(d, by_times, by_hidden, by_cells, sums),
                p.scratch(_BACKWARD_PLANES, x),
                *p.sizes,
                LEAK=float(leak),
                REVERSE=reverse,
                **p.options,
            )
    d, seen, sums = d.flatten(0, -2), seen.flatten(0, -2), sums.sum(0)[:, :n]
    by_ih, by_hh, by_bias = weight_gradients(cell, d, seen, x.shape[-1])
    by_x = input_gradient(cell, d, weight_ih).view(x.shape) if needs[0] else torch.zeros_like(x)
    results = [
        *(by_x, by_times, by_ih, by_hh, by_bias),
        *(None if peephole is None else sums[:3].clone(), *(row.clone() for row in sums[3:])),
        *(by_hidden, by_cells),
    ]
    return [gradient for gradient in results if gradient is not None]


# Planes of ROWS x N in scratch memory. Forward: h twice, and c. Backward: gradients of h and c, and
# twice of pre-activations.
_PLANES, _BACKWARD_PLANES = tl.constexpr(3), tl.constexpr(10)


@triton.jit
def _peepholes(peephole_ptr, unit, n):
    """Those of i, f and o."""
    there = unit < n
    w0 = tl.load(peephole_ptr + unit, mask=there, other=0.0)[None, :]
    w1 = tl.load(peephole_ptr + n + unit, mask=there, other=0.0)[None, :]
    w2 = tl.load(peephole_ptr + 2 * n + unit, mask=there, other=0.0)[None, :]
    return w0, w1, w2


@triton.jit
def _forward_kernel(
    x_ptr,
    times_ptr,
    packed_ptr,
    peephole_ptr,
    period_ptr,
    shift_ptr,
    ratio_ptr,
    hidden_ptr,
    cells_ptr,
    lengths_ptr,
    ends_ptr,
    output_ptr,
    last_hidden_ptr,
    last_cells_ptr,
    gates_ptr,
    seen_ptr,
    kept_cells_ptr,
    scratch_ptr,
    count,
    T,
    n,
    m,
    step,
    apart,
    KEEP: tl.constexpr,
    LEAK: tl.constexpr,
    REVERSE: tl.constexpr,
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
    by_h, by_x, _r, bias = layer_at(packed_ptr, 0, CELL, N, M)
    scratch = scratch_ptr + tile.to(tl.int64) * (_PLANES * PLANE)
    in_plane = tl.arange(0, ROWS) * N
    load_plane(scratch, hidden_ptr, s, there, n, CARRY, ROWS, UNITS, N)
    if CELL == "lstm":
        load_plane(scratch + 2 * PLANE, cells_ptr, s, there, n, CARRY, ROWS, UNITS, N)
    tl.debug_barrier()
    parity = 0  # which plane holds h
    for t in range(0, tl.max(steps)):
        live = t < steps
        row = first + (steps - 1 - t if REVERSE else t) * step
        now = tl.load(times_ptr + row, mask=live, other=0.0)
        old = scratch + parity * PLANE
        for j in range(0, N, UNITS):
            unit = j + tl.arange(0, UNITS)
            inside = live[:, None] & (unit < n)[None, :]
            mine = in_plane[:, None] + unit[None, :]
            k, _s, _b, _t = clock(now, period_ptr, shift_ptr, ratio_ptr, unit, n, LEAK, CARRY)
            k = tl.where(inside, k, 0.0)
            h = tl.load(old + mine)
            worth = k != 0  # where k is no number, neither is the state
            if KEEP:
                worth = inside
            if tl.max(worth.to(tl.int32)) > 0:
                g0, g1, g2, g3 = pre_activations(
                    *(old + in_plane, x_ptr + row * m, live, m, by_h, by_x, bias, j),
                    *(M, CARRY, PRECISION, ROWS, UNITS, CHUNK, N),
                )
                c = h
                if CELL == "lstm":
                    c = tl.load(scratch + 2 * PLANE + mine)
                    if peephole_ptr is not None:
                        w0, w1, w2 = _peepholes(peephole_ptr, unit, n)
                        g0 += w0 * c
                        g1 += w1 * c
                        i, f, z, _o = activate(g0, g1, g2, g3, CELL)
                        g3 += w2 * (f * c + i * z)  # it sees the candidate
                g0, g1, g2, g3 = activate(g0, g1, g2, g3, CELL)
                new_h, new_c = candidates(g0, g1, g2, g3, h, c, CELL)
                if KEEP:
                    store_gates(gates_ptr, g0, g1, g2, g3, row, unit, n, inside)
                    store_real(seen_ptr, (row * (n + m + 1))[:, None] + unit[None, :], h, inside)
                    if CELL == "lstm":
                        store_real(kept_cells_ptr, (row * n)[:, None] + unit[None, :], c, inside)
                h += k * (new_h - h)
                if CELL == "lstm":
                    tl.store(scratch + 2 * PLANE + mine, c + k * (new_c - c))
            tl.store(scratch + (1 - parity) * PLANE + mine, h)
            store_real(output_ptr, (row * n)[:, None] + unit[None, :], h, inside)
        tl.debug_barrier()
        parity = 1 - parity
    store_plane(last_hidden_ptr, scratch + parity * PLANE, s, there, n, ROWS, UNITS, N)
    if CELL == "lstm":
        store_plane(last_cells_ptr, scratch + 2 * PLANE, s, there, n, ROWS, UNITS, N)


@triton.jit
def _backward_kernel(
    times_ptr,
    packed_ptr,
    peephole_ptr,
    period_ptr,
    shift_ptr,
    ratio_ptr,
    lengths_ptr,
    ends_ptr,
    gates_ptr,
    seen_ptr,
    cells_ptr,
    grad_output_ptr,
    grad_hidden_ptr,
    grad_cells_ptr,
    d_ptr,
    by_times_ptr,
    initial_hidden_ptr,
    initial_cells_ptr,
    sums_ptr,
    scratch_ptr,
    count,
    T,
    n,
    m,
    step,
    apart,
    LEAK: tl.constexpr,
    REVERSE: tl.constexpr,
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
    by_h, _x, _r, _b = layer_at(packed_ptr, 0, CELL, N, M)
    scratch = scratch_ptr + tile.to(tl.int64) * (_BACKWARD_PLANES * PLANE)
    sums = sums_ptr + tile.to(tl.int64) * (6 * N)
    in_plane = tl.arange(0, ROWS) * N
    load_plane(scratch, grad_hidden_ptr, s, there, n, CARRY, ROWS, UNITS, N)
    load_plane(scratch + PLANE, grad_cells_ptr, s, there, n, CARRY, ROWS, UNITS, N)
    for plane in tl.static_range(2, 6):
        load_plane(scratch + plane * PLANE, None, s, there, n, CARRY, ROWS, UNITS, N)
    tl.debug_barrier()
    parity = 0  # which planes hold the last gradients of pre-activations
    stop = tl.max(steps)
    for back in range(0, stop):
        t = stop - 1 - back
        live = t < steps
        row = first + (steps - 1 - t if REVERSE else t) * step
        now = tl.load(times_ptr + row, mask=live, other=0.0)
        by_time = tl.zeros((ROWS,), CARRY)
        for j in range(0, N, UNITS):
            unit = j + tl.arange(0, UNITS)
            inside = live[:, None] & (unit < n)[None, :]
            mine = in_plane[:, None] + unit[None, :]
            at = (row * n)[:, None] + unit[None, :]
            gh = add_product(
                tl.load(scratch + mine),
                *(scratch + (2 + 4 * parity) * PLANE + 4 * in_plane, there, 4 * N),
                *(by_h + unit, N, 4 * N, CHUNK, PRECISION),
            )
            gc = tl.load(scratch + PLANE + mine)
            if grad_output_ptr is not None:
                gh += load_real(grad_output_ptr, at, inside, CARRY)
            g0, g1, g2, g3 = load_gates(gates_ptr, row, unit, n, inside, CARRY)
            seen_at = (row * (n + m + 1))[:, None] + unit[None, :]
            h = load_real(seen_ptr, seen_at, inside, CARRY)
            c = h
            if CELL == "lstm":
                c = load_real(cells_ptr, at, inside, CARRY)
            new_h, new_c = candidates(g0, g1, g2, g3, h, c, CELL)
            by_k = gh * (new_h - h)
            if CELL == "lstm":
                by_k += gc * (new_c - c)
            by_k = tl.where(inside, by_k, 0.0)
            k, slope, by_ratio, turns = clock(
                now, period_ptr, shift_ptr, ratio_ptr, unit, n, LEAK, CARRY
            )
            k = tl.where(inside, k, 0.0)
            to_h = k * gh
            to_c = k * gc
            if peephole_ptr is not None:
                w0, w1, w2 = _peepholes(peephole_ptr, unit, n)
                to_c += to_h * tanh(new_c) * g3 * (1.0 - g3) * w2
            d0, d1, d2, d3, dh, dc = differentiate(g0, g1, g2, g3, h, c, to_h, to_c, CELL)
            if peephole_ptr is not None:
                dc += d0 * w0 + d1 * w1
                _grow(sums + unit, d0 * c)
                _grow(sums + N + unit, d1 * c)
                _grow(sums + 2 * N + unit, d3 * new_c)
            column = 4 * j + tl.arange(0, 4 * UNITS)
            tl.store(
                scratch + (6 - 4 * parity) * PLANE + 4 * in_plane[:, None] + column[None, :],
                side_by_side(d0, d1, d2, d3, 4 * UNITS),
            )
            store_gates(d_ptr, d0, d1, d2, d3, row, unit, n, inside)
            tl.store(scratch + mine, (1.0 - k) * gh + dh)
            tl.store(scratch + PLANE + mine, (1.0 - k) * gc + dc)
            # The phase moves by 1 / period with the time, and against the shift.
            period = tl.load(period_ptr + unit, mask=unit < n, other=1.0)[None, :]
            by_since = by_k * slope / period
            by_time += tl.sum(by_since, axis=1)
            _grow(sums + 3 * N + unit, -by_since * turns)
            _grow(sums + 4 * N + unit, -by_since)
            _grow(sums + 5 * N + unit, by_k * by_ratio)
        tl.store(by_times_ptr + row, by_time.to(tl.float64), mask=live)
        tl.debug_barrier()
        parity = 1 - parity
    for j in range(0, N, UNITS):
        unit = j + tl.arange(0, UNITS)
        inside = there[:, None] & (unit < n)[None, :]
        at = (s * n)[:, None] + unit[None, :]
        mine = in_plane[:, None] + unit[None, :]
        gh = add_product(
            tl.load(scratch + mine),
            *(scratch + (2 + 4 * parity) * PLANE + 4 * in_plane, there, 4 * N),
            *(by_h + unit, N, 4 * N, CHUNK, PRECISION),
        )
        store_real(initial_hidden_ptr, at, gh, inside)
    if CELL == "lstm":
        store_plane(initial_cells_ptr, scratch + PLANE, s, there, n, ROWS, UNITS, N)


@triton.jit
def _grow(to, by):
    """Add to a sum over rows."""
    tl.store(to, tl.load(to) + tl.sum(by, axis=0))
