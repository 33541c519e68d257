"""Sequences that lie end to end, as a padded batch."""

import torch
from torch import Tensor


def side_by_side(cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each step of a padded batch lies among sequences end to end.

    Args:
        cu_seqlens: Their ends, (N + 1,).

    Returns:
        Row of each step (N, T), 0 past a sequence's end; whether it lies within its sequence
        (N, T); and the lengths (N,). T is the longest.

    Example:
        >>> rows, valid, lengths = side_by_side(torch.tensor([0, 2, 5]))
        >>> rows.tolist()
        [[0, 1, 0], [2, 3, 4]]
    """
    lengths = cu_seqlens.diff()
    steps = torch.arange(int(lengths.max()), device=cu_seqlens.device)
    valid = steps < lengths.unsqueeze(-1)
    return (cu_seqlens[:-1, None] + steps).where(valid, 0), valid, lengths
