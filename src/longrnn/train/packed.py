"""PyTorch's own layers on padded sequences: they take lengths only as a `PackedSequence`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map


def run_packed(layer: nn.Module, x: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
    """Run a layer on (B, T, m) with lengths; output past a sequence's end is zero.

    An empty sequence, which PyTorch refuses, has no output and keeps its state.
    """
    some = lengths.clamp(min=1).cpu()
    packed = pack_padded_sequence(x, some, batch_first=True, enforce_sorted=False)
    packed_output, last = layer(packed, state)
    output, _ = pad_packed_sequence(packed_output, batch_first=True, total_length=x.shape[1])
    empty = (lengths == 0).to(x.device).unsqueeze(-1)  # (B, 1)
    before = tree_map(torch.zeros_like, last) if state is None else state
    state = tree_map(lambda old, new: torch.where(empty, old, new), before, last)
    return output.masked_fill(empty.unsqueeze(-1), 0), state
