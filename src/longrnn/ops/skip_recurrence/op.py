r"""A stack of LSTM or GRU cells under one gate that skips steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longrnn.ops.skip_recurrence.plain import Results, skip_recurrence_plain


def skip_recurrence(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    update_prob: Tensor,
    accum_prob: Tensor,
    cell: str,
    *,
    masks: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
) -> Results:
    """Run the stack."""
    dim = 1 if batch_first and cu_seqlens is None else 0
    cells = hidden if cells is None else cells
    wide = torch.promote_types(x.dtype, torch.float32)
    return skip_recurrence_plain(
        x, weights, weight_u, bias_u, hidden.to(x.dtype), cells.to(x.dtype),
        update_prob.to(wide), accum_prob.to(wide), masks, lengths, cu_seqlens, cell, dim,
    )  # fmt: skip
