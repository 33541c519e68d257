"""`gated_recurrence` composed of PyTorch's own operations and `linear_recurrence`.

The definition of the op, its fall-back where no kernel of ours runs, and its second derivative.
"""

import torch
from torch import Tensor

from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.linear_recurrence.plain import final, previous


def gated_recurrence_plain(
    gates: Tensor,
    highway: Tensor | None,
    openness: Tensor | None,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, every state, and the final state; see `op.py` for the arguments."""
    dtype = gates.dtype
    if dtype in (torch.float16, torch.bfloat16):
        highway = None if highway is None else highway.float()
        openness = None if openness is None else openness.float()
        tensors = (gates.float(), highway, openness, initial_state.float())
        wide = gated_recurrence_plain(*tensors, lengths, cu_seqlens, cell, dim, reverse)
        return wide[0].to(dtype), wide[1].to(dtype), wide[2].to(dtype)
    definition = CELLS[cell]
    parts = gates.chunk(definition.gates, -1)
    counts = parts
    if openness is not None:
        counts = tuple(p.where((openness != 0) | p.isfinite(), 0.0) for p in parts)
    decay, impulse = decays, impulses = definition.recurrence(*counts)
    if openness is not None:
        decays = decays + (1 - openness) * (1 - decays)
        impulses = openness * impulses
    valid = None
    if lengths is not None:
        steps = torch.arange(gates.shape[dim], device=gates.device)
        valid = steps.unsqueeze(1 - dim) < lengths.unsqueeze(dim)
        valid = valid.unsqueeze(-1)
        decays = decays.where(valid, 1.0)
        impulses = impulses.where(valid, 0.0)
    states = linear_recurrence(
        decays, impulses, initial_state, dim=dim, reverse=reverse, cu_seqlens=cu_seqlens
    )
    last = final(states, initial_state, cu_seqlens, dim, reverse)
    if cell == "surrogate":
        output = previous(states, initial_state, cu_seqlens, dim, reverse)
    elif definition.output is None:
        output = states
    elif definition.candidate:
        before = previous(states, initial_state, cu_seqlens, dim, reverse)
        output = definition.output(decay * before + impulse, highway, *counts)
    else:
        output = definition.output(states, highway, *parts)
    if valid is not None:
        output = output.where(valid, 0.0)
    return output, states, last
