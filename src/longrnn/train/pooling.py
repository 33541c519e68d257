"""One vector for a whole sequence: its last output, or the mean of its outputs."""

from collections.abc import Callable

import torch
from torch import Tensor

from longrnn.tasks import Sequences


def last(output: Tensor, sequences: Sequences) -> Tensor:
    """The output at each sequence's last valid step, (B, n); zeros where there is none."""
    if sequences.cu_seqlens is not None:
        ends = sequences.cu_seqlens[1:]
        empty = ends == sequences.cu_seqlens[:-1]
        return output[(ends - 1).clamp(min=0)].masked_fill(empty.unsqueeze(-1), 0)
    if sequences.lengths is None:
        return output[:, -1]
    # A layer's outputs past the end are zeros, so that step 0 serves an empty sequence.
    steps = (sequences.lengths - 1).clamp(min=0).to(output.device)
    return output[torch.arange(len(output), device=output.device), steps]


def mean(output: Tensor, sequences: Sequences) -> Tensor:
    """The mean of each sequence's outputs over its valid steps, (B, n)."""
    if sequences.cu_seqlens is not None:
        lengths = sequences.cu_seqlens.diff()
        rows = torch.arange(len(lengths), device=output.device)
        owner = rows.repeat_interleave(lengths, output_size=len(output))
        sums = output.new_zeros(len(lengths), output.shape[-1]).index_add(0, owner, output)
    elif sequences.lengths is None:
        return output.mean(1)
    else:
        lengths, sums = sequences.lengths.to(output.device), output.sum(1)
    return sums / lengths.clamp(min=1).unsqueeze(-1)


POOLS: dict[str, Callable[[Tensor, Sequences], Tensor]] = {"last": last, "mean": mean}
