"""GPU kernels of `gated_recurrence`; `ops/_triton.py` says how they split the work.

Gates, recurrence and output are one kernel each way. The backward reads pre-activations and the
states before each step, and computes everything else again.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton as shared
from longrnn.ops._triton import apply_tile, chain, claim, multiply_add, scan_tile, times
from longrnn.ops._triton_math import load_real, sigmoids, store_real, tanh
from longrnn.ops.gated_recurrence.cells import CELLS, allocate


def forward(
    gates: Tensor,
    highway: Tensor | None,
    openness: Tensor | None,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, states and final state; see `op.py` for the arguments."""
    output, states, last = allocate(gates, initial_state, cell, keep_states)
    if cu_seqlens is not None or not output.numel():
        last.copy_(initial_state)  # sequences without a step end where they begin
    if not output.numel():
        return output, states, last
    B, T, n = _sizes(output, cu_seqlens, dim)
    plan = shared.plan("gated_forward", T, B, n, gates, "auto")
    memory = shared.scratch(plan, T, B * n, cu_seqlens, gates, reverse)
    kept = states if states.numel() else None
    with torch.cuda.device_of(gates):
        _forward_kernel[plan.grid()](
            *(gates, highway, openness, initial_state, output, kept, last, lengths),
            *memory,
            *(T, B * n, n, plan.chunks, plan.blocks),
            *_strides(gates, cu_seqlens, dim),
            *_strides(highway, cu_seqlens, dim),
            *_strides(openness, cu_seqlens, dim),
            *_strides(output, cu_seqlens, dim)[:2],
            *initial_state.stride(),
            **_constants(cell, openness),
            CARRY=shared.CARRY[gates.dtype][1],
            BACKWARDS=reverse,
            **plan.options(),
        )
    return output, states, last


