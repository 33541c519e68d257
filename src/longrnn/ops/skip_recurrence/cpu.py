"""CPU kernel of `skip_recurrence`: pointers and sizes to compiled code."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops.candidates import CANDIDATES
from longrnn.ops.linear_recurrence.cpu import DTYPES


class Kept(NamedTuple):
    """What the gradient needs of the way forward; empty tensors where none is asked for."""

    gates: Tensor  # activations, (L, *rows, 4 n)
    hidden: Tensor  # h before each step, (L, *rows, n)
    cells: Tensor  # c before each step
    inputs: Tensor  # what each layer but the first took, (L - 1, *rows, n)
    gate: Tensor  # p, kappa, u before rounding, and p if it updates, (*rows, 4)


def allocate(
    x: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    keep: bool,
    empty: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Room for the op's results: six that users see, five that are kept."""
    empty = empty or (lambda shape, like: like.new_empty(shape))
    depth, rows, n = hidden.shape
    wide = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
    none = x.new_empty(0)
    steps = x.shape[:-1]
    results = (
        empty((*steps, n), x),
        wide.new_empty(*steps, 1),
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        none if cells is None else torch.empty_like(cells, memory_format=torch.contiguous_format),
        wide.new_empty(rows, 1),
        wide.new_empty(rows, 1),
    )
    if not keep:
        return *results, none, none.clone(), none.clone(), none.clone(), wide
    kept = (
        empty((depth, *steps, 4 * n), x),
        empty((depth, *steps, n), x),
        none.clone() if cells is None else empty((depth, *steps, n), x),
        empty((depth - 1, *steps, n), x),
        wide.new_empty(*steps, 4),
    )
    return *results, *kept


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    update_prob: Tensor,
    accum_prob: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Run the stack; see `op.py` for what the arguments mean."""
    x, hidden, weight_u, bias_u = (t.contiguous() for t in (x, hidden, weight_u, bias_u))
    results = allocate(x, hidden, cells, keep, _native.empty)
    weights = [w.contiguous() for w in weights]
    optional = [None if t is None else t.contiguous() for t in (masks, cells, lengths, cu_seqlens)]
    masks, cells, lengths, cu_seqlens = optional
    update_prob, accum_prob = update_prob.contiguous(), accum_prob.contiguous()
    inputs = (weight_u, bias_u, masks, x, hidden, cells, update_prob, accum_prob)
    _native.function("skip_recurrence_forward", "iinnnpnpiii" + "nnp" + "p" * 19)(
        *_common(x, hidden.shape[-1], cell, lengths, cu_seqlens, dim),
        hidden.shape[0],
        x.shape[-1],
        _pointers(weights),
        *map(_pointer, inputs),
        *map(_pointer, results),
    )
    return results


def allocate_gradients(
    x: Tensor,
    kept: Sequence[Tensor],
    cu_seqlens: Tensor | None,
    dim: int,
    cell: str,
    empty: Any = None,
) -> tuple[Tensor, ...]:
    """Room for the gradients of pre-activations, of the initial state, and of the gate."""
    empty = empty or (lambda shape, like: like.new_empty(shape))
    gates, gate = kept[0], kept[4]
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    n = gates.shape[-1] // 4
    state = (gates.shape[0], rows, n)
    return (
        empty(gates.shape, gates),
        x.new_empty(state),
        x.new_empty(state if cell == "lstm" else 0),
        gate.new_empty(rows, 1),
        gate.new_empty(rows, 1),
        gate.new_empty(rows, n),
        gate.new_empty(rows),
    )


def backward(
    grads: Sequence[Tensor | None],
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: Sequence[Tensor],
    cell: str,
    dim: int,
) -> tuple[Tensor, ...]:
    """Gradients of pre-activations, hidden, cells, the probabilities, and the gate by sequence."""
    results = allocate_gradients(x, kept, cu_seqlens, dim, cell, _native.empty)
    weights = [w.contiguous() for w in weights]
    grads = [None if g is None else g.contiguous() for g in grads]
    optional = [None if t is None else t.contiguous() for t in (masks, lengths, cu_seqlens)]
    masks, lengths, cu_seqlens = optional
    gates, hidden, cells, _, gate = kept
    weight_u = weight_u.contiguous()
    inputs = (weight_u, masks, gates, hidden, cells, gate, *grads)
    _native.function("skip_recurrence_backward", "iinnnpnpiii" + "nnp" + "p" * 19)(
        *_common(x, hidden.shape[-1], cell, lengths, cu_seqlens, dim),
        hidden.shape[0],
        x.shape[-1],
        _pointers(weights),
        *map(_pointer, inputs),
        *map(_pointer, results),
    )
    return results


def _common(
    x: Tensor, n: int, cell: str, lengths: Tensor | None, cu_seqlens: Tensor | None, dim: int
) -> tuple[int | None, ...]:
    if lengths is not None:  # unchecked until here in a compiled program
        _checks.check_lengths_values(lengths, x.shape[dim])
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, x.shape[dim])
    return (
        DTYPES[x.dtype],
        list(CANDIDATES).index(cell),
        1 if cu_seqlens is not None else x.shape[1 - dim],
        x.shape[dim],
        n,
        _pointer(cu_seqlens),
        1 if cu_seqlens is None else cu_seqlens.numel() - 1,
        _pointer(lengths),
        dim == 1,
        False,
        torch.get_num_threads(),
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None or not tensor.numel() else tensor.data_ptr()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
