"""CPU kernel of `gated_recurrence`: pointers and sizes to compiled code."""

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops.gated_recurrence.cells import CELLS, allocate
from longrnn.ops.linear_recurrence.cpu import DTYPES

_NUMBER = {name: i for i, name in enumerate(CELLS)}


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
    """Run the layer; see `op.py` for what the arguments mean."""
    lengths = None if lengths is None else lengths.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    if lengths is not None:  # unchecked until here in a compiled program
        _checks.check_lengths_values(lengths, gates.shape[dim])
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, gates.shape[dim])
    gates, initial_state = gates.contiguous(), initial_state.contiguous()
    output, states, last = allocate(gates, initial_state, cell, keep_states, _native.empty)
    if not output.numel():
        return output, states, last.copy_(initial_state)
    highway = None if highway is None else highway.contiguous()
    openness = None if openness is None else openness.contiguous()
    _native.function("gated_recurrence_forward", "iinnnpnpiiippppppp")(
        *_common(gates, cell, lengths, cu_seqlens, dim, reverse),
        gates.data_ptr(),
        None if highway is None else highway.data_ptr(),
        None if openness is None else openness.data_ptr(),
        initial_state.data_ptr(),
        output.data_ptr(),
        states.data_ptr() if states.numel() else None,
        last.data_ptr(),
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
    """Return the gradients of gates, highway, openness (empty if None) and initial state."""
    gates, initial_state = gates.contiguous(), initial_state.contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    grad_gates = _native.empty(gates.shape, gates)
    grad_highway, grad_openness = (
        gates.new_empty(0) if x is None else _native.empty(output.shape, gates)
        for x in (highway, openness)
    )
    grad_initial = torch.empty_like(initial_state)
    grad_output = None if grad_output is None else grad_output.contiguous()
    grad_final = None if grad_final is None else grad_final.contiguous()
    if not output.numel():
        if grad_final is None:
            grad_initial.zero_()
        else:
            grad_initial.copy_(grad_final)
        return grad_gates, grad_highway, grad_openness, grad_initial
    highway = None if highway is None else highway.contiguous()
    openness = None if openness is None else openness.contiguous()
    _native.function("gated_recurrence_backward", "iinnnpnpiiippppppppppp")(
        *_common(gates, cell, lengths, cu_seqlens, dim, reverse),
        None if grad_output is None else grad_output.data_ptr(),
        None if grad_final is None else grad_final.data_ptr(),
        gates.data_ptr(),
        None if highway is None else highway.data_ptr(),
        None if openness is None else openness.data_ptr(),
        initial_state.data_ptr(),
        (states if states.numel() else output).data_ptr(),
        grad_gates.data_ptr(),
        grad_highway.data_ptr(),
        grad_openness.data_ptr(),
        grad_initial.data_ptr(),
    )
    return grad_gates, grad_highway, grad_openness, grad_initial


def _common(
    gates: Tensor,
    cell: str,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
) -> tuple[int | None, ...]:
    features = gates.shape[-1] // CELLS[cell].gates
    batch = 1 if cu_seqlens is not None else gates.shape[1 - dim]
    return (
        DTYPES[gates.dtype],
        _NUMBER[cell],
        batch,
        gates.shape[dim],
        features,
        None if cu_seqlens is None else cu_seqlens.data_ptr(),
        1 if cu_seqlens is None else cu_seqlens.numel() - 1,
        None if lengths is None else lengths.data_ptr(),
        dim == 1,
        reverse,
        torch.get_num_threads(),
    )
