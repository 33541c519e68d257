"""GPU kernels of `block_linear_recurrence`.

A program walks a few lanes through time, their matrices as a tile (LANES, N, N). Where there are
enough sequences a lane is a sequence. Where there are fewer it is a chunk of one, in three rounds:
what each chunk does to any state (its map, again a matrix and an impulse), the states before all
chunks, and then every chunk from its own. The second round is the recurrence itself, one step a
chunk, so that it is split in turn. How chunks are cut depends on sizes alone, so that results are
reproducible to the bit.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops import _triton as shared
from longrnn.ops._triton import load, multiply_add, store
from longrnn.ops.block_linear_recurrence import plain

# Chosen by reasoning, to be measured on a GPU.
ELEMENTS = 512  # of a tile a warp holds, of numbers carried in 4 bytes
SPLIT = 8  # largest n that is split over time: a step of a map costs n times one of a state
STEPS = 32  # of a chunk, at least
PROGRAMS = 8  # a multiprocessor that chunks are cut for
LARGEST = 64  # n whose matrix fits the registers of a program


class _Plan(NamedTuple):
    """How one call is cut up: `chunks` of `steps` steps of each sequence, `lanes` a program."""

    outer: int
    T: int
    inner: int
    n: int
    chunks: int
    steps: int
    lanes: int

    @property
    def sequences(self) -> int:
        return self.outer * self.inner


def forward(
    transitions: Tensor, impulses: Tensor, initial_state: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    if impulses.shape[-1] > LARGEST:
        return plain.forward(transitions, impulses, initial_state, dim, reverse)
    states = torch.empty_like(impulses, memory_format=torch.contiguous_format)
    if states.numel():
        with torch.cuda.device_of(impulses):
            _forward(transitions, impulses, initial_state, states, dim, reverse)
    return states


def backward(
    grad: Tensor,
    transitions: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    dim: int,
    reverse: bool,
    need_transitions: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of transitions, impulses and initial state."""
    if grad.shape[-1] > LARGEST:
        return plain.backward(
            grad, transitions, states, initial_state, dim, reverse, need_transitions
        )
    grad_impulses = torch.empty_like(grad, memory_format=torch.contiguous_format)
    grad_transitions = grad.new_empty(transitions.shape if need_transitions else (0,))
    grad_initial = plain.initial_like(grad, dim)
    if not grad.numel():
        return grad_transitions, grad_impulses, grad_initial.zero_()
    plan, maps = _plan(grad, dim), transitions.mT  # conjugated where they are loaded
    with torch.cuda.device_of(grad):
        starts = _starts(plan, maps, grad, None, not reverse, adjoint=True)
        _launch(
            _backward_kernel,
            plan,
            plan.chunks,
            (maps, grad, states),
            (
                initial_state,
                starts,
                grad_transitions if need_transitions else None,
                grad_impulses,
                grad_initial,
            ),
            BACKWARDS=not reverse,
        )
    return grad_transitions, grad_impulses, grad_initial


