"""GPU kernels of `time_gate`, and the clock that those of `phased_recurrence` share.

A program has ROWS stamps and UNITS units. On the way back it sums its gradients; what the programs
have is added up after them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from longrnn.ops._triton import CARRY

# Chosen by reasoning: a tile that a warp's registers hold.
ROWS, UNITS = 32, 32


def forward(times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float) -> Tensor:
    """Return the openness; see `op.py` for what the arguments mean."""
    inputs = [x.contiguous() for x in (times, period, shift, on_ratio)]
    openness = period.new_empty(*times.shape, *period.shape)
    tiles = _tiles(times, period)
    if openness.numel():
        with torch.cuda.device_of(times):
            _forward_kernel[tiles](*inputs, openness, *_options(times, period, leak))
    return openness


def backward(
    grad: Tensor, times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of times, period, shift and on_ratio."""
    inputs = [x.contiguous() for x in (times, period, shift, on_ratio, grad)]
    tiles = _tiles(times, period)
    by_times = times.new_empty(tiles[1], times.numel())
    sums = period.new_empty(tiles[0], 3, len(period))
    if grad.numel():
        with torch.cuda.device_of(times):
            _backward_kernel[tiles](*inputs, by_times, sums, *_options(times, period, leak))
    by_period, by_shift, by_ratio = sums.double().sum(0).to(period.dtype)
    return by_times.sum(0).view(times.shape), by_period, by_shift, by_ratio


def _tiles(times: Tensor, period: Tensor) -> tuple[int, int]:
    return triton.cdiv(times.numel(), ROWS), triton.cdiv(len(period), UNITS)


def _options(times: Tensor, period: Tensor, leak: float) -> tuple[object, ...]:
    return times.numel(), len(period), leak, CARRY[period.dtype][1], ROWS, UNITS


@triton.jit
def clock(now, period_ptr, shift_ptr, ratio_ptr, unit, n, LEAK: tl.constexpr, CARRY: tl.constexpr):
    """How far units are open at times `now`, and its derivatives by the phase and by on_ratio.

    And how often they turned since their shift.
    """
    there = unit < n
    period = tl.load(period_ptr + unit, mask=there, other=1.0).to(tl.float64)[None, :]
    ratio = tl.load(ratio_ptr + unit, mask=there, other=1.0)[None, :]
    since = now[:, None] - tl.load(shift_ptr + unit, mask=there, other=0.0)[None, :]  # float64
    turns = since / period
    # Twice: after very many turns the first rest, although exact, is still many periods.
    rest = tl.fma(-tl.floor(turns), period, since)
    rest = tl.fma(-tl.floor(rest / period), period, rest)
    phase = rest / period
    phase = tl.where((phase < 0) | (phase >= 1), 0.0, phase).to(CARRY)  # a NaN stays one
    part = phase / ratio
    is_open = phase < ratio
    rising = part < 0.5
    steep = 2.0 / ratio
    k = tl.where(is_open, tl.where(rising, 2.0 * part, 2.0 - 2.0 * part), LEAK * phase)
    slope = tl.where(is_open, tl.where(rising, steep, -steep), LEAK)
    by_ratio = tl.where(is_open, -slope * part, 0.0)
    return k, slope, by_ratio, turns.to(CARRY)


@triton.jit
def _forward_kernel(
    times_ptr,
    period_ptr,
    shift_ptr,
    ratio_ptr,
    openness_ptr,
    count,
    n,
    LEAK: tl.constexpr,
    CARRY: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    now = tl.load(times_ptr + row, mask=row < count, other=0.0)
    k, _s, _b, _t = clock(now, period_ptr, shift_ptr, ratio_ptr, unit, n, LEAK, CARRY)
    inside = (row < count)[:, None] & (unit < n)[None, :]
    tl.store(openness_ptr + row[:, None] * n + unit[None, :], k, mask=inside)


@triton.jit
def _backward_kernel(
    times_ptr,
    period_ptr,
    shift_ptr,
    ratio_ptr,
    grad_ptr,
    by_times_ptr,
    sums_ptr,
    count,
    n,
    LEAK: tl.constexpr,
    CARRY: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    now = tl.load(times_ptr + row, mask=row < count, other=0.0)
    _k, slope, by_ratio, turns = clock(now, period_ptr, shift_ptr, ratio_ptr, unit, n, LEAK, CARRY)
    inside = (row < count)[:, None] & (unit < n)[None, :]
    by_k = tl.load(grad_ptr + row[:, None] * n + unit[None, :], mask=inside, other=0.0)
    # The phase moves by 1 / period with the time, and against the shift.
    period = tl.load(period_ptr + unit, mask=unit < n, other=1.0)[None, :]
    by_since = tl.where(by_k != 0, by_k * slope / period, 0.0)
    by_ratio = tl.where(by_k != 0, by_k * by_ratio, 0.0)
    by_time = tl.sum(by_since, axis=1).to(tl.float64)
    tl.store(by_times_ptr + tl.program_id(1) * count + row, by_time, mask=row < count)
    sums = sums_ptr + tile * 3 * n + unit
    tl.store(sums, tl.sum(-by_since * turns, axis=0), mask=unit < n)
    tl.store(sums + n, tl.sum(-by_since, axis=0), mask=unit < n)
    tl.store(sums + 2 * n, tl.sum(by_ratio, axis=0), mask=unit < n)
