"""Reorders a `PackedSequence`, which goes step by step, into sequences that lie end to end."""

import torch
from torch import Tensor


def end_to_end(batch_sizes: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where each step lies in packed data.

    Args:
        batch_sizes: Sequences that reach each step, as in `PackedSequence`.
        device: Where the data are.

    Returns:
        The packed row of each end-to-end row, the end-to-end row of each packed one, and the
        `cu_seqlens` of the end-to-end order.
    """
    total = int(batch_sizes.sum())
    starts = batch_sizes.cumsum(0) - batch_sizes
    sequence = torch.arange(total) - starts.repeat_interleave(batch_sizes, output_size=total)
    order = sequence.argsort(stable=True)  # stable: a sequence keeps its steps in order
    back = torch.empty_like(order).scatter_(0, order, torch.arange(total))
    ends = torch.zeros(int(batch_sizes[0]) + 1, dtype=torch.int64)
    torch.cumsum(sequence.bincount(), 0, out=ends[1:])
    return order.to(device), back.to(device), ends.to(device)
