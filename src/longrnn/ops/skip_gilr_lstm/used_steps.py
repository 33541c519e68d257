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
    used, dtype, h = updates.squeeze(-1) > 0, weights[0].dtype, states[2][-1]
    if used.all():  # a stream's step that updates
        return _run(x.to(dtype), weights, states, surrogate_shift, masks, cu_seqlens, dim)
    y, last = h[:0], [member.clone() for member in states]
    if cu_seqlens is None and lengths is None and not used.any():  # and one that does not
        return h.unsqueeze(dim).expand(*used.shape, -1).clone(), *last
    rows, ends, source = _find(used, lengths, cu_seqlens, dim)
    if rows.numel():
        given = x.flatten(0, -2).index_select(0, rows).to(dtype)
        masks = None if masks is None else masks.flatten(1, -2).index_select(1, rows)
        y, *last = _run(given, weights, states, surrogate_shift, masks, ends, 0)
    held = torch.cat([y, h, torch.zeros_like(h[:1])]).index_select(0, source)
    return held.view(*x.shape[:-1], -1), *last


def _run(
    x: Tensor,
    weights: Sequence[Any],
    states: Sequence[Tensor],
    surrogate_shift: bool,
    masks: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> tuple[Tensor, ...]:
    """The stack where every step updates."""
    layout: dict[str, Any] = {"cu_seqlens": cu_seqlens, "batch_first": dim == 1}
    finals = []
    for k, (surrogate, c, h) in enumerate(zip(*states, strict=True)):
        if masks is not None and k:
            x = x * masks[k - 1]
        layer = weights[5 * k : 5 * k + 5]
        x, surrogate, c = gilr_lstm(x, layer, surrogate, c, surrogate_shift, **layout)
        finals.append((surrogate, c, final(x, h, cu_seqlens, dim, False)))
    return x, *(torch.stack(member) for member in zip(*finals, strict=True))


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
