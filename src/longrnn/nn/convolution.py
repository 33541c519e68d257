"""The causal convolution over time that lets gates see a few inputs instead of one.

A step of a layer with `kernel_size` k sees x_t, x_{t-1}, ..., x_{t-k+1}. The k - 1 inputs before a
piece are part of the state, oldest first (first seen first, where the layer runs in reverse).
"""

from typing import Any

import torch
from torch import Tensor


def recent_inputs(x: Tensor, past: Tensor, layout: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Put beside each input the ones before it in its own sequence.

    Args:
        x: Inputs.
        past: The inputs before the first step.
        layout: `lengths`, `cu_seqlens`, `batch_first` and `reverse` as in `gated_recurrence`.

    Shape:
        - x: (T, B, m), or (B, T, m) with `batch_first`, or (T, m) with `cu_seqlens`
        - past: (k - 1, B, m), or (k - 1, N, m) with `cu_seqlens`
        - returns: (T, B, k * m) laid out as `x`, newest first; and the last k - 1 inputs, as `past`
    """
    kept = past.shape[0]
    if kept == 0:
        return x, past
    past = past.to(x.dtype)
    if layout["cu_seqlens"] is not None:
        return _end_to_end(x, past, layout["cu_seqlens"], layout["reverse"])
    time = 1 if layout["batch_first"] else 0
    lengths = layout["lengths"]
    if time:
        past = past.transpose(0, 1)
    if layout["reverse"]:
        x_past = _append(x, past.flip(time), lengths, time)
        last = x_past.narrow(time, 0, kept).flip(time)
        starts = range(kept + 1)
    else:
        x_past = torch.cat([past, x], time)
        last = _read(x_past, kept, lengths, time)
        starts = range(kept, -1, -1)
    seen = torch.cat([x_past.narrow(time, start, x.shape[time]) for start in starts], -1)
    return seen, last.transpose(0, 1) if time else last


def _append(x: Tensor, following: Tensor, lengths: Tensor | None, time: int) -> Tensor:
    """Put `following` after the end of each sequence."""
    if lengths is None:
        return torch.cat([x, following], time)
    room = torch.cat([x, torch.zeros_like(following)], time)
    return room.scatter(time, _steps_from(lengths, following, time), following)


def _read(x_past: Tensor, kept: int, lengths: Tensor | None, time: int) -> Tensor:
    """Read the last `kept` steps of each sequence; step t lies at t + kept."""
    if lengths is None:
        return x_past.narrow(time, x_past.shape[time] - kept, kept)
    like = x_past.narrow(time, 0, kept)
    return x_past.gather(time, _steps_from(lengths, like, time))


def _steps_from(lengths: Tensor, like: Tensor, time: int) -> Tensor:
    """The steps that follow each sequence's end, in the shape of `like`."""
    offsets = torch.arange(like.shape[time], device=lengths.device)
    steps = lengths.unsqueeze(time) + offsets.unsqueeze(1 - time)
    return steps.unsqueeze(-1).expand(like.shape)


def _end_to_end(
    x: Tensor, past: Tensor, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    T, m = x.shape
    kept, N = past.shape[:2]
    starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
    # One table of rows: the kept inputs of each sequence, oldest first, then all steps.
    table = torch.cat([past.transpose(0, 1).reshape(N * kept, m), x])
    steps = torch.arange(T, device=x.device)
    owner = torch.searchsorted(cu_seqlens[1:].contiguous(), steps, right=True)  # (T)
    back = torch.arange(kept + 1, device=x.device)
    sign = -1 if reverse else 1

    def rows(sequence: Tensor, step: Tensor) -> Tensor:
        """Row of the table that holds a step of a sequence, or a kept input from before it."""
        early = ends[sequence] - 1 - step if reverse else step - starts[sequence]
        return torch.where(early >= 0, N * kept + step, (sequence + 1) * kept + early)

    seen = rows(owner.unsqueeze(1), steps.unsqueeze(1) - sign * back)  # (T, k)
    newest = starts if reverse else ends - 1
    order = back[:kept].flip(0)
    last = rows(torch.arange(N, device=x.device), newest - sign * order.unsqueeze(1))  # (k - 1, N)
    inputs = table.index_select(0, seen.flatten()).view(T, (kept + 1) * m)
    return inputs, table.index_select(0, last.flatten()).view(kept, N, m)
