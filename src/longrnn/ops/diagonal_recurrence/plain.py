"""`diagonal_recurrence` step by step in plain PyTorch: its definition, and every derivative."""

from typing import NamedTuple

import torch
from torch import Tensor

from longrnn.ops._side_by_side import side_by_side
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES


class Padded(NamedTuple):
    """Sequences side by side."""

    gates: Tensor
    valid: Tensor | None  # which steps lie within their sequence, with a last dimension of 1
    rows: Tensor | None  # where each step lies among sequences end to end, if they did
    dim: int  # of time

    def spread(self, x: Tensor) -> Tensor:
        """Put a tensor that lies as the op's gates side by side as well."""
        return x if self.rows is None else x[self.rows]

    def gather(self, x: Tensor) -> Tensor:
        """Lay a result as the op's gates lie, zero past each sequence's end."""
        if self.valid is None:
            return x
        return x.where(self.valid, 0.0) if self.rows is None else x[self.valid.squeeze(-1)]


def pad(gates: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, dim: int) -> Padded:
    """Lay sequences side by side, however they lie; see `op.py` for the arguments."""
    if cu_seqlens is not None:
        rows, valid, _ = side_by_side(cu_seqlens)
        return Padded(gates[rows], valid.unsqueeze(-1), rows, dim=1)
    if lengths is None:
        return Padded(gates, None, None, dim)
    steps = torch.arange(gates.shape[dim], device=gates.device)
    valid = steps.unsqueeze(1 - dim) < lengths.unsqueeze(dim)
    return Padded(gates, valid.unsqueeze(-1), None, dim)


def diagonal_recurrence_plain(
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Return output and final state; see `op.py` for the arguments."""
    dtype = gates.dtype
    x, valid, _, dim = padded = pad(gates.to(weight.dtype), lengths, cu_seqlens, dim)
    state = initial_state.to(weight.dtype).unbind()
    outputs = []
    span = range(x.shape[dim])
    for t in reversed(span) if reverse else span:
        after = CELLS[cell].step(x.select(dim, t).chunk(GATES, -1), weight.unbind(), state)
        if valid is not None:
            inside = valid.select(dim, t)
            after = tuple(new.where(inside, old) for new, old in zip(after, state, strict=True))
        state = after
        outputs.append(state[0])
    if reverse:
        outputs.reverse()
    output = torch.stack(outputs, dim) if outputs else x[..., : weight.shape[-1]]
    return padded.gather(output).to(dtype), torch.stack(state).to(dtype)
