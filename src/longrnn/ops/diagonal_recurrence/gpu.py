r"""GPU kernels of `diagonal_recurrence`, one each way.

A program takes a block of units of one sequence through time, STEPS steps at a time, which it keeps
in registers. They are solved by Newton's method as in `newton.py`: each turn evaluates all of them
at the guess, with their derivatives, and corrects the guess by a scan of the linear maps; the state
after them is what the next steps start from. So turns happen where the numbers are, each stretch
takes as many as it needs, and memory is read once. Where units and sequences fill the device,
STEPS is 1, and there is nothing to solve.

The way back is linear: one scan a stretch, with the derivatives at the states that were kept. Where
products of those overflow, the stretch is gone through step by step.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton as shared
from longrnn.ops._triton_cells import sequences_of
from longrnn.ops._triton_math import load_real, sigmoids, store_real, tanh
from longrnn.ops.diagonal_recurrence.cells import GATES, allocate
from longrnn.ops.diagonal_recurrence.newton import SETTLED, STUCK, TURNS

# The one place for tuning: chosen by reasoning and by the registers that the compiler reports (see
# docs/gpu.md), to be measured. A warp holds a unit's stretch, so that its scan needs no barrier.
STEPS = 128  # solved together
ELEMENTS = 4  # of a tile, a thread
WARPS = 4  # of a program, at most
SIDE_BY_SIDE = 32  # units of a program that goes step by step
FEW = 16  # steps that are not worth solving
# Units times sequences from which steps one by one are faster: a turn and its scan cost about as
# much as two steps, and some five turns are made; but a step takes a microsecond at least.
FULL = 1 << 15


class Plan(NamedTuple):
    """How one call is cut up."""

    grid: tuple[int]
    sizes: tuple[int, ...]  # sequences, most steps, units, blocks of them, rows a step, a sequence
    options: dict[str, Any]  # constants of both kernels


def plan(
    gates: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
    algorithm: str,
) -> Plan:
    """Choose the form and its block sizes."""
    (_, count, n), T = initial_state.shape, gates.shape[dim]
    if algorithm == "auto":
        algorithm = "parallel" if T > FEW and count * n < FULL else "serial"
    warp, power = shared.WARP * ELEMENTS, triton.next_power_of_2
    steps, width = 1, SIDE_BY_SIDE
    if algorithm == "parallel":
        steps = min(STEPS, power(max(T, 1)))
        share = triton.cdiv(count * n, 2 * shared._processors(gates.device))
        width = max(1, min(WARPS * warp // steps, power(max(share, 1))))
    width = min(width, power(n))
    blocks = triton.cdiv(n, width)
    step, apart = (1, 0) if cu_seqlens is not None else (1, T) if dim == 1 else (count, 1)
    carry = shared.CARRY[gates.dtype][1]
    return Plan(
        (count * blocks,),
        (count, T, n, blocks, step, apart),
        {
            "CELL": cell,
            "REVERSE": reverse,
            "CARRY": carry,
            "STEPS": steps,
            "WIDTH": width,
            "num_warps": max(1, min(WARPS, steps * width // warp)),
        },
    )


def forward(
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
    keep: bool,
    algorithm: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the layer; see `op.py` for what the arguments mean."""
    output, last, cells = allocate(gates, initial_state, keep, _empty(lengths))
    p = plan(gates, initial_state, cu_seqlens, cell, dim, reverse, algorithm)
    if p.grid[0]:
        _forward_kernel[p.grid](
            gates.contiguous(),
            weight.contiguous(),
            initial_state.contiguous(),
            lengths,
            cu_seqlens,
            output,
            last,
            cells if cells.numel() else None,
            *p.sizes,
            EPS=torch.finfo(weight.dtype).eps,
            **p.options,
        )
    return output, last, cells


