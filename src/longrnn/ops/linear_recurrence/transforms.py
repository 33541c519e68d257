"""`linear_recurrence` under torch.func: grad, vjp, jvp, jacrev and vmap, nested in any order.

torch.library's autograd registration does not serve torch.func's transforms, a Function with
`setup_context` does. Its derivatives are composed of the recurrence itself, so every order exists.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from longrnn.ops.linear_recurrence import plain


def transforms_active() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, is under way."""
    return torch._C._are_functorch_transforms_active() or (
        not torch.compiler.is_compiling() and forward_ad._current_level >= 0
    )


def is_followed(x: Tensor) -> bool:
    """Whether a compiler, a tracer, a transform or a tensor subclass follows what is done to x."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


class LinearRecurrence(torch.autograd.Function):
    """The dispatcher op's arguments, and its output."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """Run the recurrence."""
        return torch.ops.longrnn.linear_recurrence(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save what the derivatives need."""
        decays, _, initial_state, cu_seqlens, ctx.dim, ctx.reverse, ctx.algorithm = inputs
        ctx.save_for_backward(decays, output, initial_state, cu_seqlens)
        ctx.save_for_forward(decays, output, initial_state, cu_seqlens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The recurrence run the other way, with decays moved by one step."""
        decays, states, initial_state, cu_seqlens = ctx.saved_tensors
        dim, reverse = ctx.dim, ctx.reverse
        a = decays.conj().resolve_conj()
        a_next = plain.previous(a, None, cu_seqlens, dim, not reverse)
        s = LinearRecurrence.apply(
            a_next, grads[0], None, cu_seqlens, dim, not reverse, ctx.algorithm
        )
        before = plain.previous(states, initial_state, cu_seqlens, dim, reverse)
        grad_initial = None
        if initial_state is not None:
            empty = torch.zeros_like(initial_state)
            grad_initial = plain.final(a * s, empty, cu_seqlens, dim, not reverse)
        return s * before.conj(), s, grad_initial, *(None,) * 4

    @staticmethod
    def jvp(
        ctx: Any,
        d_decays: Tensor | None,
        d_impulses: Tensor | None,
        d_initial: Tensor | None,
        *_: Any,
    ) -> Tensor:
        """The tangent of the states follows the same recurrence."""
        decays, states, initial_state, cu_seqlens = ctx.saved_tensors
        impulses = torch.zeros_like(states) if d_impulses is None else d_impulses
        if d_decays is not None:
            before = plain.previous(states, initial_state, cu_seqlens, ctx.dim, ctx.reverse)
            impulses = impulses + d_decays * before
        return LinearRecurrence.apply(
            decays, impulses, d_initial, cu_seqlens, ctx.dim, ctx.reverse, ctx.algorithm
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
        """One call with the mapped dimension in front."""
        decays, impulses, initial_state, cu_seqlens, dim, reverse, algorithm = arguments
        if in_dims[3] is not None:
            raise NotImplementedError("cu_seqlens cannot be mapped by vmap: share it, or loop")
        decays, impulses, initial_state = (
            x
            if x is None
            else (x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0))
            for x, d in zip((decays, impulses, initial_state), in_dims, strict=False)
        )
        options = (cu_seqlens, dim + 1, reverse, algorithm)
        return LinearRecurrence.apply(decays, impulses, initial_state, *options), 0
