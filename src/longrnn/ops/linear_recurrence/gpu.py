"""GPU kernels of `linear_recurrence`; `ops/_triton.py` says how they split the work."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton as shared
from longrnn.ops._triton import (
    apply_tile,
    chain,
    claim,
    load,
    multiply_add,
    scan_tile,
    store,
    times,
)


def forward(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    states = torch.empty_like(impulses, memory_format=torch.contiguous_format)
    if not states.numel():
        return states
    outer, T, inner = _sizes(impulses, dim)
    plan = shared.plan("linear_forward", T, outer, inner, impulses, algorithm)
    memory = shared.scratch(plan, T, outer * inner, cu_seqlens, impulses, reverse)
    a, a_strides = shared.three(decays, dim)
    x, x_strides = shared.three(impulses, dim)
    h0, h0_strides = _initial(initial_state, cu_seqlens, dim)
    with torch.cuda.device_of(impulses):
        _forward_kernel[plan.grid()](
            a,
            x,
            h0,
            _real(states),
            *memory[:4],
            *(T, outer * inner, inner, plan.chunks, plan.blocks),
            *a_strides,
            *x_strides,
            *h0_strides,
            CARRY=shared.CARRY[impulses.dtype][1],
            COMPLEX=impulses.is_complex(),
            BACKWARDS=reverse,
            **plan.options(),
        )
    return states


def backward(
    grad: Tensor,
    decays: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
    need_decays: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of decays, impulses and initial state."""
    grad_impulses = torch.empty_like(grad, memory_format=torch.contiguous_format)
    grad_decays = torch.empty_like(grad_impulses) if need_decays else grad.new_empty(0)
    shape = list(grad.shape)
    shape[dim : dim + 1] = [] if cu_seqlens is None else [cu_seqlens.numel() - 1]
    # Sequences without a step are written by nobody.
    grad_initial = grad.new_zeros(shape) if cu_seqlens is not None else grad.new_empty(shape)
    if not grad.numel():
        return grad_decays, grad_impulses, grad_initial.zero_()
    outer, T, inner = _sizes(grad, dim)
    plan = shared.plan("linear_backward", T, outer, inner, grad, algorithm)
    memory = shared.scratch(plan, T, outer * inner, cu_seqlens, grad, reverse)
    y, y_strides = shared.three(grad, dim)
    a, a_strides = shared.three(decays, dim)
    h, h_strides = shared.three(states, dim)
    h0, h0_strides = _initial(initial_state, cu_seqlens, dim)
    with torch.cuda.device_of(grad):
        _backward_kernel[plan.grid()](
            y,
            a,
            h,
            h0,
            _real(grad_decays) if need_decays else None,
            _real(grad_impulses),
            _real(grad_initial),
            *memory,
            *(T, outer * inner, inner, plan.chunks, plan.blocks, _count(cu_seqlens)),
            *y_strides,
            *a_strides,
            *h_strides,
            *h0_strides,
            CARRY=shared.CARRY[grad.dtype][1],
            COMPLEX=grad.is_complex(),
            BACKWARDS=not reverse,
            **plan.options(),
        )
    return grad_decays, grad_impulses, grad_initial


def _sizes(x: Tensor, dim: int) -> tuple[int, int, int]:
    return math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])


def _count(cu_seqlens: Tensor | None) -> int:
    return 1 if cu_seqlens is None else cu_seqlens.numel() - 1


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _initial(
    x: Tensor | None, cu_seqlens: Tensor | None, dim: int
) -> tuple[Tensor | None, tuple[int, int, int]]:
    """The initial state as (outer, sequences, inner)."""
    if x is None:
        return None, (0, 0, 0)
    return shared.three(x.unsqueeze(dim) if cu_seqlens is None else x, dim)


