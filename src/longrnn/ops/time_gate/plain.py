"""`time_gate` composed of PyTorch's own operations: its definition, and every derivative."""

import torch
from torch import Tensor


def time_gate_plain(
    times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float
) -> Tensor:
    """Return the openness of every unit at every stamp; see `op.py` for the arguments."""
    since = times.unsqueeze(-1) - shift.to(times.dtype)  # (..., n)
    wide = period.to(times.dtype)
    phase = (torch.remainder(since, wide) / wide).to(period.dtype)
    is_open = phase < on_ratio
    # Zero where it is closed: else a tiny on_ratio makes it infinite, and the gradient nan.
    progress = torch.where(is_open, phase, 0) / on_ratio
    ramp = torch.where(progress < 0.5, 2 * progress, 2 - 2 * progress)
    return torch.where(is_open, ramp, leak * phase)
