r"""The Phased LSTM's time gate: when, by the clock, a unit is open.

One pass each way: stamps in, openness out. The gradient computes the phases again, so that nothing
as large as the result is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import register_gpu
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.time_gate import cpu
from longrnn.ops.time_gate.plain import time_gate_plain


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
        The gate, in the dtype that the three parameters promote to. The time since the shift is
        computed in float64, the phase in that dtype and in no less than float32: microseconds of an
        hour-long recording keep theirs if `times` is float64, whatever the parameters are.

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
    inner = torch.promote_types(dtype, torch.float32)
    inputs = (times.double(), period.to(inner), shift.to(inner), on_ratio.to(inner), float(leak))
    if transforms_active() or not _has_kernel(times.device):
        return time_gate_plain(*inputs).to(dtype)
    return torch.ops.longrnn.time_gate(*inputs).to(dtype)


torch.library.define(
    "longrnn::time_gate",
    "(Tensor times, Tensor period, Tensor shift, Tensor on_ratio, float leak) -> Tensor",
)
torch.library.define(
    "longrnn::time_gate_backward",
    "(Tensor grad, Tensor times, Tensor period, Tensor shift, Tensor on_ratio, float leak) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)

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


def _has_kernel(device: torch.device) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::time_gate", "CPU")
def _forward_cpu(*arguments: Any) -> Tensor:
    return cpu.forward(*arguments) if _native.available() else time_gate_plain(*arguments)


@torch.library.impl("longrnn::time_gate_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    return cpu.backward(*arguments)


register_gpu("time_gate")


@torch.library.register_fake("longrnn::time_gate")
def _forward_fake(times: Tensor, period: Tensor, *_: Any) -> Tensor:
    return period.new_empty(*times.shape, *period.shape)


@torch.library.register_fake("longrnn::time_gate_backward")
def _backward_fake(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:4])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.leak = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    if torch.is_grad_enabled() or not (grad.device.type != "cpu" or _native.available()):

        def plain(times: Tensor, period: Tensor, shift: Tensor, on_ratio: Tensor) -> list[Tensor]:
            return [time_gate_plain(times, period, shift, on_ratio, ctx.leak)]

        return *differentiate_plain(plain, tensors, [grad]), None
    return *torch.ops.longrnn.time_gate_backward(grad, *tensors, ctx.leak), None


torch.library.register_autograd("longrnn::time_gate", _differentiate, setup_context=_save)
