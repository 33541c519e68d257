r"""The Phased LSTM's time gate: when, by the clock, a unit is open."""

from collections.abc import Callable

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.ops.linear_recurrence.transforms import transforms_active


def time_gate(
    times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float
) -> Tensor:
    r"""Openness of units that each open for a part of their own period.

    $$
    \phi = \frac{(t - s) \bmod \tau}{\tau} \in [0, 1), \qquad
    k = \begin{cases}
        2 \phi / r & \phi < r / 2 \\
        2 - 2 \phi / r & r / 2 \le \phi < r \\
        \alpha \phi & \text{otherwise}
    \end{cases}
    $$

    $t$ are the `times`, $\tau$ the `period`, $s$ the `shift`, $r$ the `on_ratio` and $\alpha$ the
    `leak`. The gate of a unit rises from 0 to 1 and falls to 0 while it is open, the first part r
    of each period; then it leaks, so that a gradient finds closed units. The remainder is that of
    floored division, so that the gate is periodic before $s$ as after it.

    Args:
        times: Time stamps, in any order and in any unit.
        period: Length of each unit's period, positive, in the unit of `times`.
        shift: Where a period begins, in the unit of `times`.
        on_ratio: Share of the period in which the unit is open, in (0, 1].
        leak: Slope of the gate over the phase while it is closed, in [0, 1].

    Shape:
        - times: (...)
        - period, shift, on_ratio: (n,)
        - returns: (..., n)

    Returns:
        The gate, in the dtype that the three parameters promote to. The phase is computed in the
        widest dtype given and in no less than float32: microseconds of an hour-long recording
        keep theirs if `times` is float64, whatever the parameters are.

    Raises:
        ValueError: If a shape, dtype, device or `leak` is not as above; on a CPU, outside
            compiled programs and function transforms, also if a value of `period`, `shift` or
            `on_ratio` is not.

    Note:
        Gradients are the true ones. That to `period` is -(t - s) / period² times that to the
        phase: it grows with the time since `shift`.

    Reference:
        Neil, Pfeiffer and Liu, "Phased LSTM: Accelerating Recurrent Network Training for Long or
        Event-based Sequences", NIPS 2016, https://arxiv.org/abs/1610.09513, section 2.

    Example:
        >>> times = torch.tensor([0.0, 1.25, 2.5, 3.75, 50.0])
        >>> period, shift, on_ratio = torch.tensor([[100.0], [0.0], [0.05]])
        >>> time_gate(times, period, shift, on_ratio, leak=0.001).flatten().tolist()
        [0.0, 0.5, 1.0, 0.5, 0.0005000000237487257]
    """
    _check(times, period, shift, on_ratio, leak)
    dtype = torch.promote_types(period.dtype, torch.promote_types(shift.dtype, on_ratio.dtype))
    narrow = torch.promote_types(dtype, torch.float32)
    wide = torch.promote_types(times.dtype, narrow)
    since = times.to(wide).unsqueeze(-1) - shift.to(wide)  # (..., n)
    phase = (torch.remainder(since, period.to(wide)) / period.to(wide)).to(narrow)
    on_ratio = on_ratio.to(narrow)
    is_open = phase < on_ratio
    # Zero where it is closed: else a tiny on_ratio makes it infinite, and the gradient nan.
    progress = torch.where(is_open, phase, 0) / on_ratio
    ramp = torch.where(progress < 0.5, 2 * progress, 2 - 2 * progress)
    return torch.where(is_open, ramp, leak * phase).to(dtype)


_LEGAL: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "period": ("positive and finite", lambda period: (period > 0) & period.isfinite()),
    "shift": ("finite", torch.isfinite),
    "on_ratio": ("in (0, 1]", lambda on_ratio: (on_ratio > 0) & (on_ratio <= 1)),
}


def _check(times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor, leak: float) -> None:
    """Raise unless the arguments are legal; values are looked at where that is free."""
    _checks.check_floating("times", times)
    free = times.device.type == "cpu"
    free = free and not torch.compiler.is_compiling() and not transforms_active()
    n = None
    for name, parameter in (("period", period), ("shift", shift), ("on_ratio", on_ratio)):
        _checks.check_floating(name, parameter)
        _checks.check_shape(name, parameter, "n", (n,))
        _checks.check_same_device(name, parameter, "times", times)
        n = parameter.shape[0]
        wanted, legal = _LEGAL[name]
        if free and not (fine := legal(parameter)).all():
            raise ValueError(f"{name} must be {wanted}, got {parameter[~fine][0].item()}")
    if isinstance(leak, bool) or not isinstance(leak, (int, float)) or not 0 <= leak <= 1:
        raise ValueError(f"leak must be a number in [0, 1], got {leak!r}")
