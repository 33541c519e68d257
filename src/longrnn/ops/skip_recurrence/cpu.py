"""CPU kernel of `skip_recurrence`: pointers and sizes to compiled code."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops._hidden_call import hidden_call, pointer, pointers
from longrnn.ops.candidates import input_gradient, weight_gradients


def allocate(
    x: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    keep: bool,
    empty: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Room for the op's results: six that users see, five that the gradient needs.

    Those are the activations (L, *rows, 4 n), h and c before each step, what each layer but the
    first took, and the gate (*rows, 4): p, kappa, u before rounding, and p if the step updates.
    """
    empty = empty or (lambda shape, like: like.new_empty(shape))
    depth, rows, n = hidden.shape
    wide = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
    steps = x.shape[:-1]
    results = (
        empty((*steps, n), x),
        wide.new_empty(*steps, 1),
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        x.new_empty(0)
        if cells is None
        else torch.empty_like(cells, memory_format=torch.contiguous_format),
        wide.new_empty(rows, 1),
        wide.new_empty(rows, 1),
    )
    if not keep:  # fresh ones each: results of an op must not alias
        return *results, *(x.new_empty(0) for _ in range(4)), wide
    kept = (
        empty((depth, *steps, 4 * n), x),
        empty((depth, *steps, n), x),
        x.new_empty(0) if cells is None else empty((depth, *steps, n), x),
        empty((depth - 1, *steps, n), x),
        wide.new_empty(*steps, 4),
    )
    return *results, *kept


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
    x, hidden, weight_u, bias_u = (t.contiguous() for t in (x, hidden, weight_u, bias_u))
    results = allocate(x, hidden, cells, keep, _native.empty)
    weights = [w.contiguous() for w in weights]
    optional = [None if t is None else t.contiguous() for t in (masks, cells, lengths, cu_seqlens)]
    masks, cells, lengths, cu_seqlens = optional
    update_prob, accum_prob = update_prob.contiguous(), accum_prob.contiguous()
    inputs = (weight_u, bias_u, masks, x, hidden, cells, update_prob, accum_prob)
    _native.function("skip_recurrence_forward", "iinnnpnpiii" + "nnp" + "p" * 19)(
        *hidden_call(x, hidden.shape[-1], cell, lengths, cu_seqlens, dim),
        hidden.shape[0],
        x.shape[-1],
        pointers(weights),
        *map(pointer, inputs),
        *map(pointer, results),
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
    depth, n, rows = gates.shape[0], hidden.shape[-1], hidden.shape[1]
    updates = (gate[..., 2] > 0.5).flatten()
    position = updates.cumsum(0) - 1
    count = int(position[-1]) + 1 if len(position) else 0
    widths = [n if k else x.shape[-1] for k in range(depth)]
    states = 2 * n if cell == "gru-reset-before" else n
    d = [_native.empty((count, 4 * n), x) for _ in widths]
    seen = [_native.empty((count, states + width + 1), x) for width in widths]
    initial = [
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        *([torch.empty_like(hidden, memory_format=torch.contiguous_format)] * (cell == "lstm")),
        gate.new_empty(rows, 1),
        gate.new_empty(rows, 1),
    ]
    by_weight_u, by_bias_u = gate.new_empty(rows, n), gate.new_empty(rows)
    held = [None if t is None else t.contiguous() for t in (masks, lengths, cu_seqlens, *grads)]
    masks, lengths, cu_seqlens, *incoming = held
    x, weight_u, weights = x.contiguous(), weight_u.contiguous(), [w.contiguous() for w in weights]
    read = (weight_u, masks, x, gates, before, cells, inputs, gate, position, *incoming)
    outgoing = (*initial[:1], *(initial[1:] if cell == "lstm" else [None, *initial[1:]]))
    _native.function("skip_recurrence_backward", "iinnnpnpiii" + "nnp" + "p" * 23)(
        *hidden_call(x, n, cell, lengths, cu_seqlens, dim),
        depth,
        x.shape[-1],
        pointers(weights),
        *map(pointer, read),
        pointers(d),
        pointers(seen),
        *map(pointer, (*outgoing, by_weight_u, by_bias_u)),
    )
    of_weights = [
        gradient
        for k in range(depth)
        for gradient in weight_gradients(cell, d[k], seen[k], widths[k])
    ]
    by_x = x.new_empty(0)
    if needs_x:
        by_x = x.new_zeros(updates.shape[0], x.shape[-1])
        by_x[updates] = input_gradient(cell, d[0], weights[0])
        by_x = by_x.view(x.shape)
    by_gate = [by_weight_u.sum(0, keepdim=True), by_bias_u.sum().reshape(1)]
    return [by_x, *of_weights, *by_gate, *initial]