@triton.jit
def _forward_kernel(
    a_ptr,
    x_ptr,
    h0_ptr,
    h_ptr,
    ticket_ptr,
    maps_ptr,
    states_ptr,
    first_ptr,
    T,
    C,
    inner,
    chunks,
    blocks,
    a_outer,
    a_time,
    a_inner,
    x_outer,
    x_time,
    x_inner,
    h0_outer,
    h0_sequence,
    h0_inner,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BACKWARDS: tl.constexpr,
    CHAINED: tl.constexpr,
    TIME_LAST: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    REVERSED: tl.constexpr = BACKWARDS and TIME_LAST
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, STEPS, SEGMENTS, BACKWARDS, TIME_LAST)
    c = block * WIDTH + tl.arange(0, WIDTH).to(tl.int64)
    o = c // inner
    i = c - o * inner
    a_at = (o * a_outer + i * a_inner)[None, None, :]
    x_at = (o * x_outer + i * x_inner)[None, None, :]
    h_at = ((o * T * inner + i) * PARTS)[None, None, :]
    h0_at = o * h0_outer + i * h0_inner

    hr = tl.zeros((WIDTH,), CARRY)
    hi = hr
    if h0_ptr is not None and first_ptr is None:
        hr, hi = load(h0_ptr, h0_at, c < C, 0.0, CARRY, COMPLEX)
    for _ in range(first, stop):
        live = (t < T) & (c < C)[None, None, :]
        # Steps that are not there keep the state: decay 1, impulse 0.
        ar, ai = load(a_ptr, a_at + t * a_time, live, 1.0, CARRY, COMPLEX)
        xr, xi = load(x_ptr, x_at + t * x_time, live, 0.0, CARRY, COMPLEX)
        if first_ptr is not None:
            # A sequence begins where a mark is: the state before it is its initial state.
            n = tl.load(first_ptr + t, mask=t < T, other=0) - 1
            begins = n >= 0
            if h0_ptr is not None:
                at = h0_at[None, None, :] + n * h0_sequence
                h0r, h0i = load(h0_ptr, at, begins & live, 0.0, CARRY, COMPLEX)
                xr, xi = multiply_add(ar, ai, h0r, h0i, xr, xi, COMPLEX)
            ar = tl.where(begins, 0.0, ar)
            ai = tl.where(begins, 0.0, ai)
        ar, ai, xr, xi, er, ei, fr, fi, mr, mi, sr, si = scan_tile(
            ar, ai, xr, xi, STEPS, SEGMENTS, REVERSED, COMPLEX
        )
        if CHAINED:
            hr, hi = chain(
                *(mr, mi, sr, si, hr, hi),
                *(maps_ptr, states_ptr, first, c, C, CARRY, COMPLEX, WIDTH, GROUP, LOOK),
            )
        xr, xi = apply_tile(ar, ai, xr, xi, er, ei, fr, fi, hr, hi, COMPLEX)
        store(h_ptr, h_at + t * inner * PARTS, xr, xi, live, COMPLEX)
        hr, hi = multiply_add(mr, mi, hr, hi, sr, si, COMPLEX)
        t += -STEPS * SEGMENTS if BACKWARDS else STEPS * SEGMENTS


