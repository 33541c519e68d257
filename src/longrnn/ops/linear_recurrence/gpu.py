"""GPU kernels of `linear_recurrence`; `ops/_triton.py` says how they split the work."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton as shared
from longrnn.ops._triton import (
    chain,
    claim,
    final,
    load,
    multiply_add,
    over_channels,
    over_time,
    scan_tile,
    store,
    times,
)

# Bytes of a carried number, and the dtype of its parts.
_CARRY = {
    torch.float16: (4, tl.float32),
    torch.bfloat16: (4, tl.float32),
    torch.float32: (4, tl.float32),
    torch.float64: (8, tl.float64),
    torch.complex64: (8, tl.float32),
    torch.complex128: (16, tl.float64),
}


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
    nbytes, carry = _CARRY[impulses.dtype]
    plan = shared.plan("linear_forward", T, outer, inner, nbytes, algorithm, impulses.device)
    memory = shared.scratch(plan, T, outer * inner, nbytes, cu_seqlens, impulses, reverse)
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
            CARRY=carry,
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
    nbytes, carry = _CARRY[grad.dtype]
    plan = shared.plan("linear_backward", T, outer, inner, nbytes, algorithm, grad.device)
    memory = shared.scratch(plan, T, outer * inner, nbytes, cu_seqlens, grad, reverse)
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
            CARRY=carry,
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
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    AXIS: tl.constexpr = 1 if TIME_LAST else 0
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, BLOCK_T, BACKWARDS, TIME_LAST)
    c = block * BLOCK_D + tl.arange(0, BLOCK_D).to(tl.int64)
    o = c // inner
    i = c - o * inner
    a_at = over_channels(o * a_outer + i * a_inner, TIME_LAST)
    x_at = over_channels(o * x_outer + i * x_inner, TIME_LAST)
    h_at = over_channels((o * T * inner + i) * PARTS, TIME_LAST)
    h0_at = o * h0_outer + i * h0_inner

    hr = tl.zeros((BLOCK_D,), CARRY)
    hi = hr
    if h0_ptr is not None and first_ptr is None:
        hr, hi = load(h0_ptr, h0_at, c < C, 0.0, CARRY, COMPLEX)
    for _ in range(first, stop):
        live = over_time(t < T, TIME_LAST) & over_channels(c < C, TIME_LAST)
        # Steps that are not there keep the state: decay 1, impulse 0.
        ar, ai = load(a_ptr, a_at + over_time(t * a_time, TIME_LAST), live, 1.0, CARRY, COMPLEX)
        xr, xi = load(x_ptr, x_at + over_time(t * x_time, TIME_LAST), live, 0.0, CARRY, COMPLEX)
        if first_ptr is not None:
            # A sequence begins where a mark is: the state before it is its initial state.
            n = tl.load(first_ptr + t, mask=t < T, other=0) - 1
            begins = over_time(n >= 0, TIME_LAST)
            if h0_ptr is not None:
                at = over_channels(h0_at, TIME_LAST) + over_time(n * h0_sequence, TIME_LAST)
                h0r, h0i = load(h0_ptr, at, begins & live, 0.0, CARRY, COMPLEX)
                xr, xi = multiply_add(ar, ai, h0r, h0i, xr, xi, COMPLEX)
            ar = tl.where(begins, 0.0, ar)
            ai = tl.where(begins, 0.0, ai)
        ar, ai, xr, xi = scan_tile(ar, ai, xr, xi, BACKWARDS, TIME_LAST, COMPLEX)
        if CHAINED:
            hr, hi = chain(
                final(ar, BLOCK_T, BACKWARDS, TIME_LAST),
                final(ai, BLOCK_T, BACKWARDS, TIME_LAST),
                final(xr, BLOCK_T, BACKWARDS, TIME_LAST),
                final(xi, BLOCK_T, BACKWARDS, TIME_LAST),
                hr,
                hi,
                maps_ptr,
                states_ptr,
                first,
                c,
                C,
                CARRY,
                COMPLEX,
                BLOCK_D,
                GROUP,
                LOOK,
            )
        before_r = over_channels(hr, TIME_LAST)
        before_i = over_channels(hi, TIME_LAST)
        xr, xi = multiply_add(ar, ai, before_r, before_i, xr, xi, COMPLEX)
        at = h_at + over_time(t * inner * PARTS, TIME_LAST)
        store(h_ptr, at, xr, xi, live, COMPLEX)
        hr = final(xr, BLOCK_T, BACKWARDS, TIME_LAST)
        hi = final(xi, BLOCK_T, BACKWARDS, TIME_LAST)
        t += -BLOCK_T if BACKWARDS else BLOCK_T


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
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    """s_t = conj(a_{t+1}) s_{t+1} + y_t, against the direction of the recurrence.

    The neighbours a_{t+1} and h_{t-1} are loaded one step aside of y_t, mostly out of cache, since
    the next tile needs the same lines: nothing is shifted or copied.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    AFTER: tl.constexpr = 1 if BACKWARDS else -1  # to the next step of the recurrence
    block, first, stop = claim(ticket_ptr, chunks, blocks, CHAINED)
    t = times(first, chunks, BLOCK_T, BACKWARDS, TIME_LAST)
    c = block * BLOCK_D + tl.arange(0, BLOCK_D).to(tl.int64)
    o = c // inner
    i = c - o * inner
    y_at = over_channels(o * y_outer + i * y_inner, TIME_LAST)
    a_at = over_channels(o * a_outer + i * a_inner, TIME_LAST)
    h_at = over_channels(o * h_outer + i * h_inner, TIME_LAST)
    h0_at = over_channels(o * h0_outer + i * h0_inner, TIME_LAST)
    x_at = over_channels((o * T * inner + i) * PARTS, TIME_LAST)
    grad_h0_at = over_channels((o * N * inner + i) * PARTS, TIME_LAST)

    sr = tl.zeros((BLOCK_D,), CARRY)
    si = sr
    for _ in range(first, stop):
        there = over_channels(c < C, TIME_LAST)
        live = over_time(t < T, TIME_LAST) & there
        has_after = over_time((t < T) & (t + AFTER >= 0) & (t + AFTER < T), TIME_LAST) & there
        has_before = over_time((t < T) & (t - AFTER >= 0) & (t - AFTER < T), TIME_LAST) & there
        # n: the sequence of which a step is the first.
        if first_ptr is not None:
            n = over_time(tl.load(first_ptr + t, mask=t < T, other=0) - 1, TIME_LAST)
            begins = (n >= 0) & live
            ends = over_time(tl.load(last_ptr + t, mask=t < T, other=0) > 0, TIME_LAST)
        else:
            n = over_time(t * 0, TIME_LAST)
            begins = over_time(t == (0 if BACKWARDS else T - 1), TIME_LAST) & live

        at = y_at + over_time(t * y_time, TIME_LAST)
        yr, yi = load(y_ptr, at, live, 0.0, CARRY, COMPLEX)
        at = a_at + over_time(t * a_time, TIME_LAST)
        ar, ai = load(a_ptr, at + AFTER * a_time, has_after, 1.0, CARRY, COMPLEX)
        if first_ptr is not None:
            ar = tl.where(ends, 0.0, ar)
            ai = tl.where(ends, 0.0, ai)
        ar, ai, yr, yi = scan_tile(ar, -ai, yr, yi, BACKWARDS, TIME_LAST, COMPLEX)
        if CHAINED:
            sr, si = chain(
                final(ar, BLOCK_T, BACKWARDS, TIME_LAST),
                final(ai, BLOCK_T, BACKWARDS, TIME_LAST),
                final(yr, BLOCK_T, BACKWARDS, TIME_LAST),
                final(yi, BLOCK_T, BACKWARDS, TIME_LAST),
                sr,
                si,
                maps_ptr,
                states_ptr,
                first,
                c,
                C,
                CARRY,
                COMPLEX,
                BLOCK_D,
                GROUP,
                LOOK,
            )
        after_r = over_channels(sr, TIME_LAST)
        after_i = over_channels(si, TIME_LAST)
        yr, yi = multiply_add(ar, ai, after_r, after_i, yr, yi, COMPLEX)
        x_here = x_at + over_time(t * inner * PARTS, TIME_LAST)
        store(grad_x_ptr, x_here, yr, yi, live, COMPLEX)

        if grad_a_ptr is not None:
            here = h_at + over_time((t - AFTER) * h_time, TIME_LAST)
            if first_ptr is not None:
                has_before = has_before & (n < 0)
            hr, hi = load(h_ptr, here, has_before, 0.0, CARRY, COMPLEX)
            if h0_ptr is not None:
                h0r, h0i = load(h0_ptr, h0_at + n * h0_sequence, begins, 0.0, CARRY, COMPLEX)
                hr += h0r
                hi += h0i
            gr, gi = multiply_add(yr, yi, hr, -hi, 0.0, 0.0, COMPLEX)
            store(grad_a_ptr, x_here, gr, gi, live, COMPLEX)

        ar, ai = load(a_ptr, at, begins, 0.0, CARRY, COMPLEX)
        gr, gi = multiply_add(yr, yi, ar, -ai, 0.0, 0.0, COMPLEX)
        store(grad_h0_ptr, grad_h0_at + n * inner * PARTS, gr, gi, begins, COMPLEX)
        sr = final(yr, BLOCK_T, BACKWARDS, TIME_LAST)
        si = final(yi, BLOCK_T, BACKWARDS, TIME_LAST)
        t += -BLOCK_T if BACKWARDS else BLOCK_T
