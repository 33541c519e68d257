r"""The linear recurrence $h_t = A_t h_{t-1} + x_t$ of states of n numbers, $A_t$ n x n.

Start reading here. `block_linear_recurrence` is the public function; below it stands the same
recurrence as a dispatcher op with one kernel a device (`cpu.py`, `gpu.py`, `plain.py`), and one
gradient for all of them, because the gradient of a linear recurrence is one run the other way
(A^H: A transposed, and conjugated where it is complex):

    forward    h_t = A_t h_{t-1} + x_t                    (left to right)
    backward   s_t = A_{t+1}^H s_{t+1} + y_t              (right to left; y: gradient of h)
               grad_x_t = s_t,  grad_A_t = s_t h_{t-1}^H,  grad_h0 = A_1^H s_1
    twice      r_t = A_t r_{t-1} + u_t + V_t h_{t-1},  r_0 = w    for cotangents u, V, w of those
               grad_y_t = r_t,  grad_A_t = s_t r_{t-1}^H,  grad_h_{t-1} = V_t^H s_t
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import register_gpu
from longrnn.ops.block_linear_recurrence import cpu, plain
from longrnn.ops.block_linear_recurrence.transforms import BlockLinearRecurrence
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.linear_recurrence.plain import final, previous
from longrnn.ops.linear_recurrence.transforms import transforms_active


def block_linear_recurrence(
    transitions: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None = None,
    *,
    dim: int = 0,
    reverse: bool = False,
) -> Tensor:
    r"""Solve $h_t = A_t h_{t-1} + x_t$ for every step of a sequence at once.

    $A$ are the `transitions`, n x n matrices, $x$ the `impulses`, $h_0$ the `initial_state`, both
    of n numbers. With `reverse=True`, $h_t = A_t h_{t+1} + x_t$. The final state is the output's
    last step, so gradients through it need nothing special. Any n is correct; 1 to 8 are fast, and
    split over time where there are few sequences.

    Args:
        transitions: What each step makes of the state. The matrices come last; the dimensions
            before them broadcast to those of `impulses` before n.
        impulses: What each step adds, n last. Any rank from 2, any strides.
        initial_state: The state before the first step (after the last, reversed); zeros if None.
            Broadcasts to the shape of `impulses` without `dim`.
        dim: The dimension of `impulses` that is time; not its last, which holds the state.
        reverse: Run from the last step to the first.

    Shape:
        - transitions: broadcasts to (..., T, ..., n, n)
        - impulses: (..., T, ..., n), T at `dim`; T = 0 is legal
        - initial_state: broadcasts to (..., ..., n)
        - returns: the shape of `impulses`

    Returns:
        The states $h_1 \ldots h_T$. Mixed dtypes promote as in torch's arithmetic. float16 and
        bfloat16 carry the state in float32 and round once, when a state is written.

    Raises:
        ValueError: If a shape, dtype, device or `dim` is not as above.

    Note:
        Meant for transitions whose products stay bounded. Steps are composed, so that where a
        product over a stretch of time overflows, states there may be nan even if impulses are zero.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 2.2.

    Example:
        A quarter turn at each step, and an impulse at the first.

        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> impulses = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
        >>> block_linear_recurrence(turn, impulses).tolist()
        [[1.0, 2.0], [-2.0, 1.0], [-1.0, -2.0]]
    """
    _checks.check_floating("transitions", transitions, complex_too=True)
    _checks.check_floating("impulses", impulses, complex_too=True)
    shape, rank = impulses.shape, impulses.ndim
    if rank < 2:
        raise ValueError(f"impulses must have at least 2 dimensions, T and n, got {tuple(shape)}")
    if not -rank <= dim < rank or dim % rank == rank - 1:
        raise ValueError(
            f"dim must lie in [0, {rank - 2}] or [{-rank}, -2] for impulses of {rank} dimensions, "
            f"the last of which holds the state, got {dim}"
        )
    dim %= rank
    n = shape[-1]
    _checks.check_same_device("transitions", transitions, "impulses", impulses)
    if transitions.shape[-2:] != (n, n):
        raise ValueError(
            f"transitions must end in ({n}, {n}) for impulses that end in ({n},), "
            f"got {tuple(transitions.shape)}"
        )
    _checks.check_broadcast("transitions", transitions, (*shape, n))
    dtype = impulses.dtype
    if transitions.dtype != dtype:
        dtype = torch.promote_types(dtype, transitions.dtype)
    if initial_state is not None:
        _checks.check_floating("initial_state", initial_state, complex_too=True)
        _checks.check_same_device("initial_state", initial_state, "impulses", impulses)
        rows = (*shape[:dim], *shape[dim + 1 :])
        _checks.check_broadcast("initial_state", initial_state, rows)
        if initial_state.dtype != dtype:
            dtype = torch.promote_types(dtype, initial_state.dtype)
            initial_state = initial_state.to(dtype)
        initial_state = initial_state.expand(rows)
    if dtype.is_complex and not impulses.is_complex():
        raise ValueError(
            "impulses must be complex where transitions or initial_state are, "
            f"got {impulses.dtype}: pass impulses.to(torch.complex64)"
        )
    transitions = transitions.expand(*shape, n)
    if n == 1:
        first = None if initial_state is None else initial_state.squeeze(-1)
        numbers = transitions[..., 0, 0], impulses.squeeze(-1), first
        return linear_recurrence(*numbers, dim=dim, reverse=reverse).unsqueeze(-1)
    run: Any = torch.ops.longrnn.block_linear_recurrence
    if transforms_active():
        run = BlockLinearRecurrence.apply
    return run(transitions.to(dtype), impulses.to(dtype), initial_state, dim, reverse)


torch.library.define(
    "longrnn::block_linear_recurrence",
    "(Tensor transitions, Tensor impulses, Tensor? initial_state, int dim, bool reverse) -> Tensor",
)
torch.library.define(
    "longrnn::block_linear_recurrence_backward",
    "(Tensor grad, Tensor transitions, Tensor states, Tensor? initial_state, int dim, "
    "bool reverse, bool need_transitions) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("longrnn::block_linear_recurrence", "CPU")
def _forward_cpu(*arguments: Any) -> Tensor:
    return (cpu if _native.available() else plain).forward(*arguments)


@torch.library.impl("longrnn::block_linear_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (cpu if _native.available() else plain).backward(*arguments)


register_gpu("block_linear_recurrence")


@torch.library.impl("longrnn::block_linear_recurrence", "CompositeExplicitAutograd")
def _forward_elsewhere(*arguments: Any) -> Tensor:
    return plain.forward(*arguments)


@torch.library.impl("longrnn::block_linear_recurrence_backward", "CompositeExplicitAutograd")
def _backward_elsewhere(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return plain.backward(*arguments)


@torch.library.register_fake("longrnn::block_linear_recurrence")
def _forward_fake(transitions: Tensor, impulses: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(impulses, memory_format=torch.contiguous_format)


@torch.library.register_fake("longrnn::block_linear_recurrence_backward")
def _backward_fake(
    grad: Tensor,
    transitions: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    dim: int,
    reverse: bool,
    need_transitions: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_impulses = torch.empty_like(grad, memory_format=torch.contiguous_format)
    grad_transitions = grad.new_empty(transitions.shape if need_transitions else (0,))
    return grad_transitions, grad_impulses, plain.initial_like(grad, dim)


@torch.library.register_vmap("longrnn::block_linear_recurrence")
def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    return BlockLinearRecurrence.vmap(info, in_dims, *arguments)


# As torch does for cumsum and cumprod: a long chain of products is not for 16 bits.
torch.library.register_autocast("longrnn::block_linear_recurrence", "cpu", torch.float32)
torch.library.register_autocast("longrnn::block_linear_recurrence", "cuda", torch.float32)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    transitions, _, initial_state, *ctx.options = inputs
    ctx.has_initial = initial_state is not None
    ctx.save_for_backward(transitions, output, initial_state)


def _differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_transitions = ctx.needs_input_grad[0]
    grad_transitions, grad_impulses, grad_initial = (
        torch.ops.longrnn.block_linear_recurrence_backward(
            grad, *ctx.saved_tensors, *ctx.options, need_transitions
        )
    )
    return (
        grad_transitions if need_transitions else None,
        grad_impulses,
        grad_initial if ctx.has_initial else None,
        None,
        None,
    )


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, transitions, states, initial_state, *ctx.options, ctx.need_transitions = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(transitions, states, initial_state, output[1])


def _differentiate_backward(
    ctx: Any, v: Tensor | None, u: Tensor | None, w: Tensor | None
) -> tuple[Tensor | None, ...]:
    transitions, states, initial_state, s = ctx.saved_tensors
    dim, reverse = ctx.options
    if not ctx.need_transitions:
        v = None
    u = torch.zeros_like(s) if u is None else u
    if v is not None:
        u = u + plain.matvec(v, previous(states, initial_state, None, dim, reverse))
    r = torch.ops.longrnn.block_linear_recurrence(transitions, u, w, dim, reverse)
    grad_transitions = plain.outer(s, previous(r, w, None, dim, reverse))
    grad_states = grad_initial = None
    if v is not None:
        grad_before = plain.matvec(v.mH, s)
        grad_states = previous(grad_before, None, None, dim, not reverse)
        if initial_state is not None:
            empty = torch.zeros_like(initial_state)
            grad_initial = final(grad_before, empty, None, dim, not reverse)
    return r, grad_transitions, grad_states, grad_initial, None, None, None


torch.library.register_autograd(
    "longrnn::block_linear_recurrence", _differentiate_forward, setup_context=_save_forward
)
torch.library.register_autograd(
    "longrnn::block_linear_recurrence_backward",
    _differentiate_backward,
    setup_context=_save_backward,
)