@triton.jit
def _backward_kernel(
    y_ptr,
    a_ptr,
    h_ptr,
    h0_ptr,
    grad_a_ptr,
    grad_x_ptr,
    grad_h0_ptr,
    ticket_ptr,
    maps_ptr,
    states_ptr,
    first_ptr,
    last_ptr,
    T,
    C,
    inner,
    chunks,
    blocks,
    N,
    y_outer,
    y_time,
    y_inner,
    a_outer,
    a_time,
    a_inner,
    h_outer,
    h_time,
    h_inner,
    h0_outer,
    h0_sequence,
    h0_inner,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BACKWARDS: tl.constexpr,
    CHAINED: tl.constexpr,
    TIME_LAST: tl.constexpr,
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    """s_t = conj(a_{t+1}) s_{t+1} + y_t, against the direction of the recurrence.

    The neighbours a_{t+1} and h_{t-1} are loaded one step aside of y_t, mostly out of cache, since
    the next tile needs the same lines: nothing is shifted or copied.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    AFTER: tl.constexpr = 1 if BACKWARDS else -1  # to the next step of the recurrence
    REVERSED: tl.constexpr = BACKWARDS and TIME_LAST
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, STEPS, SEGMENTS, BACKWARDS, TIME_LAST)
    c = block * WIDTH + tl.arange(0, WIDTH).to(tl.int64)
    o = c // inner
    i = c - o * inner
    there = (c < C)[None, None, :]
    y_at = (o * y_outer + i * y_inner)[None, None, :]
    a_at = (o * a_outer + i * a_inner)[None, None, :]
    h_at = (o * h_outer + i * h_inner)[None, None, :]
    h0_at = (o * h0_outer + i * h0_inner)[None, None, :]
    x_at = ((o * T * inner + i) * PARTS)[None, None, :]
    grad_h0_at = ((o * N * inner + i) * PARTS)[None, None, :]

    sr = tl.zeros((WIDTH,), CARRY)
    si = sr
    for _ in range(first, stop):
        live = (t < T) & there
        has_after = (t < T) & (t + AFTER >= 0) & (t + AFTER < T)
        has_before = (t < T) & (t - AFTER >= 0) & (t - AFTER < T)
        # n: the sequence of which a step is the first.
        if first_ptr is not None:
            n = tl.load(first_ptr + t, mask=t < T, other=0) - 1
            begins = (n >= 0) & live
            has_before = has_before & (n < 0)
            ends = tl.load(last_ptr + t, mask=t < T, other=0) > 0
        else:
            n = t * 0
            begins = (t == (0 if BACKWARDS else T - 1)) & live

        yr, yi = load(y_ptr, y_at + t * y_time, live, 0.0, CARRY, COMPLEX)
        at = a_at + (t + AFTER) * a_time
        ar, ai = load(a_ptr, at, has_after & there, 1.0, CARRY, COMPLEX)
        if first_ptr is not None:
            ar = tl.where(ends, 0.0, ar)
            ai = tl.where(ends, 0.0, ai)
        ar, ai, yr, yi, er, ei, fr, fi, mr, mi, br, bi = scan_tile(
            ar, -ai, yr, yi, STEPS, SEGMENTS, REVERSED, COMPLEX
        )
        if CHAINED:
            sr, si = chain(
                *(mr, mi, br, bi, sr, si),
                *(maps_ptr, states_ptr, first, c, C, CARRY, COMPLEX, WIDTH, GROUP, LOOK),
            )
        yr, yi = apply_tile(ar, ai, yr, yi, er, ei, fr, fi, sr, si, COMPLEX)
        x_here = x_at + t * inner * PARTS
        store(grad_x_ptr, x_here, yr, yi, live, COMPLEX)

        if grad_a_ptr is not None:
            at = h_at + (t - AFTER) * h_time
            hr, hi = load(h_ptr, at, has_before & there, 0.0, CARRY, COMPLEX)
            if h0_ptr is not None:
                h0r, h0i = load(h0_ptr, h0_at + n * h0_sequence, begins, 0.0, CARRY, COMPLEX)
                hr += h0r
                hi += h0i
            gr, gi = multiply_add(yr, yi, hr, -hi, 0.0, 0.0, COMPLEX)
            store(grad_a_ptr, x_here, gr, gi, live, COMPLEX)

        ar, ai = load(a_ptr, a_at + t * a_time, begins, 0.0, CARRY, COMPLEX)
        gr, gi = multiply_add(yr, yi, ar, -ai, 0.0, 0.0, COMPLEX)
        store(grad_h0_ptr, grad_h0_at + n * inner * PARTS, gr, gi, begins, COMPLEX)
        sr, si = multiply_add(mr, mi, sr, si, br, bi, COMPLEX)
        t += -STEPS * SEGMENTS if BACKWARDS else STEPS * SEGMENTS
