"""CPU kernel of `block_linear_recurrence`: pointers and sizes to compiled code."""

import math

import torch
from torch import Tensor

from longrnn import _native
from longrnn.ops.block_linear_recurrence.plain import initial_like
from longrnn.ops.linear_recurrence.cpu import DTYPES


def forward(
    transitions: Tensor, impulses: Tensor, initial_state: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    impulses = impulses.contiguous()
    states = _native.empty(impulses.shape, impulses)
    if not impulses.numel():
        return states
    initial_state = None if initial_state is None else initial_state.contiguous()
    transitions, strides = _strided(transitions, dim)
    _native.function("block_linear_recurrence_forward", "innnniipnnnppp")(
        *_common(impulses, dim, reverse),
        transitions.data_ptr(),
        *strides,
        impulses.data_ptr(),
        None if initial_state is None else initial_state.data_ptr(),
        states.data_ptr(),
    )
    return states


def backward(
    grad: Tensor,
    transitions: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    dim: int,
    reverse: bool,
    need_transitions: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of transitions, impulses and initial state, in one pass."""
    grad, states = grad.contiguous(), states.contiguous()
    grad_impulses = _native.empty(grad.shape, grad)
    grad_transitions = _native.empty(transitions.shape if need_transitions else (0,), grad)
    grad_initial = initial_like(grad, dim)
    if not grad.numel():
        return grad_transitions, grad_impulses, grad_initial.zero_()
    initial_state = None if initial_state is None else initial_state.contiguous()
    transitions, strides = _strided(transitions, dim)
    _native.function("block_linear_recurrence_backward", "innnniippnnnppppp")(
        *_common(grad, dim, reverse),
        grad.data_ptr(),
        transitions.data_ptr(),
        *strides,
        states.data_ptr(),
        None if initial_state is None else initial_state.data_ptr(),
        grad_transitions.data_ptr() if need_transitions else None,
        grad_impulses.data_ptr(),
        grad_initial.data_ptr(),
    )
    return grad_transitions, grad_impulses, grad_initial


def _sizes(x: Tensor, dim: int) -> tuple[int, int, int, int]:
    """(outer, T, inner, n) of impulses with time at `dim`."""
    return math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 : -1]), x.shape[-1]


def _strided(transitions: Tensor, dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """The matrices, and their strides as (outer, T, inner); a copy only where there are none."""
    outer, T, inner, n = _sizes(transitions[..., 0], dim)
    transitions = transitions.reshape(outer, T, inner, n, n)  # a view of most expanded tensors
    if transitions.stride()[3:] != (n, 1):
        transitions = transitions.contiguous()
    return transitions, transitions.stride()[:3]


def _common(x: Tensor, dim: int, reverse: bool) -> tuple[int, ...]:
    return (DTYPES[x.dtype], *_sizes(x, dim), reverse, torch.get_num_threads())
