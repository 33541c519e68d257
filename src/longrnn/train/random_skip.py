"""The random-skip baseline: steps are left out by chance, and the state is copied over them."""

import torch
from torch import Tensor

from longrnn.tasks import Sequences


def thin(sequences: Sequences, probability: float) -> tuple[Sequences, Tensor]:
    """Leave steps out, so that nothing is computed for them.

    Args:
        sequences: Padded.
        probability: With which each step of each sequence is left out.

    Returns:
        The kept steps moved to the front, with their number as `lengths`; and which steps of
        `sequences` they are, (B, T).
    """
    values, lengths, times, ends = sequences
    if ends is not None:
        raise ValueError("random_skip must be 0 where sequences lie end to end")
    B, T = values.shape[:2]
    keep = torch.rand(B, T, device=values.device) >= probability
    if lengths is not None:
        keep &= torch.arange(T, device=values.device) < lengths.to(values.device).unsqueeze(-1)
    counts = keep.sum(1)
    order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    order = order[:, : max(1, int(counts.max()))]
    rows = torch.arange(B, device=values.device).unsqueeze(-1)
    kept = Sequences(values[rows, order], counts, None if times is None else times[rows, order])
    return kept, keep


def spread(output: Tensor, keep: Tensor, lengths: Tensor | None) -> Tensor:
    """Copy each kept step's output over the steps left out after it.

    There are zeros before the first kept step and past each sequence's end.
    """
    before = keep.cumsum(1)  # (B, T) steps kept so far
    B, T = keep.shape
    silent = before == 0
    if lengths is not None:
        steps = torch.arange(T, device=keep.device)
        silent |= steps >= lengths.to(keep.device).unsqueeze(-1)
    rows = torch.arange(B, device=keep.device).unsqueeze(-1)
    return output[rows, (before - 1).clamp(min=0)].masked_fill(silent.unsqueeze(-1), 0)
