r"""The elementwise linear recurrence $h_t = a_t \odot h_{t-1} + x_t$.

Start reading here. `linear_recurrence` is the public function; below it stands the same
recurrence as a dispatcher op with one kernel a device (`cpu.py`, `gpu.py`, `plain.py`), and one
gradient for all of them, because the gradient of a linear recurrence is one run the other way:

    forward    h_t = a_t h_{t-1} + x_t                    (left to right)
    backward   s_t = a_{t+1} s_{t+1} + y_t                (right to left; y: gradient of h)
               grad_x_t = s_t,  grad_a_t = s_t h_{t-1},  grad_h0 = a_1 s_1
    twice      r_t = a_t r_{t-1} + u_t + v_t h_{t-1},  r_0 = w    for cotangents u, v, w of those
               grad_y_t = r_t,  grad_a_t = r_{t-1} s_t,  grad_h_{t-1} = v_t s_t
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import register_gpu
from longrnn.ops.linear_recurrence import plain
from longrnn.ops.linear_recurrence.transforms import LinearRecurrence, transforms_active

ALGORITHMS = ("auto", "serial", "parallel")


def linear_recurrence(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None = None,
    *,
    dim: int = 0,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    algorithm: str = "auto",
) -> Tensor:
    r"""Solve $h_t = a_t \odot h_{t-1} + x_t$ for every step of a sequence at once.

    $a$ are the `decays`, $x$ the `impulses`, $h_0$ the `initial_state`. With `reverse=True`,
    $h_t = a_t \odot h_{t+1} + x_t$. The final state is the output's last step, so gradients
    through it need nothing special.

    Args:
        decays: How much of the state each step keeps. Broadcasts to the shape of `impulses`.
        impulses: What each step adds. Any rank from 1, any strides.
        initial_state: The state before the first step (after the last, reversed); zeros if None.
            Broadcasts to the shape of `impulses` without `dim`.
        dim: The dimension of `impulses` that is time.
        reverse: Run from the last step to the first.
        cu_seqlens: Ends of sequences that lie end to end on the time axis: N + 1 integers, 0
            first, T last, ascending. The state starts afresh at each sequence, and
            `initial_state` has N in the place of T. Empty sequences are legal.
        algorithm: "serial" is one pass over time a channel; "parallel" splits time over the
            cores; "auto" takes whichever is faster for this shape, device and thread count.

    Shape:
        - decays: broadcasts to (..., T, ...)
        - impulses: (..., T, ...), T at `dim`; T = 0 is legal
        - initial_state: broadcasts to (..., ...), or to (..., N, ...) with `cu_seqlens`
        - returns: the shape of `impulses`

    Returns:
        The states $h_1 \ldots h_T$. Mixed dtypes promote as in torch's arithmetic. float16 and
        bfloat16 carry the state in float32 and round once, when a state is written. Keep decays
        near 1 in float32: the largest bfloat16 below 1 is 0.996, a memory of 256 steps.

    Raises:
        ValueError: If a shape, dtype, device, `dim`, `cu_seqlens` or `algorithm` is not as above.

    Note:
        Meant for |decays| <= 1. Steps are composed, so that where a product of decays over a
        stretch of time overflows, states there may be nan even if impulses are zero.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 2.

    Example:
        >>> decays = torch.tensor([0.5, 0.25, 2.0, 0.0])
        >>> impulses = torch.tensor([1.0, -1.0, 0.5, 3.0])
        >>> linear_recurrence(decays, impulses, torch.tensor(4.0)).tolist()
        [3.0, -0.25, 0.0, 3.0]
    """
    _checks.check_floating("decays", decays, complex_too=True)
    _checks.check_floating("impulses", impulses, complex_too=True)
    shape, rank = impulses.shape, impulses.ndim
    if not -rank <= dim < rank:
        raise ValueError(
            f"dim must lie in [{-rank}, {rank - 1}] for impulses of {rank} dimensions, got {dim}"
        )
    dim %= rank
    _checks.check_choice("algorithm", algorithm, ALGORITHMS)
    _checks.check_same_device("decays", decays, "impulses", impulses)
    _checks.check_broadcast("decays", decays, shape)
    dtype = impulses.dtype
    if decays.dtype != dtype:
        dtype = torch.promote_types(dtype, decays.dtype)
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_shape("cu_seqlens", cu_seqlens)
        _checks.check_same_device("cu_seqlens", cu_seqlens, "impulses", impulses)
        cu_seqlens = cu_seqlens.long().contiguous()
    if initial_state is not None:
        _checks.check_floating("initial_state", initial_state, complex_too=True)
        _checks.check_same_device("initial_state", initial_state, "impulses", impulses)
        rows: tuple[int, ...] = (*shape[:dim], *shape[dim + 1 :])
        if cu_seqlens is not None:
            rows = (*shape[:dim], cu_seqlens.shape[0] - 1, *shape[dim + 1 :])
        _checks.check_broadcast("initial_state", initial_state, rows)
        if initial_state.dtype != dtype:
            dtype = torch.promote_types(dtype, initial_state.dtype)
            initial_state = initial_state.to(dtype)
        initial_state = initial_state.expand(rows)
    if dtype.is_complex and not impulses.is_complex():
        raise ValueError(
            f"impulses must be complex where decays or initial_state are, got {impulses.dtype}: "
            "pass impulses.to(torch.complex64)"
        )
    if decays.shape != shape:
        decays = decays.expand(shape)
    run: Any = torch.ops.longrnn.linear_recurrence
    if transforms_active():
        run = LinearRecurrence.apply
    return run(
        decays.to(dtype), impulses.to(dtype), initial_state, cu_seqlens, dim, reverse, algorithm
    )


torch.library.define(
    "longrnn::linear_recurrence",
    "(Tensor decays, Tensor impulses, Tensor? initial_state, Tensor? cu_seqlens, int dim, "
    "bool reverse, str algorithm) -> Tensor",
)
torch.library.define(
    "longrnn::linear_recurrence_backward",
    "(Tensor grad, Tensor decays, Tensor states, Tensor? initial_state, Tensor? cu_seqlens, "
    "int dim, bool reverse, str algorithm, bool need_decays) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("longrnn::linear_recurrence", "CPU")
def _forward_cpu(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    *options: Any,
) -> Tensor:
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, impulses.shape[options[0]])
    if not _native.available():
        return plain.forward(decays, impulses, initial_state, cu_seqlens, *options)
    from longrnn.ops.linear_recurrence import cpu

    return cpu.forward(decays, impulses, initial_state, cu_seqlens, *options)


@torch.library.impl("longrnn::linear_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not _native.available():
        return plain.backward(*arguments)
    from longrnn.ops.linear_recurrence import cpu

    return cpu.backward(*arguments)


register_gpu("linear_recurrence")


@torch.library.impl("longrnn::linear_recurrence", "CompositeExplicitAutograd")
def _forward_elsewhere(*arguments: Any) -> Tensor:
    return plain.forward(*arguments)


@torch.library.impl("longrnn::linear_recurrence_backward", "CompositeExplicitAutograd")
def _backward_elsewhere(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return plain.backward(*arguments)


@torch.library.register_fake("longrnn::linear_recurrence")
def _forward_fake(decays: Tensor, impulses: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(impulses, memory_format=torch.contiguous_format)


@torch.library.register_fake("longrnn::linear_recurrence_backward")
def _backward_fake(
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
    grad_impulses = torch.empty_like(grad, memory_format=torch.contiguous_format)
    grad_decays = torch.empty_like(grad_impulses) if need_decays else grad.new_empty(0)
    return grad_decays, grad_impulses, plain._initial_like(grad, cu_seqlens, dim)


@torch.library.register_vmap("longrnn::linear_recurrence")
def _vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    return LinearRecurrence.vmap(info, in_dims, *arguments)


# As torch does for cumsum and cumprod: a long chain of products is not for 16 bits.
torch.library.register_autocast("longrnn::linear_recurrence", "cpu", torch.float32)
torch.library.register_autocast("longrnn::linear_recurrence", "cuda", torch.float32)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    decays, _, initial_state, cu_seqlens, *ctx.options = inputs
    ctx.has_initial = initial_state is not None
    ctx.save_for_backward(decays, output, initial_state, cu_seqlens)


def _differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    decays, states, initial_state, cu_seqlens = ctx.saved_tensors
    need_decays = ctx.needs_input_grad[0]
    grad_decays, grad_impulses, grad_initial = torch.ops.longrnn.linear_recurrence_backward(
        grad, decays, states, initial_state, cu_seqlens, *ctx.options, need_decays
    )
    return (
        grad_decays if need_decays else None,
        grad_impulses,
        grad_initial if ctx.has_initial else None,
        *(None,) * 4,
    )


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, decays, states, initial_state, cu_seqlens, *ctx.options, ctx.need_decays = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(decays, states, initial_state, cu_seqlens, output[1])


def _differentiate_backward(
    ctx: Any, v: Tensor | None, u: Tensor | None, w: Tensor | None
) -> tuple[Tensor | None, ...]:
    decays, states, initial_state, cu_seqlens, s = ctx.saved_tensors
    dim, reverse, algorithm = ctx.options
    if not ctx.need_decays:
        v = None
    u = torch.zeros_like(s) if u is None else u
    if v is not None:
        u = torch.addcmul(u, v, plain.previous(states, initial_state, cu_seqlens, dim, reverse))
    r = torch.ops.longrnn.linear_recurrence(
        decays,
        u,
        w,
        cu_seqlens,
        dim,
        reverse,
        algorithm,
    )
    r_before = plain.previous(r, w, cu_seqlens, dim, reverse)
    grad_decays = r_before.conj() * s
    grad_states = grad_initial = None
    if v is not None:
        grad_before = v.conj() * s
        grad_states = plain.previous(grad_before, None, cu_seqlens, dim, not reverse)
        if initial_state is not None:
            empty = torch.zeros_like(initial_state)
            grad_initial = plain.final(grad_before, empty, cu_seqlens, dim, not reverse)
    return r, grad_decays, grad_states, grad_initial, *(None,) * 5


torch.library.register_autograd(
    "longrnn::linear_recurrence", _differentiate_forward, setup_context=_save_forward
)
torch.library.register_autograd(
    "longrnn::linear_recurrence_backward", _differentiate_backward, setup_context=_save_backward
)
