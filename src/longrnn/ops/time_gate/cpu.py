"""CPU kernel of `time_gate`: pointers and sizes to compiled code."""

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops.linear_recurrence.cpu import DTYPES

CHUNK = 256  # stamps of one task, whose gradients are summed before they meet the others'


def forward(times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float) -> Tensor:
    """Return the openness; see `op.py` for what the arguments mean."""
    inputs = [x.contiguous() for x in (times, period, shift, on_ratio)]
    openness = _native.empty((*times.shape, *period.shape), period)
    _native.function("time_gate_forward", "innnid" + "p" * 5)(
        *_sizes(times, period), leak, *(x.data_ptr() for x in (*inputs, openness))
    )
    return openness


def backward(
    grad: Tensor, times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of times, period, shift and on_ratio."""
    inputs = [x.contiguous() for x in (times, period, shift, on_ratio, grad)]
    chunks = -(-times.numel() // CHUNK)
    by_times, sums = torch.empty_like(inputs[0]), period.new_empty(chunks, 3, len(period))
    _native.function("time_gate_backward", "innnid" + "p" * 7)(
        *_sizes(times, period), leak, *(x.data_ptr() for x in (*inputs, by_times, sums))
    )
    by_period, by_shift, by_ratio = sums.double().sum(0).to(period.dtype)
    return by_times, by_period, by_shift, by_ratio


def _sizes(times: Tensor, period: Tensor) -> tuple[int, ...]:
    return DTYPES[period.dtype], times.numel(), len(period), CHUNK, torch.get_num_threads()
