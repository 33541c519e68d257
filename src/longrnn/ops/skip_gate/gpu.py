"""GPU kernels of `skip_gate`: one program takes a few sequences through all of their steps.

With `keep` the inputs are read beforehand, all at once. Both ways a row's sum is formed by the same
function on tiles of the same shape, so that both round alike.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops._triton import CARRY
from longrnn.ops._triton_cells import sequences_of
from longrnn.ops._triton_math import load_real, sigmoids
from longrnn.ops.skip_gate.cpu import allocate

# The one place for tuning: chosen by reasoning, to be measured.
ROWS = 16  # sequences of a program, or rows whose inputs are read at once
CHUNK = 128  # features of an input that are summed at a time, at most


def forward(
    x: Tensor,
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the gate; see `op.py` for what the arguments mean."""
    updates, p, kappa, gate = allocate(x, update_prob, keep)
    if lengths is not None:  # padded steps, which no program sees
        updates.zero_()
        gate.zero_()
    x, weight_u, m, total = x.contiguous(), weight_u.contiguous(), x.shape[-1], updates.numel()
    inputs = (update_prob, accum_prob, lengths, cu_seqlens)
    count, sizes, options = _plan(x, cu_seqlens, dim, update_prob)
    options["CHUNK"] = min(CHUNK, triton.next_power_of_2(m))
    with torch.cuda.device_of(x):
        if keep and total:
            _probabilities_kernel[(triton.cdiv(total, ROWS),)](
                x, weight_u, bias_u, gate, total, m, **options
            )
        if count:
            _forward_kernel[(triton.cdiv(count, ROWS),)](
                *(x, weight_u, bias_u, *(None if t is None else t.contiguous() for t in inputs)),
                *(updates, p, kappa, gate, *sizes, m),
                KEEP=keep,
                **options,
            )
    return updates, p, kappa, gate


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    gate: Tensor,
    dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the pre-activation of p at every step, and of p and kappa before the first."""
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.numel() - 1
    logits = gate.new_zeros(*x.shape[:-1], 1)
    initial = gate.new_empty(rows, 1), gate.new_empty(rows, 1)
    count, sizes, options = _plan(x, cu_seqlens, dim, gate)
    if count:
        with torch.cuda.device_of(x):
            _backward_kernel[(triton.cdiv(count, ROWS),)](
                *(None if t is None else t.contiguous() for t in (*grads, lengths, cu_seqlens)),
                *(gate, logits, *initial, *sizes),
                **options,
            )
    return logits, *initial


def _plan(
    x: Tensor, cu_seqlens: Tensor | None, dim: int, carried: Tensor
) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    """How many sequences there are, where their steps lie, and constants of every kernel."""
    T = x.shape[dim]
    if cu_seqlens is not None:
        count, step, apart = cu_seqlens.numel() - 1, 1, 0
    else:
        count = x.shape[1 - dim]
        step, apart = (1, T) if dim == 1 else (count, 1)
    options = {"CARRY": CARRY[carried.dtype][1], "ROWS": ROWS, "num_warps": 1}
    return count, (count, T, step, apart), options


@triton.jit
def _probabilities(
    x_ptr, weight_u_ptr, bias_u_ptr, row, wanted, m, CARRY: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """What p becomes if these rows update."""
    along = tl.zeros((ROWS,), CARRY)
    for j in range(0, m, CHUNK):
        feature = j + tl.arange(0, CHUNK)
        weight = load_real(weight_u_ptr, feature, feature < m, CARRY)
        inside = wanted[:, None] & (feature < m)[None, :]
        x = load_real(x_ptr, (row * m)[:, None] + feature[None, :], inside, CARRY)
        along += tl.sum(x * weight[None, :], axis=1)
    p, _ = sigmoids(along + tl.load(bias_u_ptr))
    return p


@triton.jit
def _probabilities_kernel(
    x_ptr, weight_u_ptr, bias_u_ptr, gate_ptr, total, m, CARRY: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < total
    new_prob = _probabilities(x_ptr, weight_u_ptr, bias_u_ptr, row, there, m, CARRY, ROWS, CHUNK)
    tl.store(gate_ptr + 4 * row + 3, new_prob, mask=there)


@triton.jit
def _forward_kernel(
    x_ptr,
    weight_u_ptr,
    bias_u_ptr,
    prob_ptr,
    accum_ptr,
    lengths_ptr,
    ends_ptr,
    updates_ptr,
    last_prob_ptr,
    last_accum_ptr,
    gate_ptr,
    count,
    T,
    step,
    apart,
    m,
    KEEP: tl.constexpr,
    CARRY: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    tile = tl.program_id(0)
    s, there, first, steps = sequences_of(tile, count, T, step, apart, lengths_ptr, ends_ptr, ROWS)
    prob = load_real(prob_ptr, s, there, CARRY)
    accum = load_real(accum_ptr, s, there, CARRY)
    for t in range(0, tl.max(steps)):
        live = t < steps
        row = first + t * step
        accumulated = accum + tl.where(prob <= 1.0 - accum, prob, 1.0 - accum)
        update = (accumulated > 0.5) & live  # a tie skips
        tl.store(updates_ptr + row, update.to(CARRY), mask=live)
        if KEEP:
            tl.store(gate_ptr + 4 * row, prob, mask=live)
            tl.store(gate_ptr + 4 * row + 1, accum, mask=live)
            tl.store(gate_ptr + 4 * row + 2, accumulated, mask=live)
            prob = tl.where(update, tl.load(gate_ptr + 4 * row + 3, mask=live, other=0.0), prob)
        elif tl.max(update.to(tl.int32)) > 0:
            new_prob = _probabilities(
                x_ptr, weight_u_ptr, bias_u_ptr, row, update, m, CARRY, ROWS, CHUNK
            )
            prob = tl.where(update, new_prob, prob)
        accum = tl.where(update, 0.0, tl.where(live, accumulated, accum))
    tl.store(last_prob_ptr + s, prob, mask=there)
    tl.store(last_accum_ptr + s, accum, mask=there)


@triton.jit
def _backward_kernel(
    grad_updates_ptr,
    grad_prob_ptr,
    grad_accum_ptr,
    lengths_ptr,
    ends_ptr,
    gate_ptr,
    logits_ptr,
    initial_prob_ptr,
    initial_accum_ptr,
    count,
    T,
    step,
    apart,
    CARRY: tl.constexpr,
    ROWS: tl.constexpr,
):
    tile = tl.program_id(0)
    s, there, first, steps = sequences_of(tile, count, T, step, apart, lengths_ptr, ends_ptr, ROWS)
    grad_prob = tl.zeros((ROWS,), CARRY)
    grad_accum = grad_prob
    if grad_prob_ptr is not None:
        grad_prob = tl.load(grad_prob_ptr + s, mask=there, other=0.0)
    if grad_accum_ptr is not None:
        grad_accum = tl.load(grad_accum_ptr + s, mask=there, other=0.0)
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
        grad = grad_prob * (new_prob - prob) - grad_accum * accumulated
        if grad_updates_ptr is not None:
            grad += tl.load(grad_updates_ptr + row, mask=live, other=0.0)
        grad += tl.where(update, 0.0, grad_accum)
        logit = tl.where(update, grad_prob * new_prob * (1.0 - new_prob), 0.0)
        tl.store(logits_ptr + row, logit, mask=live)
        risen = tl.where(prob <= 1.0 - accum, grad, 0.0)
        grad_prob = tl.where(live, tl.where(update, 0.0, grad_prob) + risen, grad_prob)
        grad_accum = tl.where(live, risen, grad_accum)
    tl.store(initial_prob_ptr + s, grad_prob, mask=there)
    tl.store(initial_accum_ptr + s, grad_accum, mask=there)
