"""A product of which only the rows of open units are computed: evaluation by the clock."""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._hidden_call import pointer
from longrnn.ops.linear import concatenated, linear
from longrnn.ops.linear_recurrence.cpu import DTYPES
from longrnn.ops.linear_recurrence.transforms import transforms_active

# Share of open units from which a product of every row is faster. Measured with one thread, 256
# units and 8,192 rows: 0.26 for four gates of 297 inputs, 0.08 for two of 41.
DENSE_FROM = 0.15


def open_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, openness: Tensor | None, *more: Tensor
) -> Tensor:
    """Pre-activations of the units that are open; of the others, anything or zero.

    Where a gradient is wanted, and wherever it is faster, all are computed.

    Args:
        x: The input.
        weight: One block of n rows a gate.
        bias: One a row of the weight, or None.
        openness: 0 where nobody looks at a unit's pre-activations; None looks at all.
        *more: A second input and its weight, as `linear` takes them.

    Shape:
        - x: (..., m)
        - weight: (G n, m), bias: (G n,)
        - openness: (..., n)
        - returns: (..., G n)

    Raises:
        ValueError: If weight, bias or openness is not on the device of x.
    """
    if openness is None or not _can_skip(x, weight, bias, *more):
        return linear(x, weight, bias, *more)
    for name, t in (("weight", weight), ("bias", bias), ("openness", openness)):
        if t is not None:
            _checks.check_same_device(name, t, "x", x)
    x, weight = concatenated(x, weight, *more)
    return torch.ops.longrnn.open_linear(x, weight, bias, openness.to(x.dtype))


def _can_skip(x: Tensor, *others: Tensor | None) -> bool:
    recorded = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, *others)
    )
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not recorded
        and not torch.is_autocast_enabled("cpu")
        and not transforms_active()
    )


torch.library.define(
    "longrnn::open_linear", "(Tensor x, Tensor weight, Tensor? bias, Tensor openness) -> Tensor"
)


@torch.library.impl("longrnn::open_linear", "CPU")
def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, openness: Tensor) -> Tensor:
    if not _native.available() or openness.count_nonzero() >= DENSE_FROM * openness.numel():
        return linear(x, weight, bias)
    tensors = [None if t is None else t.contiguous() for t in (x, weight, bias, openness)]
    out = _native.empty((*x.shape[:-1], len(weight)), x)
    n = openness.shape[-1]
    _native.function("open_linear", "innnii" + "p" * 5)(
        DTYPES[x.dtype],
        openness.numel() // n,
        x.shape[-1],
        n,
        len(weight) // n,
        torch.get_num_threads(),
        *map(pointer, (*tensors, out)),
    )
    return out


@torch.library.register_fake("longrnn::open_linear")
def _forward_fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))
