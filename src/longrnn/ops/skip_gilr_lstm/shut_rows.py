"""Products of every step whose way back leaves out the steps that send no gradient."""

from typing import Any

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops.linear import is_batched, linear, rows_of
from longrnn.ops.linear_recurrence.transforms import is_followed

# Share of rows with a gradient from which the way back is as fast with every row. Measured with
# one thread, 64 and 256 units.
DENSE_FROM = 0.9


def linear_with_shut_rows(x: Tensor, weight: Tensor, bias: Tensor | None, *more: Tensor) -> Tensor:
    """`linear`, for a result of which many rows get gradients of zero, as skipped steps do.

    They are found by looking: on the second way back the same rows do get gradients.
    """
    # A GPU would have to wait for their number.
    plain = x.is_cpu and not torch.is_autocast_enabled("cpu") and not is_followed(x)
    if plain and _native.available():
        result: Tensor = _LinearWithShutRows.apply(bias, x, weight, *more)
        return result
    return linear(x, weight, bias, *more)


class _LinearWithShutRows(torch.autograd.Function):
    """A bias, and pairs of an input and a weight."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor | None, *pairs: Tensor) -> Tensor:
        ctx.save_for_backward(*pairs)
        x, weight, *more = pairs
        return linear(x, weight, bias, *more)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted, *wanted_of_pairs = ctx.needs_input_grad
        rows = _find_rows(grad)
        g = _pick(grad, rows)
        grads: list[Tensor | None] = [g.sum(0) if wanted else None]
        pairs = ctx.saved_tensors
        for k in range(0, len(pairs), 2):
            x, weight = pairs[k : k + 2]
            grads.append(_place(g @ weight, rows, x) if wanted_of_pairs[k] else None)
            grads.append(g.t() @ _pick(x, rows) if wanted_of_pairs[k + 1] else None)
        return tuple(grads)


def _find_rows(grad: Tensor) -> Tensor | None:
    """Rows that are not zero; None where every row is to be taken."""
    # Zeros are to be differentiated too.
    if torch.is_grad_enabled() or is_batched(grad) or not grad.numel():
        return None
    flat = rows_of(grad)
    rows = ((flat.amax(-1) != 0) | (flat.amin(-1) != 0)).nonzero().squeeze(1)
    return rows if rows.numel() < DENSE_FROM * flat.shape[0] else None


def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
    x = rows_of(x)
    if rows is None:
        return x
    return torch.index_select(x, 0, rows, out=_native.empty((rows.numel(), x.shape[-1]), x))


def _place(picked: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """Zeros, with what was picked where it came from."""
    if rows is None:
        return picked.view(like.shape)
    out = _native.empty(like.shape, like).zero_()
    out.view(-1, like.shape[-1]).index_copy_(0, rows, picked)
    return out
