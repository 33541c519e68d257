"""`phased_recurrence` step by step in plain PyTorch: its definition, and every derivative."""

from typing import Any, cast

import torch
from torch import Tensor

from longrnn.ops._side_by_side import side_by_side
from longrnn.ops.candidates import CANDIDATES
from longrnn.ops.time_gate.plain import time_gate_plain

Results = tuple[Tensor, Tensor, Tensor | None]


def phased_recurrence_plain(
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    leak: float,
    dim: int,
    reverse: bool,
) -> Results:
    """Evaluate every unit and blend; see `op.py` for the arguments."""
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        widened = [None if t is None else t.float() for t in (x, weight_ih, weight_hh, bias)]
        x, weight_ih, weight_hh, bias = cast(Any, widened)
        hidden, cells = hidden.float(), None if cells is None else cells.float()
    if cu_seqlens is not None:
        rows, valid, lengths = side_by_side(cu_seqlens)
        x, times, dim = x[rows], times[rows], 1
    gates = time_gate_plain(times, period, shift, on_ratio, leak).to(x.dtype)
    weights = (weight_ih, weight_hh, bias, *([] if cell != "lstm" else [peephole]))
    h, c = hidden, hidden if cells is None else cells
    outputs = []
    span = range(x.shape[dim])
    for t in reversed(span) if reverse else span:
        k = gates.select(dim, t)
        if lengths is not None:
            inside = (t < lengths).unsqueeze(-1)
            k = k.where(inside, 0.0)
        new_h, new_c = CANDIDATES[cell](x.select(dim, t), h, c, *weights)
        h = k * new_h + (1 - k) * h
        c = k * new_c + (1 - k) * c
        outputs.append(h if lengths is None else h.where(inside, 0.0))
    if reverse:
        outputs.reverse()
    output = torch.stack(outputs, dim) if outputs else x.new_zeros(*x.shape[:-1], h.shape[-1])
    if cu_seqlens is not None:
        output = output[valid]
    return output.to(dtype), h.to(dtype), None if cells is None else c.to(dtype)