def backward(
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    output: Tensor,
    cells: Tensor,
    cell: str,
    dim: int,
    reverse: bool,
    algorithm: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gates, weight and initial state."""
    d = _empty(lengths)(tuple(gates.shape), gates)
    by_weight = weight.new_empty(initial_state.shape[1], *weight.shape)
    by_initial = initial_state.new_empty(initial_state.shape)
    p = plan(gates, initial_state, cu_seqlens, cell, dim, reverse, algorithm)
    if p.grid[0]:
        _backward_kernel[p.grid](
            None if grad_output is None else grad_output.contiguous(),
            None if grad_last is None else grad_last.contiguous(),
            gates.contiguous(),
            weight.contiguous(),
            initial_state.contiguous(),
            lengths,
            cu_seqlens,
            output.contiguous(),
            cells.contiguous() if cells.numel() else None,
            d,
            by_weight,
            by_initial,
            *p.sizes,
            **p.options,
        )
    return d, by_weight.sum(0), by_initial


def _empty(lengths: Tensor | None) -> Any:
    """What makes results: past a sequence's end they are 0."""
    return lambda shape, like: like.new_empty(shape) if lengths is None else like.new_zeros(shape)


_G = tl.constexpr(GATES)
_SETTLED, _STUCK, _TURNS = tl.constexpr(SETTLED), tl.constexpr(STUCK), tl.constexpr(TURNS)


@triton.jit
def _step(x0, x1, x2, w0, w1, w2, w3, w4, h, c, CELL: tl.constexpr):
    """The state after a step, from the one before it; a GRU's h stands for both."""
    if CELL == "lstm":
        f, shut = sigmoids(x0 + w0 * h + w3 * c)
        c = f * c + shut * tanh(x1 + w1 * h)
        o, _ = sigmoids(x2 + w2 * h + w4 * c)
        h = o * tanh(c)
    else:
        z, shut = sigmoids(x0 + w0 * h)
        r, _ = sigmoids(x1 + w1 * h)
        h = shut * h + z * tanh(x2 + w2 * (r * h))
        c = h
    return h, c


@triton.jit
def _step_backward(x0, x1, x2, w0, w1, w2, w3, w4, h, c, gh, gc, CELL: tl.constexpr):
    """Gradients of pre-activations and of h and c before a step; and what w2 or w4 is times."""
    if CELL == "lstm":
        f, shut = sigmoids(x0 + w0 * h + w3 * c)
        g = tanh(x1 + w1 * h)
        seen = f * c + shut * g
        o, closed = sigmoids(x2 + w2 * h + w4 * seen)
        y = tanh(seen)
        d2 = gh * y * o * closed
        gc += gh * o * (1.0 - y * y) + w4 * d2
        d0 = gc * (c - g) * f * shut
        d1 = gc * shut * (1.0 - g * g)
        dh = w0 * d0 + w1 * d1 + w2 * d2
        dc = gc * f + w3 * d0
    else:
        z, shut = sigmoids(x0 + w0 * h)
        r, closed = sigmoids(x1 + w1 * h)
        seen = r * h
        y = tanh(x2 + w2 * seen)
        d0 = gh * (y - h) * z * shut
        d2 = gh * z * (1.0 - y * y)
        d1 = w2 * d2 * h * r * closed
        dh = gh * shut + w2 * d2 * r + w0 * d0 + w1 * d1
        dc = dh
    return d0, d1, d2, dh, dc, seen


@triton.jit
def _derivative(x0, x1, x2, w0, w1, w2, w3, w4, h, c, CELL: tl.constexpr):
    """Of h and c after a step by h, by c, then of c by both."""
    one = tl.full(h.shape, 1.0, h.dtype)
    none = tl.zeros(h.shape, h.dtype)
    _a, _b, _c, hh, hc, _d = _step_backward(x0, x1, x2, w0, w1, w2, w3, w4, h, c, one, none, CELL)
    _a, _b, _c, ch, cc, _d = _step_backward(x0, x1, x2, w0, w1, w2, w3, w4, h, c, none, one, CELL)
    return hh, hc, ch, cc


@triton.jit
def _within(x, most):
    """Saturate at +-most; what is no number stays none."""
    return tl.where(x > most, most, tl.where(x < -most, -most, x))


@triton.jit
def _relative(move, x):
    """How far a number moved, by its own size or 1."""
    return tl.abs(move) / tl.maximum(tl.abs(x), 1.0)


# Corrections are found among numbers that do not overflow: a state cannot be that far off, and
# infinity times the 0 that is missing from exact states would be no number.
_MOST = tl.constexpr(1e18)


@triton.jit
def _compose_within(a, b, a1, b1):
    most = tl.full(a.shape, _MOST, a.dtype)
    return _within(a1 * a, most), _within(a1 * b + b1, most)


@triton.jit
def _compose_blocks_within(p, q, r, s, b, c, p1, q1, r1, s1, b1, c1):
    most = tl.full(p.shape, _MOST, p.dtype)
    p, q, r, s, b, c = _compose_blocks(p, q, r, s, b, c, p1, q1, r1, s1, b1, c1)
    return (
        _within(p, most),
        _within(q, most),
        _within(r, most),
        _within(s, most),
        _within(b, most),
        _within(c, most),
    )


@triton.jit
def _compose(a, b, a1, b1):
    return a1 * a, a1 * b + b1


@triton.jit
def _compose_blocks(p, q, r, s, b, c, p1, q1, r1, s1, b1, c1):
    return (
        p1 * p + q1 * r,
        p1 * q + q1 * s,
        r1 * p + s1 * r,
        r1 * q + s1 * s,
        p1 * b + q1 * c + b1,
        r1 * b + s1 * c + c1,
    )


@triton.jit
def _before(x, start, STEPS: tl.constexpr, WIDTH: tl.constexpr):
    """A tile moved by one step, `start` (WIDTH,) at the first."""
    row = tl.arange(0, STEPS)[:, None] + tl.zeros((STEPS, WIDTH), tl.int32)
    moved = tl.gather(x, tl.maximum(row - 1, 0), 0) if STEPS > 1 else x
    return tl.where(row == 0, start[None, :], moved)


@triton.jit
def _row(x, at, STEPS: tl.constexpr):
    """One row of a tile; 0 where it has none such."""
    return tl.sum(tl.where((tl.arange(0, STEPS) == at)[:, None], x, 0.0), 0)


@triton.jit
def _one_by_one(hh, hc, ch, cc, yh, gh, gc, STEPS: tl.constexpr):
    """What the way back scans for; products of derivatives overflow where gradients need not."""
    row = tl.arange(0, STEPS)[:, None]
    mh = tl.zeros(hh.shape, hh.dtype)
    mc = mh
    for k in range(STEPS):
        gh += _row(yh, k, STEPS)
        by_h = _row(hh, k, STEPS) * gh + _row(ch, k, STEPS) * gc
        gc = _row(hc, k, STEPS) * gh + _row(cc, k, STEPS) * gc
        gh = by_h
        mh = tl.where(row == k, gh[None, :], mh)
        mc = tl.where(row == k, gc[None, :], mc)
    return mh, mc


@triton.jit
def _load_weights(weight_ptr, unit, live, n, CELL: tl.constexpr, CARRY: tl.constexpr):
    w0 = load_real(weight_ptr, unit, live, CARRY)[None, :]
    w1 = load_real(weight_ptr, n + unit, live, CARRY)[None, :]
    w2 = load_real(weight_ptr, 2 * n + unit, live, CARRY)[None, :]
    w3 = w2
    w4 = w2
    if CELL == "lstm":
        w3 = load_real(weight_ptr, 3 * n + unit, live, CARRY)[None, :]
        w4 = load_real(weight_ptr, 4 * n + unit, live, CARRY)[None, :]
    return w0, w1, w2, w3, w4


@triton.jit
def _load_state(ptr, s, unit, live, count, n, CELL: tl.constexpr, CARRY: tl.constexpr):
    """State of a sequence, h and c of (WIDTH,); a GRU's h stands for both."""
    h = load_real(ptr, s * n + unit, live, CARRY)
    c = load_real(ptr, (count + s) * n + unit, live, CARRY) if CELL == "lstm" else h
    return h, c


@triton.jit
def _store_state(ptr, h, c, s, unit, live, count, n, CELL: tl.constexpr):
    store_real(ptr, s * n + unit, h, live)
    if CELL == "lstm":
        store_real(ptr, (count + s) * n + unit, c, live)


@triton.jit
def _load_gates(ptr, row, unit, n, inside, CARRY: tl.constexpr):
    at = (row * (_G * n))[:, None] + unit[None, :]
    x0 = load_real(ptr, at, inside, CARRY)
    x1 = load_real(ptr, at + n, inside, CARRY)
    x2 = load_real(ptr, at + 2 * n, inside, CARRY)
    return x0, x1, x2


@triton.jit
def _forward_kernel(
    gates_ptr,
    weight_ptr,
    initial_ptr,
    lengths_ptr,
    ends_ptr,
    output_ptr,
    last_ptr,
    cells_ptr,
    count,
    T,
    n,
    blocks,
    step,
    apart,
    EPS: tl.constexpr,
    CELL: tl.constexpr,
    REVERSE: tl.constexpr,
    CARRY: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    s = program // blocks
    _s, _t, first, steps = sequences_of(s, count, T, step, apart, lengths_ptr, ends_ptr, 1)
    first, steps = tl.max(first), tl.max(steps)
    unit = (program - s * blocks) * WIDTH + tl.arange(0, WIDTH)
    live = unit < n
    w0, w1, w2, w3, w4 = _load_weights(weight_ptr, unit, live, n, CELL, CARRY)
    h, c = _load_state(initial_ptr, s, unit, live, count, n, CELL, CARRY)
    for begin in range(0, steps, STEPS):
        t = begin + tl.arange(0, STEPS)
        row = first + (steps - 1 - t if REVERSE else t) * step
        inside = (t < steps)[:, None] & live[None, :]
        x0, x1, x2 = _load_gates(gates_ptr, row, unit, n, inside, CARRY)
        after_h = tl.zeros((STEPS, WIDTH), CARRY) + h[None, :]  # the guess
        after_c = tl.zeros((STEPS, WIDTH), CARRY) + c[None, :]
        if STEPS > 1:
            most_h = tl.maximum(tl.abs(h), 1.0)  # what a state can be
            most_c = tl.maximum(tl.abs(c), 1.0)
            moved = tl.full((), 1e30, CARRY)
            turn = 0
            while turn < _TURNS * STEPS:
                before_h = _before(after_h, h, STEPS, WIDTH)
                before_c = _before(after_c, c, STEPS, WIDTH)
                new_h, new_c = _step(x0, x1, x2, w0, w1, w2, w3, w4, before_h, before_c, CELL)
                hh, hc, ch, cc = _derivative(
                    x0, x1, x2, w0, w1, w2, w3, w4, before_h, before_c, CELL
                )
                if CELL == "lstm":
                    _p, _q, _r, _u, dh, dc = tl.associative_scan(
                        (hh, hc, ch, cc, new_h - after_h, new_c - after_c),
                        0,
                        _compose_blocks_within,
                    )
                else:
                    _p, dh = tl.associative_scan((hh, new_h - after_h), 0, _compose_within)
                    dc = dh
                dh = _within(after_h + dh, most_h[None, :]) - after_h
                dc = _within(after_c + dc, most_c[None, :]) - after_c
                after_h += dh
                after_c += dc
                move = tl.maximum(_relative(dh, after_h), _relative(dc, after_c))
                move = tl.max(tl.where(inside & (move == move), move, 0.0))  # NaN stays NaN
                slow = (move >= moved) & (move <= _STUCK * EPS)
                turn = tl.where((move <= _SETTLED * EPS) | slow, _TURNS * STEPS, turn + 1)
                moved = move
        before_h = _before(after_h, h, STEPS, WIDTH)
        before_c = _before(after_c, c, STEPS, WIDTH)
        after_h, after_c = _step(x0, x1, x2, w0, w1, w2, w3, w4, before_h, before_c, CELL)
        at = (row * n)[:, None] + unit[None, :]
        store_real(output_ptr, at, after_h, inside)
        if cells_ptr is not None:
            store_real(cells_ptr, at, after_c, inside)
        end = tl.minimum(steps - begin, STEPS) - 1
        h = _row(after_h, end, STEPS)
        c = _row(after_c, end, STEPS)
    _store_state(last_ptr, h, c, s, unit, live, count, n, CELL)


@triton.jit
def _backward_kernel(
    grad_output_ptr,
    grad_last_ptr,
    gates_ptr,
    weight_ptr,
    initial_ptr,
    lengths_ptr,
    ends_ptr,
    output_ptr,
    cells_ptr,
    d_ptr,
    by_weight_ptr,
    by_initial_ptr,
    count,
    T,
    n,
    blocks,
    step,
    apart,
    CELL: tl.constexpr,
    REVERSE: tl.constexpr,
    CARRY: tl.constexpr,
    STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    WEIGHTS: tl.constexpr = 5 if CELL == "lstm" else 3
    program = tl.program_id(0).to(tl.int64)
    s = program // blocks
    _s, _t, first, steps = sequences_of(s, count, T, step, apart, lengths_ptr, ends_ptr, 1)
    first, steps = tl.max(first), tl.max(steps)
    unit = (program - s * blocks) * WIDTH + tl.arange(0, WIDTH)
    live = unit < n
    w0, w1, w2, w3, w4 = _load_weights(weight_ptr, unit, live, n, CELL, CARRY)
    start_h, start_c = _load_state(initial_ptr, s, unit, live, count, n, CELL, CARRY)
    gh = tl.zeros((WIDTH,), CARRY)  # gradients of the state after the steps at hand
    gc = gh
    if grad_last_ptr is not None:
        gh, gc = _load_state(grad_last_ptr, s, unit, live, count, n, CELL, CARRY)
    b0 = tl.zeros((WIDTH,), CARRY)
    b1 = b0
    b2 = b0
    b3 = b0
    b4 = b0
    for begin in range(0, steps, STEPS):
        t = steps - 1 - begin - tl.arange(0, STEPS)  # the last first
        row = first + (steps - 1 - t if REVERSE else t) * step
        inside = (t >= 0)[:, None] & live[None, :]
        later = (t > 0)[:, None] & live[None, :]
        x0, x1, x2 = _load_gates(gates_ptr, row, unit, n, inside, CARRY)
        at = (row * n)[:, None] + unit[None, :]
        previous = at + (step * n if REVERSE else -step * n)
        h = load_real(output_ptr, previous, later, CARRY)
        h = tl.where((t == 0)[:, None], start_h[None, :], h)
        c = h
        if CELL == "lstm":
            c = load_real(cells_ptr, previous, later, CARRY)
            c = tl.where((t == 0)[:, None], start_c[None, :], c)
        yh = tl.zeros((STEPS, WIDTH), CARRY)
        if grad_output_ptr is not None:
            yh = load_real(grad_output_ptr, at, inside, CARRY)
        yc = tl.zeros((STEPS, WIDTH), CARRY)
        if STEPS > 1:
            hh, hc, ch, cc = _derivative(x0, x1, x2, w0, w1, w2, w3, w4, h, c, CELL)
            # Gradients of the states before: A^T (y + those of the state after).
            if CELL == "lstm":
                p, q, r, u, mh, mc = tl.associative_scan(
                    (hh, ch, hc, cc, hh * yh, hc * yh), 0, _compose_blocks
                )
                mh += p * gh[None, :] + q * gc[None, :]
                mc += r * gh[None, :] + u * gc[None, :]
            else:
                p, mh = tl.associative_scan((hh, hh * yh), 0, _compose)
                mh += p * gh[None, :]
                mc = mh
            finite = (tl.abs(mh) < float("inf")) & (tl.abs(mc) < float("inf"))
            if tl.max((inside & ~finite).to(tl.int32)) > 0:  # derived again: kept by none till here
                hh, hc, ch, cc = _derivative(x0, x1, x2, w0, w1, w2, w3, w4, h, c, CELL)
                mh, mc = _one_by_one(hh, hc, ch, cc, yh, gh, gc, STEPS)
            if CELL == "lstm":
                yc = _before(mc, gc, STEPS, WIDTH)
            yh += _before(mh, gh, STEPS, WIDTH)
        else:
            yh += gh[None, :]
            yc += gc[None, :]
        d0, d1, d2, dh, dc, seen = _step_backward(
            x0, x1, x2, w0, w1, w2, w3, w4, h, c, yh, yc, CELL
        )
        at = (row * (_G * n))[:, None] + unit[None, :]
        store_real(d_ptr, at, d0, inside)
        store_real(d_ptr, at + n, d1, inside)
        store_real(d_ptr, at + 2 * n, d2, inside)
        d0 = tl.where(inside, d0, 0.0)
        d1 = tl.where(inside, d1, 0.0)
        d2 = tl.where(inside, d2, 0.0)
        b0 += tl.sum(d0 * h, 0)
        b1 += tl.sum(d1 * h, 0)
        if CELL == "lstm":
            b2 += tl.sum(d2 * h, 0)
            b3 += tl.sum(d0 * c, 0)
            b4 += tl.sum(d2 * seen, 0)
        else:
            b2 += tl.sum(d2 * seen, 0)
        end = tl.minimum(steps - begin, STEPS) - 1
        gh = _row(dh, end, STEPS)
        gc = _row(dc, end, STEPS)
    _store_state(by_initial_ptr, gh, gc, s, unit, live, count, n, CELL)
    by = s * (WEIGHTS * n) + unit
    store_real(by_weight_ptr, by, b0, live)
    store_real(by_weight_ptr, by + n, b1, live)
    store_real(by_weight_ptr, by + 2 * n, b2, live)
    if CELL == "lstm":
        store_real(by_weight_ptr, by + 3 * n, b3, live)
        store_real(by_weight_ptr, by + 4 * n, b4, live)
