"""CPU kernel of `linear_recurrence`: pointers and sizes to compiled code."""

import torch
from torch import Tensor

from longrnn import _native

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.complex64: 4,
    torch.complex128: 5,
}
_ALGORITHMS = {"auto": 0, "serial": 1, "parallel": 2}


def forward(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    impulses = impulses.contiguous()
    states = _native.empty(impulses.shape, impulses)
    if not impulses.numel():
        return states
    initial_state = None if initial_state is None else initial_state.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    sizes = _sizes(impulses, cu_seqlens, dim)
    decays, strides = _strided(decays, sizes)
    _native.function("linear_recurrence_forward", "innnpniiipnnnppp")(
        *_common(impulses, sizes, cu_seqlens, reverse, algorithm),
        decays.data_ptr(),
        *strides,
        impulses.data_ptr(),
        None if initial_state is None else initial_state.data_ptr(),
        states.data_ptr(),
    )
    return states


def backward(
    grad: Tensor,
    decays: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
    need_decays: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of decays, impulses and initial state, in one pass."""
    grad = grad.contiguous()
    grad_impulses = _native.empty(grad.shape, grad)
    grad_decays = _native.empty(grad.shape, grad) if need_decays else grad.new_empty(0)
    shape = list(grad.shape)
    shape[dim : dim + 1] = [] if cu_seqlens is None else [cu_seqlens.numel() - 1]
    grad_initial = grad.new_empty(shape)
    if not grad.numel():
        return grad_decays, grad_impulses, grad_initial.zero_()
    initial_state = None if initial_state is None else initial_state.contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    sizes = _sizes(grad, cu_seqlens, dim)
    decays, strides = _strided(decays, sizes)
    states = states.contiguous()
    _native.function("linear_recurrence_backward", "innnpniiippnnnppppp")(
        *_common(grad, sizes, cu_seqlens, reverse, algorithm),
        grad.data_ptr(),
        decays.data_ptr(),
        *strides,
        states.data_ptr(),
        None if initial_state is None else initial_state.data_ptr(),
        grad_decays.data_ptr() if need_decays else None,
        grad_impulses.data_ptr(),
        grad_initial.data_ptr(),
    )
    return grad_decays, grad_impulses, grad_initial


def _sizes(x: Tensor, cu_seqlens: Tensor | None, dim: int) -> tuple[int, int, int]:
    """(outer, T, inner) of a tensor with time at `dim`."""
    if x.shape[dim] == 1 and cu_seqlens is None:
        return 1, 1, x.numel()  # one step is one row, wherever time is
    outer = 1
    for n in x.shape[:dim]:
        outer *= n
    return outer, x.shape[dim], x.numel() // max(1, outer * x.shape[dim])


def _strided(x: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor, and its strides as (outer, T, inner); a copy only where there are none."""
    if x.is_contiguous():
        return x, (sizes[1] * sizes[2], sizes[2], 1)
    x = x.reshape(sizes)  # a view of most expanded tensors
    if x.stride(2) not in (0, 1):
        x = x.contiguous()
    return x, x.stride()


def _common(
    x: Tensor, sizes: tuple[int, int, int], cu_seqlens: Tensor | None, reverse: bool, algorithm: str
) -> tuple[int | None, ...]:
    return (
        DTYPES[x.dtype],
        *sizes,
        None if cu_seqlens is None else cu_seqlens.data_ptr(),
        1 if cu_seqlens is None else cu_seqlens.numel() - 1,
        reverse,
        _ALGORITHMS[algorithm],
        torch.get_num_threads(),
    )