def backward(
    grad_output: Tensor | None,
    grad_final: Tensor | None,
    gates: Tensor,
    highway: Tensor | None,
    openness: Tensor | None,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    output: Tensor,
    states: Tensor,
    cell: str,
    dim: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of gates, highway, openness and initial state."""
    grad_gates = gates.new_empty(gates.shape)
    grad_highway, grad_openness = (
        gates.new_empty(0 if x is None else x.shape) for x in (highway, openness)
    )
    grad_initial = initial_state.new_empty(initial_state.shape)
    if cu_seqlens is not None or not output.numel():
        # What no step writes: sequences without one hand their final state's gradient on.
        grad_initial.zero_() if grad_final is None else grad_initial.copy_(grad_final)
    if not output.numel():
        return grad_gates, grad_highway, grad_openness, grad_initial
    B, T, n = _sizes(output, cu_seqlens, dim)
    output = output.contiguous()  # its strides are those of the highway's gradient, and openness's
    plan = shared.plan("gated_backward", T, B, n, gates, "auto")
    memory = shared.scratch(plan, T, B * n, cu_seqlens, gates, reverse)
    # The state before a step is the state after the one before, or what "surrogate" puts out.
    before = states if states.numel() else output
    with torch.cuda.device_of(gates):
        _backward_kernel[plan.grid()](
            *(grad_output, grad_final, gates, highway, openness, initial_state, before, lengths),
            grad_gates,
            None if highway is None else grad_highway,
            None if openness is None else grad_openness,
            grad_initial,
            *memory,
            *(T, B * n, n, plan.chunks, plan.blocks),
            *_strides(grad_output, cu_seqlens, dim),
            *_strides(gates, cu_seqlens, dim),
            *_strides(highway, cu_seqlens, dim),
            *_strides(openness, cu_seqlens, dim),
            *_strides(before, cu_seqlens, dim),
            *_strides(grad_gates, cu_seqlens, dim)[:2],
            *_strides(output, cu_seqlens, dim)[:2],
            *((0, 0) if grad_final is None else grad_final.stride()),
            *initial_state.stride(),
            **_constants(cell, openness),
            CARRY=shared.CARRY[gates.dtype][1],
            BACKWARDS=not reverse,
            **plan.options(),
        )
    return grad_gates, grad_highway, grad_openness, grad_initial


def _sizes(output: Tensor, cu_seqlens: Tensor | None, dim: int) -> tuple[int, int, int]:
    B = 1 if cu_seqlens is not None else output.shape[1 - dim]
    return B, output.shape[dim], output.shape[-1]


def _constants(cell: str, openness: Tensor | None) -> dict[str, Any]:
    """The cell as the kernels know it: candidates are states where every step is whole."""
    return {
        "GATES": CELLS[cell].gates,
        "CELL": cell.removesuffix("-candidate"),
        "CANDIDATE": CELLS[cell].candidate and openness is not None,
    }


def _strides(x: Tensor | None, cu_seqlens: Tensor | None, dim: int) -> tuple[int, int, int]:
    """Elements between sequences, between steps and between units."""
    if x is None:
        return 0, 0, 0
    return 0 if cu_seqlens is not None else x.stride(1 - dim), x.stride(dim), x.stride(-1)


@triton.jit
def _activate(x, CELL: tl.constexpr):
    if CELL == "gilr-identity":
        y = x
    elif CELL == "gilr-relu":
        y = tl.where(x > 0, x, 0.0)
    elif CELL == "gilr-elu":
        # expm1 by way of tanh(x / 2), which does not cancel
        half = tanh(tl.where(x > 0, 0.0, x) * 0.5)
        y = tl.where(x > 0, x, 2.0 * half / (1.0 - half))
    else:
        y = tanh(x)
    return y


@triton.jit
def _activate_slope(y, CELL: tl.constexpr):
    """Slope of `_activate` where its value is `y`."""
    if CELL == "gilr-identity":
        slope = tl.full(y.shape, 1.0, y.dtype)
    elif CELL == "gilr-relu":
        slope = tl.where(y > 0, 1.0, 0.0).to(y.dtype)
    elif CELL == "gilr-elu":
        slope = tl.where(y > 0, 1.0, y + 1.0)
    else:
        slope = 1.0 - y * y
    return slope


@triton.jit
def _log_sigmoid(x):
    return tl.where(x < 0, x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _recurrence(z0, z1, z2, z3, CELL: tl.constexpr):
    """Decay, write gate and candidate: c_t = decay c_{t-1} + write candidate. See `cells.py`."""
    if CELL == "lstm":  # i f g o
        decay, write = sigmoids(z1)
        write, _ = sigmoids(z0)
        candidate = tanh(z2)
    elif CELL == "strongly-typed-gru":  # z f o
        decay, _ = sigmoids(z1)
        write = tanh(z2)
        candidate = z0
    elif CELL == "min-lstm":  # f i z
        decay, write = sigmoids(_log_sigmoid(z0) - _log_sigmoid(z1))
        candidate = z2
    elif CELL == "min-gru":  # z h
        write, decay = sigmoids(z0)
        candidate = z1
    elif CELL == "qrnn":  # z f o
        decay, write = sigmoids(z1)
        candidate = tanh(z0)
    elif (
        CELL == "sru-identity"
        or CELL == "sru-tanh"
        or CELL == "strongly-typed-rnn"
        or CELL == "strongly-typed-lstm"
    ):  # z f (r | o)
        decay, write = sigmoids(z1)
        candidate = z0
    elif CELL == "hold":
        decay = tl.zeros_like(z0)
        write = decay + 1.0
        candidate = z0
    else:  # the GILR cells: g i
        decay, write = sigmoids(z0)
        candidate = _activate(z1, CELL)
    return decay, write, candidate


@triton.jit
def _looked_at(z0, z1, z2, z3, k):
    """The pre-activations, but for those of shut steps that are no numbers, which count as 0."""
    z0 = tl.where((k != 0) | (z0 - z0 == 0), z0, 0.0)
    z1 = tl.where((k != 0) | (z1 - z1 == 0), z1, 0.0)
    z2 = tl.where((k != 0) | (z2 - z2 == 0), z2, 0.0)
    z3 = tl.where((k != 0) | (z3 - z3 == 0), z3, 0.0)
    return z0, z1, z2, z3


@triton.jit
def _recurrence_slopes(s, before, decay, write, candidate, z0, z1, z2, z3, CELL: tl.constexpr):
    """Gradients of the pre-activations, but for the output's, from that of the state, `s`."""
    g0 = s
    g1 = s
    g2 = s
    g3 = s
    gated = s * (before - candidate) * decay * write  # where write = 1 - decay
    if CELL == "lstm":
        g0 = s * candidate * write * (1.0 - write)
        g1 = s * before * decay * (1.0 - decay)
        g2 = s * write * (1.0 - candidate * candidate)
    elif CELL == "strongly-typed-gru":
        g0 = s * write
        g1 = s * before * decay * (1.0 - decay)
        g2 = s * candidate * (1.0 - write * write)
    elif CELL == "min-lstm":
        _, slope0 = sigmoids(z0)
        _, slope1 = sigmoids(z1)
        g0 = gated * slope0
        g1 = -gated * slope1
        g2 = s * write
    elif CELL == "min-gru":
        g0 = -gated
        g1 = s * write
    elif CELL == "hold":
        g0 = s
    elif CELL == "qrnn":
        g0 = s * write * (1.0 - candidate * candidate)
        g1 = gated
    elif (
        CELL == "sru-identity"
        or CELL == "sru-tanh"
        or CELL == "strongly-typed-rnn"
        or CELL == "strongly-typed-lstm"
    ):
        g0 = s * write
        g1 = gated
    else:
        g0 = gated
        g1 = s * write * _activate_slope(candidate, CELL)
    return g0, g1, g2, g3


@triton.jit
def _output(c, x, z2, z3, CELL: tl.constexpr):
    """What a cell puts out for the state `c`; "surrogate" is the caller's."""
    if CELL == "lstm":
        gate, _ = sigmoids(z3)
        y = gate * c
    elif CELL == "qrnn":
        gate, _ = sigmoids(z2)
        y = gate * c
    elif CELL == "strongly-typed-lstm":
        y = c * tanh(z2)
    elif CELL == "sru-identity":
        gate, rest = sigmoids(z2)
        y = gate * c + rest * x
    elif CELL == "sru-tanh":
        gate, rest = sigmoids(z2)
        y = gate * tanh(c) + rest * x
    else:
        y = c
    return y


@triton.jit
def _output_slopes(g, c, x, z2, z3, CELL: tl.constexpr):
    """Gradients of the state, of the output's pre-activation and of the highway, from `g`."""
    to_gate = g
    to_x = g
    if CELL == "lstm":
        gate, rest = sigmoids(z3)
        to_c = g * gate
        to_gate = g * c * gate * rest
    elif CELL == "qrnn":
        gate, rest = sigmoids(z2)
        to_c = g * gate
        to_gate = g * c * gate * rest
    elif CELL == "strongly-typed-lstm":
        gate = tanh(z2)
        to_c = g * gate
        to_gate = g * c * (1.0 - gate * gate)
    elif CELL == "sru-identity":
        gate, rest = sigmoids(z2)
        to_c = g * gate
        to_gate = g * (c - x) * gate * rest
        to_x = g * rest
    elif CELL == "sru-tanh":
        gate, rest = sigmoids(z2)
        y = tanh(c)
        to_c = g * gate * (1.0 - y * y)
        to_gate = g * (y - x) * gate * rest
        to_x = g * rest
    else:
        to_c = g
    return to_c, to_gate, to_x


@triton.jit
def _candidate_output(before, k, z0, z1, z2, z3, CELL: tl.constexpr):
    """What a cell puts out for the state that the whole step would make."""
    z0, z1, z2, z3 = _looked_at(z0, z1, z2, z3, k)
    decay, write, candidate = _recurrence(z0, z1, z2, z3, CELL)
    return _output(decay * before + write * candidate, before, z2, z3, CELL)


@triton.jit
def _load_gates(ptr, offset, gate_stride, mask, GATES: tl.constexpr, CARRY: tl.constexpr):
    """The pre-activations of a tile; those that a cell lacks repeat one that it has."""
    z0 = load_real(ptr, offset, mask, CARRY)
    z1 = z0
    if GATES > 1:
        z1 = load_real(ptr, offset + gate_stride, mask, CARRY)
    z2 = z1
    z3 = z1
    if GATES > 2:
        z2 = load_real(ptr, offset + 2 * gate_stride, mask, CARRY)
    if GATES > 3:
        z3 = load_real(ptr, offset + 3 * gate_stride, mask, CARRY)
    return z0, z1, z2, z3


@triton.jit
def _edge(mark_ptr, t, T, EARLIEST: tl.constexpr):
    """Where sequences have their first (or last) step, and which sequence; one without marks."""
    if mark_ptr is not None:
        n = tl.load(mark_ptr + t, mask=t < T, other=0) - 1
        at = n >= 0
    else:
        n = t * 0
        at = t == (0 if EARLIEST else T - 1)
    return n, at


@triton.jit
def _forward_kernel(
    z_ptr,
    x_ptr,
    k_ptr,
    h0_ptr,
    y_ptr,
    c_ptr,
    final_ptr,
    lengths_ptr,
    ticket_ptr,
    maps_ptr,
    states_ptr,
    first_ptr,
    last_ptr,
    T,
    C,
    units,
    chunks,
    blocks,
    z_outer,
    z_time,
    z_unit,
    x_outer,
    x_time,
    x_unit,
    k_outer,
    k_time,
    k_unit,
    y_outer,
    y_time,
    h0_outer,
    h0_unit,
    GATES: tl.constexpr,
    CELL: tl.constexpr,
    CANDIDATE: tl.constexpr,
    CARRY: tl.constexpr,
    BACKWARDS: tl.constexpr,
    CHAINED: tl.constexpr,
    TIME_LAST: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    REVERSED: tl.constexpr = BACKWARDS and TIME_LAST
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, STEPS, SEGMENTS, BACKWARDS, TIME_LAST)
    c = block * WIDTH + tl.arange(0, WIDTH).to(tl.int64)
    there = (c < C)[None, None, :]
    b = (c // units)[None, None, :]
    i = c[None, None, :] - b * units
    h = tl.zeros((WIDTH,), CARRY)
    if first_ptr is None:
        h = load_real(h0_ptr, (c // units) * h0_outer + (c % units) * h0_unit, c < C, CARRY)
    length = t * 0 + T
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + b, mask=there, other=0), T)
    for _ in range(first, stop):
        live = (t < T) & there
        valid = (t < length) & live
        at = b * z_outer + t * z_time + i * z_unit
        z0, z1, z2, z3 = _load_gates(z_ptr, at, units * z_unit, valid, GATES, CARRY)
        k = 1.0
        r0, r1, r2, r3 = z0, z1, z2, z3
        if k_ptr is not None:
            k = load_real(k_ptr, b * k_outer + t * k_time + i * k_unit, valid, CARRY)
            r0, r1, r2, r3 = _looked_at(z0, z1, z2, z3, k)
        decay, write, candidate = _recurrence(r0, r1, r2, r3, CELL)
        if k_ptr is not None:
            decay += (1.0 - k) * (1.0 - decay)
            write *= k
        # Steps that are not there, or padded, keep the state.
        ar = tl.where(valid, decay, 1.0)
        br = tl.where(valid, write * candidate, 0.0)
        if first_ptr is not None:
            n, begins = _edge(first_ptr, t, T, not BACKWARDS)
            h0 = load_real(h0_ptr, n * h0_outer + i * h0_unit, begins & live, CARRY)
            br += tl.where(begins, ar * h0, 0.0)
            ar = tl.where(begins, 0.0, ar)
        a, _ai, s, _si, er, _ei, fr, _fi, mr, _mi, sr, _si = scan_tile(
            ar, ar, br, br, STEPS, SEGMENTS, REVERSED, False
        )
        if CHAINED:
            h, _h = chain(
                *(mr, mr, sr, sr, h, h),
                *(maps_ptr, states_ptr, first, c, C, CARRY, False, WIDTH, GROUP, LOOK),
            )
        s, _s = apply_tile(a, a, s, s, er, er, fr, fr, h, h, False)
        at = b * y_outer + t * y_time + i
        n, ends = _edge(last_ptr, t, T, BACKWARDS)
        store_real(final_ptr, (b + n) * units + i, s, ends & live)
        if c_ptr is not None:
            store_real(c_ptr, at, s, live)
        x = s
        if x_ptr is not None:
            x = load_real(x_ptr, b * x_outer + t * x_time + i * x_unit, valid, CARRY)
        if CELL == "surrogate" or CANDIDATE:
            # Of the state before: written one step later, if that is one of the same sequence.
            AFTER: tl.constexpr = -1 if BACKWARDS else 1
            n, begins = _edge(first_ptr, t, T, not BACKWARDS)
            h0 = load_real(h0_ptr, (b + n) * h0_outer + i * h0_unit, begins & live, CARRY)
            after = t + AFTER
            target = (after >= 0) & (after < T) & live & (ends == 0)
            if CANDIDATE:
                h0 = _candidate_output(h0, k, z0, z1, z2, z3, CELL)
                z_at = b * z_outer + after * z_time + i * z_unit
                mask = target & (after < length)
                z0, z1, z2, z3 = _load_gates(z_ptr, z_at, units * z_unit, mask, GATES, CARRY)
                k_at = b * k_outer + after * k_time + i * k_unit
                k = load_real(k_ptr, k_at, mask, CARRY)
                s = _candidate_output(s, k, z0, z1, z2, z3, CELL)
            store_real(y_ptr, at, tl.where(valid, h0, 0.0), begins & live)
            store_real(y_ptr, at + AFTER * y_time, tl.where(after < length, s, 0.0), target)
        else:
            store_real(y_ptr, at, tl.where(valid, _output(s, x, z2, z3, CELL), 0.0), live)
        h, _h = multiply_add(mr, mr, h, h, sr, sr, False)
        t += -STEPS * SEGMENTS if BACKWARDS else STEPS * SEGMENTS


@triton.jit
def _backward_kernel(
    y_ptr,
    grad_final_ptr,
    z_ptr,
    x_ptr,
    k_ptr,
    h0_ptr,
    before_ptr,
    lengths_ptr,
    grad_z_ptr,
    grad_x_ptr,
    grad_k_ptr,
    grad_h0_ptr,
    ticket_ptr,
    maps_ptr,
    states_ptr,
    first_ptr,
    last_ptr,
    T,
    C,
    units,
    chunks,
    blocks,
    y_outer,
    y_time,
    y_unit,
    z_outer,
    z_time,
    z_unit,
    x_outer,
    x_time,
    x_unit,
    k_outer,
    k_time,
    k_unit,
    before_outer,
    before_time,
    before_unit,
    grad_z_outer,
    grad_z_time,
    grad_y_outer,
    grad_y_time,
    grad_final_outer,
    grad_final_unit,
    h0_outer,
    h0_unit,
    GATES: tl.constexpr,
    CELL: tl.constexpr,
    CANDIDATE: tl.constexpr,
    CARRY: tl.constexpr,
    BACKWARDS: tl.constexpr,
    CHAINED: tl.constexpr,
    TIME_LAST: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    """s_t = decay_{t+1} s_{t+1} + gradient of c_t by the output; y is the output's gradient."""
    REVERSED: tl.constexpr = BACKWARDS and TIME_LAST
    AFTER: tl.constexpr = 1 if BACKWARDS else -1  # to the next step of the recurrence
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, STEPS, SEGMENTS, BACKWARDS, TIME_LAST)
    c = block * WIDTH + tl.arange(0, WIDTH).to(tl.int64)
    there = (c < C)[None, None, :]
    b = (c // units)[None, None, :]
    i = c[None, None, :] - b * units
    g = tl.zeros((WIDTH,), CARRY)
    if grad_final_ptr is not None and first_ptr is None:
        start = (c // units) * grad_final_outer + (c % units) * grad_final_unit
        g = load_real(grad_final_ptr, start, c < C, CARRY)
    length = t * 0 + T
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + b, mask=there, other=0), T)
    for _ in range(first, stop):
        live = (t < T) & there
        valid = (t < length) & live
        after = t + AFTER
        valid_after = (after >= 0) & (after < T) & (after < length) & live
        n, begins = _edge(first_ptr, t, T, BACKWARDS)
        n_end, ends = _edge(last_ptr, t, T, not BACKWARDS)
        starts = begins  # the first valid step, before which the state is the initial one
        if lengths_ptr is not None and not BACKWARDS:
            starts = t == length - 1

        at = b * z_outer + t * z_time + i * z_unit
        z0, z1, z2, z3 = _load_gates(z_ptr, at, units * z_unit, valid, GATES, CARRY)
        k = 1.0
        r0, r1, r2, r3 = z0, z1, z2, z3
        if k_ptr is not None:
            k = load_real(k_ptr, b * k_outer + t * k_time + i * k_unit, valid, CARRY)
            r0, r1, r2, r3 = _looked_at(z0, z1, z2, z3, k)
        decay, write, candidate = _recurrence(r0, r1, r2, r3, CELL)
        # Only what the decay is made of is loaded: the compiler drops the rest.
        a0, a1, a2, a3 = _load_gates(
            z_ptr, at + AFTER * z_time, units * z_unit, valid_after, GATES, CARRY
        )
        if k_ptr is None:
            decay_after, _w, _c = _recurrence(a0, a1, a2, a3, CELL)
        else:
            k_at = b * k_outer + (t + AFTER) * k_time + i * k_unit
            k_after = load_real(k_ptr, k_at, valid_after, CARRY)
            a0, a1, a2, a3 = _looked_at(a0, a1, a2, a3, k_after)
            kept_after, write_after, candidate_after = _recurrence(a0, a1, a2, a3, CELL)
            decay_after = kept_after + (1.0 - k_after) * (1.0 - kept_after)
        decay_after = tl.where(valid_after, decay_after, 1.0)

        y_at = b * y_outer + t * y_time + i * y_unit
        y = tl.zeros_like(decay)
        if y_ptr is not None:
            y = load_real(y_ptr, y_at, valid, CARRY)
        before_at = b * before_outer + i * before_unit + t * before_time
        h0 = load_real(h0_ptr, (b + n) * h0_outer + i * h0_unit, begins & live, CARRY)
        if CELL == "surrogate":
            before = load_real(before_ptr, before_at, valid, CARRY)
            to_gate = y
            to_x = y
            d = tl.zeros_like(decay)
            if y_ptr is not None:
                mask = valid_after & (ends == 0) if first_ptr is not None else valid_after
                d = load_real(y_ptr, y_at + AFTER * y_time, mask, CARRY)
        else:
            if lengths_ptr is not None and not BACKWARDS:
                h0 = load_real(h0_ptr, b * h0_outer + i * h0_unit, starts & live, CARRY)
            # Bounds too: marks may be missing where cu_seqlens is wrong.
            mask = valid & (starts == 0) & (t - AFTER >= 0) & (t - AFTER < T)
            before = load_real(before_ptr, before_at - AFTER * before_time, mask, CARRY)
            before = tl.where(starts, h0, before)
            x = y
            if x_ptr is not None:
                x = load_real(x_ptr, b * x_outer + t * x_time + i * x_unit, valid, CARRY)
            whole = decay * before + write * candidate
            state = whole
            if k_ptr is not None:
                state = before + k * (whole - before)
            if CANDIDATE:
                to_whole, to_gate, to_x = _output_slopes(y, whole, x, r2, r3, CELL)
                # What is put out one step later is made of the state.
                mask = valid_after & (ends == 0)
                d = tl.zeros_like(decay)
                if y_ptr is not None:
                    d = load_real(y_ptr, y_at + AFTER * y_time, mask, CARRY)
                whole = kept_after * state + write_after * candidate_after
                d, _g, _x = _output_slopes(d, whole, x, a2, a3, CELL)
                d = tl.where(mask, kept_after * d, 0.0)
            else:
                d, to_gate, to_x = _output_slopes(y, state, x, z2, z3, CELL)
                d = tl.where(valid, d, 0.0)
        if first_ptr is not None:
            decay_after = tl.where(ends, 0.0, decay_after)
            if grad_final_ptr is not None:
                at = n_end * grad_final_outer + i * grad_final_unit
                d += load_real(grad_final_ptr, at, ends & live, CARRY)

        a, _a, s, _s, er, _ei, fr, _fi, mr, _mi, sr, _si = scan_tile(
            decay_after, decay_after, d, d, STEPS, SEGMENTS, REVERSED, False
        )
        if CHAINED:
            g, _g = chain(
                *(mr, mr, sr, sr, g, g),
                *(maps_ptr, states_ptr, first, c, C, CARRY, False, WIDTH, GROUP, LOOK),
            )
        s, _s = apply_tile(a, a, s, s, er, er, fr, fr, g, g, False)

        own = s * k
        if CANDIDATE:
            own += to_whole
        g0, g1, g2, g3 = _recurrence_slopes(
            own, before, decay, write, candidate, r0, r1, r2, r3, CELL
        )
        if CELL == "lstm":
            g3 = to_gate
        elif CELL != "strongly-typed-gru" and CELL != "min-lstm":
            g2 = to_gate
        at = b * grad_z_outer + t * grad_z_time + i
        store_real(grad_z_ptr, at, tl.where(valid, g0, 0.0), live)
        if GATES > 1:
            store_real(grad_z_ptr, at + units, tl.where(valid, g1, 0.0), live)
        if GATES > 2:
            store_real(grad_z_ptr, at + 2 * units, tl.where(valid, g2, 0.0), live)
        if GATES > 3:
            store_real(grad_z_ptr, at + 3 * units, tl.where(valid, g3, 0.0), live)
        if x_ptr is not None:
            at = b * grad_y_outer + t * grad_y_time + i
            store_real(grad_x_ptr, at, tl.where(valid, to_x, 0.0), live)
        if k_ptr is not None:
            to_k = s * (write * candidate + (decay - 1.0) * before)
            at = b * grad_y_outer + t * grad_y_time + i
            store_real(grad_k_ptr, at, tl.where(valid, to_k, 0.0), live)
            kept = decay
            decay += (1.0 - k) * (1.0 - decay)
        into = tl.where(valid, decay, 1.0) * s
        if CELL == "surrogate":
            into += y
        if CANDIDATE:
            into += tl.where(valid, kept * to_whole, 0.0)
        store_real(grad_h0_ptr, (b + n) * units + i, into, begins & live)
        g, _g = multiply_add(mr, mr, g, g, sr, sr, False)
        t += -STEPS * SEGMENTS if BACKWARDS else STEPS * SEGMENTS
