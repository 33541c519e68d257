"""`skip_recurrence` step by step in plain PyTorch: its definition, and every derivative."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from longrnn.ops._side_by_side import side_by_side
from longrnn.ops.binarize import binarize
from longrnn.ops.candidates import CANDIDATES

Results = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]


def skip_recurrence_plain(
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
) -> Results:
    """Evaluate every step and blend; see `op.py` for the arguments."""
    if x.dtype in (torch.float16, torch.bfloat16):
        widened = [None if t is None else t.float() for t in (x, hidden, cells, masks)]
        x_wide, hidden, cells, masks = cast(Any, widened)
        weights = [w.float() for w in weights]
        output, updates, *last = skip_recurrence_plain(
            x_wide, weights, weight_u, bias_u, hidden, cells, update_prob, accum_prob, masks,
            lengths, cu_seqlens, cell, dim,
        )  # fmt: skip
        narrow = [None if t is None else t.to(x.dtype) for t in (output, *last[:2])]
        return cast(Results, (narrow[0], updates, *narrow[1:], *last[2:]))
    if cu_seqlens is not None:
        rows, valid, lengths = side_by_side(cu_seqlens)
        output, updates, *last = _padded(
            x[rows], weights, weight_u, bias_u, hidden, cells, update_prob, accum_prob,
            None if masks is None else masks[:, rows], lengths, cell, 1,
        )  # fmt: skip
        return cast(Results, (output[valid], updates[valid], *last))
    return _padded(
        x, weights, weight_u, bias_u, hidden, cells, update_prob, accum_prob, masks, lengths,
        cell, dim,
    )  # fmt: skip


def _padded(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    p: Tensor,
    kappa: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    dim: int,
) -> Results:
    candidate = CANDIDATES[cell]
    layers = range(hidden.shape[0])
    h, c = list(hidden), list(hidden if cells is None else cells)  # (B, n) each
    outputs, updates = [], []
    mask_at = None if masks is None else [mask.unbind(dim) for mask in masks]
    for t, below in enumerate(x.unbind(dim)):  # indexed, each step's gradient would fill all of x
        accumulated = kappa + torch.where(p <= 1 - kappa, p, 1 - kappa)  # (B, 1)
        u = binarize(accumulated)
        if lengths is not None:
            valid = (t < lengths).unsqueeze(-1)
            u = u.where(valid, 0.0)
            accumulated = accumulated.where(valid, kappa)
        take = u.to(x.dtype)
        for k in layers:
            new_h, new_c = candidate(below, h[k], c[k], *weights[3 * k : 3 * k + 3])
            h[k] = take * new_h + (1 - take) * h[k]
            c[k] = take * new_c + (1 - take) * c[k]
            below = new_h if mask_at is None or k + 1 not in layers else new_h * mask_at[k][t]
        new_p = (new_c.to(p.dtype) @ weight_u.to(p.dtype).T + bias_u.to(p.dtype)).sigmoid()
        p = u * new_p + (1 - u) * p
        kappa = (1 - u) * accumulated
        outputs.append(h[-1] if lengths is None else h[-1].where(valid, 0.0))
        updates.append(u)
    if not outputs:
        output, gates = x.new_zeros(*x.shape[:-1], hidden.shape[-1]), p.new_zeros(*x.shape[:-1], 1)
    else:
        output, gates = torch.stack(outputs, dim), torch.stack(updates, dim)
    return output, gates, torch.stack(h), None if cells is None else torch.stack(c), p, kappa
