"""CPU kernel of `skip_gate`: pointers and sizes to compiled code."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._hidden_call import pointer
from longrnn.ops.linear_recurrence.cpu import DTYPES


def allocate(
    x: Tensor,
    update_prob: Tensor,
    keep: bool,
    empty: Callable[..., Tensor] = lambda shape, like: like.new_empty(shape),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the op's results, and for what the gradient needs.

    That is, of each step, p and kappa before it, u before rounding, and p if the step updates.
    """
    p = torch.empty_like(update_prob, memory_format=torch.contiguous_format)
    gate = empty((*x.shape[:-1], 4), p) if keep else p.new_empty(0)
    return p.new_empty(*x.shape[:-1], 1), p, torch.empty_like(p), gate


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
    results = allocate(x, update_prob, keep, _native.empty)
    inputs = [t.contiguous() for t in (weight_u, bias_u, x, update_prob, accum_prob)]
    lengths, cu_seqlens = (None if t is None else t.contiguous() for t in (lengths, cu_seqlens))
    _native.function("skip_gate_forward", "innnpnpii" + "p" * 9)(
        *_common(x, lengths, cu_seqlens, dim), *map(pointer, (*inputs, *results))
    )
    return results


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    gate: Tensor,
    dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the pre-activation of p at every step, and of p and kappa before the first."""
    held = [None if t is None else t.contiguous() for t in (*grads, lengths, cu_seqlens)]
    *incoming, lengths, cu_seqlens = held
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.numel() - 1
    found = gate.new_empty(*x.shape[:-1], 1), gate.new_empty(rows, 1), gate.new_empty(rows, 1)
    _native.function("skip_gate_backward", "innnpnpii" + "p" * 7)(
        *_common(x, lengths, cu_seqlens, dim), *map(pointer, (gate, *incoming, *found))
    )
    return found


def _common(
    x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, dim: int
) -> tuple[int | None, ...]:
    if lengths is not None:  # unchecked until here in a compiled program
        _checks.check_lengths_values(lengths, x.shape[dim])
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, x.shape[dim])
    return (
        DTYPES[x.dtype],
        1 if cu_seqlens is not None else x.shape[1 - dim],
        x.shape[dim],
        x.shape[-1],
        pointer(cu_seqlens),
        1 if cu_seqlens is None else cu_seqlens.numel() - 1,
        pointer(lengths),
        dim == 1,
        torch.get_num_threads(),
    )
