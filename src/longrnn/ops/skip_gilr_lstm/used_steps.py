"""The stack where skipped steps are left out: what stays lies end to end and skips nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from longrnn.ops.gilr_lstm import gilr_lstm
from longrnn.ops.linear_recurrence.plain import final


def run_used_steps(
    x: Tensor,
    updates: Tensor,
    weights: Sequence[Any],
    states: Sequence[Tensor],
    surrogate_shift: bool,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> tuple[Tensor, ...]:
    """Output, and each member of the final state; see `op.py` for the arguments."""
    rows, ends, source = _find(updates.squeeze(-1) > 0, lengths, cu_seqlens, dim)
    y, finals = x.flatten(0, -2).index_select(0, rows).to(weights[0].dtype), []
    for k, (surrogate, c, h) in enumerate(zip(*states, strict=True)):
        if masks is not None and k:
            y = y * masks[k - 1].flatten(0, -2).index_select(0, rows)
        if rows.numel():
            layer = weights[5 * k : 5 * k + 5]
            y, surrogate, c = gilr_lstm(y, layer, surrogate, c, surrogate_shift, cu_seqlens=ends)
        else:
            y = h[:0]
        finals.append((surrogate, c, final(y, h, ends, 0, False)))
    held = torch.cat([y, h, torch.zeros_like(h[:1])])  # h of the top layer, and what is past an end
    output = held.index_select(0, source).view(*x.shape[:-1], h.shape[-1])
    return output, *(torch.stack(member) for member in zip(*finals, strict=True))


def _find(
    used: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of used steps, sequence after sequence; their ends; and which one each row goes on from.

    The last counts used steps first, then the sequences, for steps before the first update, and
    then one for all that is past an end.
    """
    if cu_seqlens is None:
        used = used if dim == 1 else used.t()  # (B, T)
        B, T = used.shape
        bounds = torch.arange(B + 1, device=used.device) * T
    else:
        bounds = cu_seqlens
    count = pad(used.flatten().cumsum(0), (1, 0))
    ends = count[bounds]
    rows = used.flatten().nonzero().squeeze(1)
    sequences = bounds.numel() - 1
    sequence = torch.arange(sequences, device=used.device).repeat_interleave(
        bounds.diff(), output_size=used.numel()
    )
    source = (count[1:] - 1).where(count[1:] > ends[sequence], rows.numel() + sequence)
    if cu_seqlens is not None:
        return rows, ends, source
    source = source.view(B, T)
    if lengths is not None:
        past = torch.arange(T, device=used.device) >= lengths.unsqueeze(1)
        source = source.masked_fill(past, rows.numel() + B)
    if dim == 0:
        rows, source = rows % T * B + rows // T, source.t()
    return rows, ends, source.flatten()
