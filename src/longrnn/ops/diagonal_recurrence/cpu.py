"""CPU kernel of `diagonal_recurrence`: pointers and sizes to compiled code."""

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops._hidden_call import hidden_call, pointer
from longrnn.ops.diagonal_recurrence.cells import allocate


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the layer; see `op.py` for what the arguments mean."""
    results = allocate(gates, initial_state, keep, _native.empty)
    inputs = [t.contiguous() for t in (gates, weight, initial_state)]
    _native.function("diagonal_recurrence_forward", "iinnnpnpiii" + "p" * 6)(
        *hidden_call(gates, weight.shape[-1], cell, lengths, cu_seqlens, dim, reverse),
        *map(pointer, inputs),
        *map(pointer, results),
    )
    return results


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gates, weight and initial state, in one pass."""
    d = _native.empty(gates.shape, gates)
    by_weight = weight.new_empty(initial_state.shape[1], *weight.shape)
    by_initial = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
    inputs = [
        None if t is None else t.contiguous()
        for t in (gates, weight, initial_state, grad_output, grad_last, output, cells)
    ]
    _native.function("diagonal_recurrence_backward", "iinnnpnpiii" + "p" * 10)(
        *hidden_call(gates, weight.shape[-1], cell, lengths, cu_seqlens, dim, reverse),
        *map(pointer, inputs),
        *map(pointer, (d, by_weight, by_initial)),
    )
    return d, by_weight.sum(0), by_initial
