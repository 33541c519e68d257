"""`skip_gate` step by step in plain PyTorch: its definition, and every derivative."""

import torch
from torch import Tensor

from longrnn.ops._side_by_side import side_by_side
from longrnn.ops.binarize import binarize


def skip_gate_plain(
    x: Tensor,
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read every input, and let p be what it was where the step does not update."""
    new_p = (x.to(weight_u.dtype) @ weight_u.T + bias_u).sigmoid()
    if cu_seqlens is None:
        return _padded(new_p, update_prob, accum_prob, lengths, dim)
    rows, valid, lengths = side_by_side(cu_seqlens)
    updates, p, kappa = _padded(new_p[rows], update_prob, accum_prob, lengths, 1)
    return updates[valid], p, kappa


def _padded(
    new_p: Tensor, p: Tensor, kappa: Tensor, lengths: Tensor | None, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    updates = []
    for t, candidate in enumerate(new_p.unbind(dim)):
        accumulated = kappa + torch.where(p <= 1 - kappa, p, 1 - kappa)  # (B, 1)
        u = binarize(accumulated)
        if lengths is not None:
            valid = (t < lengths).unsqueeze(-1)
            u = u.where(valid, 0.0)
            accumulated = accumulated.where(valid, kappa)
        p = u * candidate + (1 - u) * p
        kappa = (1 - u) * accumulated
        updates.append(u)
    return torch.stack(updates, dim) if updates else new_p, p, kappa