def _plan(x: Tensor, dim: int) -> _Plan:
    outer, inner = math.prod(x.shape[:dim]), math.prod(x.shape[dim + 1 : -1])
    T, n, sequences = x.shape[dim], x.shape[-1], outer * inner
    power = triton.next_power_of_2
    lanes = max(1, ELEMENTS * 4 // shared.CARRY[x.dtype][0] // power(n) ** 2)
    wanted, steps = PROGRAMS * shared._processors(x.device), T
    if n <= SPLIT and triton.cdiv(sequences, lanes) < wanted:
        steps = min(T, max(STEPS, triton.cdiv(T * sequences, lanes * wanted)))
    chunks = triton.cdiv(T, steps)
    return _Plan(outer, T, inner, n, chunks, steps, min(lanes, power(sequences * chunks)))


def _forward(
    transitions: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    states: Tensor,
    dim: int,
    reverse: bool,
) -> None:
    plan = _plan(impulses, dim)
    starts = _starts(plan, transitions, impulses, initial_state, reverse, adjoint=False)
    operands = transitions, impulses
    _launch(_forward_kernel, plan, plan.chunks, operands, (starts, states), BACKWARDS=reverse)


def _starts(
    plan: _Plan,
    maps: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    backwards: bool,
    *,
    adjoint: bool,
) -> Tensor | None:
    """The state before each chunk, (chunks, sequences, n); None where all are zero."""
    if plan.chunks == 1:
        return initial_state
    lead, n = (plan.chunks - 1, plan.sequences), plan.n  # nobody needs the last chunk's map
    carry = torch.promote_types(impulses.dtype, torch.float32)
    products = impulses.new_empty((*lead, n, n), dtype=carry)
    partials = impulses.new_empty((*lead, n), dtype=carry)
    _launch(
        _reduce_kernel,
        plan,
        plan.chunks - 1,
        (maps, impulses),
        (products, partials),
        BACKWARDS=backwards,
        ADJOINT=adjoint,
    )
    starts = impulses.new_zeros((plan.chunks, *partials.shape[1:]), dtype=carry)
    first = None
    if initial_state is not None:
        first = starts[0].copy_(initial_state.reshape(starts[0].shape))
    _forward(products, partials, first, starts[1:], 0, False)
    return starts


def _launch(
    kernel: Any,
    plan: _Plan,
    chunks: int,
    operands: tuple[Tensor, ...],
    contiguous: tuple[Tensor | None, ...],
    **options: bool,
) -> None:
    """Run a kernel on matrices and rows of any strides, and on contiguous tensors."""
    x, n = operands[1], plan.n
    N, count, nbytes = triton.next_power_of_2(n), chunks * plan.sequences, shared.CARRY[x.dtype][0]
    shape = plan.outer, plan.T, plan.inner
    viewed = [
        _real(v.reshape(*shape, *v.shape[v.ndim - tail :]))
        for v, tail in zip(operands, (2, 1, 1), strict=False)
    ]
    kernel[(triton.cdiv(count, plan.lanes),)](
        *viewed,
        *(None if v is None else _real(v.contiguous()) for v in contiguous),
        *(plan.T, plan.sequences, plan.inner, n, plan.steps, count),
        *(stride for v in viewed for stride in (v.stride()[:-1] if x.is_complex() else v.stride())),
        CARRY=shared.CARRY[x.dtype][1],
        COMPLEX=x.is_complex(),
        LANES=plan.lanes,
        N=N,
        num_warps=max(1, min(8, plan.lanes * N * N * nbytes // (4 * ELEMENTS))),
        **options,
    )


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


@triton.jit
def _walk(count, sequences, inner, steps, LANES: tl.constexpr):
    """The lanes of a program, which sequences they walk (outer, inner), and from which step."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    chunk = lane // sequences
    s = lane - chunk * sequences
    o = s // inner
    return lane, lane < count, o, s - o * inner, chunk * steps


@triton.jit
def _multiply(ar, ai, vr, vi, wr, wi, COMPLEX: tl.constexpr):
    """A v + w, of (LANES, N, N) and (LANES, N)."""
    vr = vr[:, None, :]
    vi = vi[:, None, :]
    if COMPLEX:
        re = tl.sum(ar * vr - ai * vi, 2) + wr
        im = tl.sum(ar * vi + ai * vr, 2) + wi
    else:
        re = tl.sum(ar * vr, 2) + wr
        im = re
    return re, im


@triton.jit
def _forward_kernel(
    a_ptr,
    x_ptr,
    h0_ptr,
    h_ptr,
    T,
    sequences,
    inner,
    n,
    steps,
    count,
    a_outer,
    a_time,
    a_inner,
    a_row,
    a_column,
    x_outer,
    x_time,
    x_inner,
    x_row,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BACKWARDS: tl.constexpr,
    LANES: tl.constexpr,
    N: tl.constexpr,
):
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    lane, there, o, i, first = _walk(count, sequences, inner, steps, LANES)
    k = tl.arange(0, N)
    row = there[:, None] & (k < n)[None, :]
    square = row[:, :, None] & (k < n)[None, None, :]
    a_at = (o * a_outer + i * a_inner)[:, None, None]
    a_at += (k * a_row)[None, :, None] + (k * a_column)[None, None, :]
    x_at = (o * x_outer + i * x_inner)[:, None] + (k * x_row)[None, :]
    h_at = ((o * T * inner + i) * n * PARTS)[:, None] + (k * PARTS)[None, :]

    hr = tl.zeros((LANES, N), CARRY)
    hi = hr
    if h0_ptr is not None:
        start_at = (lane * n * PARTS)[:, None] + (k * PARTS)[None, :]
        hr, hi = load(h0_ptr, start_at, row, 0.0, CARRY, COMPLEX)
    for step in range(steps):
        t = first + step
        live = t < T
        if BACKWARDS:
            t = T - 1 - t
        a_here = a_at + (t * a_time)[:, None, None]
        ar, ai = load(a_ptr, a_here, square & live[:, None, None], 0.0, CARRY, COMPLEX)
        mask = row & live[:, None]
        xr, xi = load(x_ptr, x_at + (t * x_time)[:, None], mask, 0.0, CARRY, COMPLEX)
        hr, hi = _multiply(ar, ai, hr, hi, xr, xi, COMPLEX)
        store(h_ptr, h_at + (t * inner * n * PARTS)[:, None], hr, hi, mask, COMPLEX)


@triton.jit
def _reduce_kernel(
    a_ptr,
    x_ptr,
    product_ptr,
    partial_ptr,
    T,
    sequences,
    inner,
    n,
    steps,
    count,
    a_outer,
    a_time,
    a_inner,
    a_row,
    a_column,
    x_outer,
    x_time,
    x_inner,
    x_row,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BACKWARDS: tl.constexpr,
    ADJOINT: tl.constexpr,
    LANES: tl.constexpr,
    N: tl.constexpr,
):
    """What each chunk does to any state: v -> product v + partial. All its steps are there."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    lane, there, o, i, first = _walk(count, sequences, inner, steps, LANES)
    k = tl.arange(0, N)
    row = there[:, None] & (k < n)[None, :]
    square = row[:, :, None] & (k < n)[None, None, :]
    a_at = (o * a_outer + i * a_inner)[:, None, None]
    a_at += (k * a_row)[None, :, None] + (k * a_column)[None, None, :]
    x_at = (o * x_outer + i * x_inner)[:, None] + (k * x_row)[None, :]

    br = tl.zeros((LANES, N), CARRY)
    bi = br
    pr = tl.zeros((LANES, N, N), CARRY) + tl.where(k[:, None] == k[None, :], 1.0, 0.0)[None, :, :]
    pi = tl.zeros((LANES, N, N), CARRY)
    for step in range(steps):
        t = first + step
        if BACKWARDS:
            t = T - 1 - t
        a_here = a_at + (t * a_time)[:, None, None]
        ar, ai = load(a_ptr, a_here, square, 0.0, CARRY, COMPLEX)
        xr, xi = load(x_ptr, x_at + (t * x_time)[:, None], row, 0.0, CARRY, COMPLEX)
        if ADJOINT:
            ai = -ai
            br, bi = _multiply(ar, ai, br + xr, bi + xi, 0.0, 0.0, COMPLEX)
        else:
            br, bi = _multiply(ar, ai, br, bi, xr, xi, COMPLEX)
        ar = ar[:, :, :, None]
        ai = ai[:, :, :, None]
        if COMPLEX:
            re = tl.sum(ar * pr[:, None, :, :] - ai * pi[:, None, :, :], 2)
            pi = tl.sum(ar * pi[:, None, :, :] + ai * pr[:, None, :, :], 2)
            pr = re
        else:
            pr = tl.sum(ar * pr[:, None, :, :], 2)
    rows_at = (lane * n * PARTS)[:, None] + (k * PARTS)[None, :]
    store(partial_ptr, rows_at, br, bi, row, COMPLEX)
    matrix_at = (rows_at * n)[:, :, None] + (k * PARTS)[None, None, :]
    store(product_ptr, matrix_at, pr, pi, square, COMPLEX)


@triton.jit
def _backward_kernel(
    a_ptr,
    y_ptr,
    h_ptr,
    h0_ptr,
    q0_ptr,
    grad_a_ptr,
    grad_x_ptr,
    grad_h0_ptr,
    T,
    sequences,
    inner,
    n,
    steps,
    count,
    a_outer,
    a_time,
    a_inner,
    a_row,
    a_column,
    y_outer,
    y_time,
    y_inner,
    y_row,
    h_outer,
    h_time,
    h_inner,
    h_row,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BACKWARDS: tl.constexpr,
    LANES: tl.constexpr,
    N: tl.constexpr,
):
    """Against the direction of the recurrence: s = q + y; grad_A = s before^H; q = A^H s.

    `a` comes transposed. The state before a step is that of the step that is walked next.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    lane, there, o, i, first = _walk(count, sequences, inner, steps, LANES)
    k = tl.arange(0, N)
    row = there[:, None] & (k < n)[None, :]
    square = row[:, :, None] & (k < n)[None, None, :]
    a_at = (o * a_outer + i * a_inner)[:, None, None]
    a_at += (k * a_row)[None, :, None] + (k * a_column)[None, None, :]
    y_at = (o * y_outer + i * y_inner)[:, None] + (k * y_row)[None, :]
    h_at = (o * h_outer + i * h_inner)[:, None] + (k * h_row)[None, :]
    x_at = ((o * T * inner + i) * n * PARTS)[:, None] + (k * PARTS)[None, :]
    h0_at = ((o * inner + i) * n * PARTS)[:, None] + (k * PARTS)[None, :]

    qr = tl.zeros((LANES, N), CARRY)
    qi = qr
    if q0_ptr is not None:
        start_at = (lane * n * PARTS)[:, None] + (k * PARTS)[None, :]
        qr, qi = load(q0_ptr, start_at, row, 0.0, CARRY, COMPLEX)
    for step in range(steps):
        t = first + step
        mask = row & (t < T)[:, None]
        ends = row & (t == T - 1)[:, None]
        goes_on = row & (t < T - 1)[:, None]
        before = t + 1
        if BACKWARDS:
            t = T - 1 - t
            before = t - 1
        a_here = a_at + (t * a_time)[:, None, None]
        ar, ai = load(a_ptr, a_here, square & mask[:, :, None], 0.0, CARRY, COMPLEX)
        yr, yi = load(y_ptr, y_at + (t * y_time)[:, None], mask, 0.0, CARRY, COMPLEX)
        yr += qr
        if COMPLEX:
            yi += qi
        x_here = x_at + (t * inner * n * PARTS)[:, None]
        store(grad_x_ptr, x_here, yr, yi, mask, COMPLEX)
        if grad_a_ptr is not None:
            h_here = h_at + (before * h_time)[:, None]
            hr, hi = load(h_ptr, h_here, goes_on, 0.0, CARRY, COMPLEX)
            if h0_ptr is not None:
                h0r, h0i = load(h0_ptr, h0_at, ends, 0.0, CARRY, COMPLEX)
                hr += h0r
                hi += h0i
            gr, gi = multiply_add(
                yr[:, :, None], yi[:, :, None], hr[:, None, :], -hi[:, None, :], 0.0, 0.0, COMPLEX
            )
            matrix_at = (x_here * n)[:, :, None] + (k * PARTS)[None, None, :]
            store(grad_a_ptr, matrix_at, gr, gi, square & mask[:, :, None], COMPLEX)
        qr, qi = _multiply(ar, -ai, yr, yi, 0.0, 0.0, COMPLEX)
        store(grad_h0_ptr, h0_at, qr, qi, ends, COMPLEX)
