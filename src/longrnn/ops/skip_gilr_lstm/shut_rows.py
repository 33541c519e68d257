"""Products of every step whose way back leaves out the steps that send no gradient."""

import torch
from torch import Tensor

from longrnn.ops.linear import SumOfProducts, is_batched, is_plain, linear, rows_of
from longrnn.ops.linear_recurrence.transforms import is_followed

# Share of rows with a gradient from which the way back is as fast with every row. Measured with
# one thread, 64 and 256 units.
DENSE_FROM = 0.9


def linear_with_shut_rows(x: Tensor, weight: Tensor, bias: Tensor | None, *more: Tensor) -> Tensor:
    """`linear`, for a result of which many rows get gradients of zero, as skipped steps do.

    They are found by looking: on the second way back the same rows do get gradients.
    """
    # A GPU would have to wait for their number.
    if not is_followed(x) and is_plain(x, weight, bias, *more):
        result: Tensor = SumOfProducts.apply(_find_rows, bias, x, weight, *more)
        return result
    return linear(x, weight, bias, *more)


def _find_rows(grad: Tensor) -> Tensor | None:
    """Rows that are not zero; None where every row is to be taken."""
    # Zeros are to be differentiated too.
    if torch.is_grad_enabled() or is_batched(grad) or not grad.numel():
        return None
    flat = rows_of(grad)
    rows = ((flat.amax(-1) != 0) | (flat.amin(-1) != 0)).nonzero().squeeze(1)
    return rows if rows.numel() < DENSE_FROM * flat.shape[0] else None
