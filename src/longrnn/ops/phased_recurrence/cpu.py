"""CPU kernel of `phased_recurrence`: pointers and sizes to compiled code."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops._hidden_call import hidden_call, pointer
from longrnn.ops.candidates import input_gradient, weight_gradients

# Share of open units from which products of every row, packed, are faster: of many sequences,
# which share them, and of one alone.
DENSE_FROM, DENSE_FROM_ALONE = 0.25, 0.6
FEW = 8  # steps that are not worth packing the weights for


def allocate(
    x: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    keep: bool,
    empty: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Room for the op's results: three that users see, three that the gradient needs.

    Those are the activations (*rows, 4 n), [h before each step | x | 1], and c before each step.
    """
    empty = empty or (lambda shape, like: like.new_empty(shape))
    n, steps, none = hidden.shape[-1], x.shape[:-1], x.new_empty(0)
    results = (
        empty((*steps, n), x),
        hidden.new_empty(hidden.shape),
        none if cells is None else cells.new_empty(cells.shape),
    )
    if not keep:
        return *results, none.clone(), none.clone(), none.clone()
    return (
        *results,
        empty((*steps, 4 * n), x),
        empty((*steps, n + x.shape[-1] + 1), x),
        none.clone() if cells is None else empty((*steps, n), x),
    )


def forward(
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    leak: float,
    dim: int,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Run the layer; see `op.py` for what the arguments mean."""
    results = allocate(x, hidden, cells, keep, _native.empty)
    sparse = not keep and leak == 0
    if sparse and times.numel() > FEW:
        share = max(DENSE_FROM, DENSE_FROM_ALONE / hidden.shape[0])
        sparse = float(on_ratio.mean()) < share
    lengths, cu_seqlens, *inputs = (
        None if t is None else t.contiguous()
        for t in (
            *(lengths, cu_seqlens, weight_ih, weight_hh, bias, x, hidden, cells, times),
            *(period, shift, on_ratio, peephole),
        )
    )
    _native.function("phased_recurrence_forward", "iinnnpnpiii" + "nid" + "p" * 17)(
        *hidden_call(x, hidden.shape[-1], cell, lengths, cu_seqlens, dim, reverse),
        x.shape[-1],
        sparse,
        leak,
        *map(pointer, inputs),
        *map(pointer, results),
    )
    return results


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: Sequence[Tensor],
    cell: str,
    leak: float,
    dim: int,
    reverse: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients in the order of the tensors above, but for those that are None."""
    gates, seen, _ = kept
    rows, n = hidden.shape
    d = _native.empty(gates.shape, gates)
    by_hidden = hidden.new_empty(hidden.shape)
    by_cells = None if cells is None else cells.new_empty(cells.shape)
    by_times = times.new_empty(times.shape)
    by_peephole, by_clock = period.new_empty(rows, 3, n), period.new_empty(rows, 3, n)
    lengths, cu_seqlens, *inputs = (
        None if t is None else t.contiguous()
        for t in (
            *(lengths, cu_seqlens, weight_ih, weight_hh, bias, times, period, shift, on_ratio),
            *(peephole, *kept, *grads),
        )
    )
    _native.function("phased_recurrence_backward", "iinnnpnpiii" + "nd" + "p" * 20)(
        *hidden_call(x, n, cell, lengths, cu_seqlens, dim, reverse),
        x.shape[-1],
        leak,
        *map(pointer, inputs),
        *map(pointer, (d, by_hidden, by_cells, by_times, by_peephole, by_clock)),
    )
    d, seen = d.flatten(0, -2), seen.flatten(0, -2)
    by_ih, by_hh, by_bias = weight_gradients(cell, d, seen, x.shape[-1])
    by_x = input_gradient(cell, d, weight_ih).view(x.shape) if needs[0] else torch.zeros_like(x)
    optional = [None if peephole is None else by_peephole.sum(0)]
    results = [
        *(by_x, by_times, by_ih, by_hh, by_bias),
        *(*optional, *(by_clock[:, k].sum(0) for k in range(3)), by_hidden, by_cells),
    ]
    return [gradient for gradient in results if gradient is not None]
