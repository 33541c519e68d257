"""`block_linear_recurrence` under torch.func; see `linear_recurrence/transforms.py`."""

from typing import Any

import torch
from torch import Tensor

from longrnn.ops.block_linear_recurrence.plain import before_first, matvec, outer
from longrnn.ops.linear_recurrence.plain import previous


class BlockLinearRecurrence(torch.autograd.Function):
    """The dispatcher op's arguments, and its output."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """Run the recurrence."""
        return torch.ops.longrnn.block_linear_recurrence(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save what the derivatives need."""
        transitions, _, initial_state, ctx.dim, ctx.reverse = inputs
        ctx.save_for_backward(transitions, output, initial_state)
        ctx.save_for_forward(transitions, output, initial_state)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The recurrence run the other way, with transitions moved by one step."""
        transitions, states, initial_state = ctx.saved_tensors
        dim, reverse = ctx.dim, ctx.reverse
        a = transitions.mH.resolve_conj()
        a_next = previous(a, None, None, dim, not reverse)
        s = BlockLinearRecurrence.apply(a_next, grads[0], None, dim, not reverse)
        before = previous(states, initial_state, None, dim, reverse)
        grad_initial = None if initial_state is None else before_first(a, s, dim, reverse)
        return outer(s, before), s, grad_initial, None, None

    @staticmethod
    def jvp(
        ctx: Any,
        d_transitions: Tensor | None,
        d_impulses: Tensor | None,
        d_initial: Tensor | None,
        *_: Any,
    ) -> Tensor:
        """The tangent of the states follows the same recurrence."""
        transitions, states, initial_state = ctx.saved_tensors
        impulses = torch.zeros_like(states) if d_impulses is None else d_impulses
        if d_transitions is not None:
            before = previous(states, initial_state, None, ctx.dim, ctx.reverse)
            impulses = impulses + matvec(d_transitions, before)
        return BlockLinearRecurrence.apply(transitions, impulses, d_initial, ctx.dim, ctx.reverse)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
        """One call with the mapped dimension in front."""
        *tensors, dim, reverse = arguments
        tensors = [
            x
            if x is None
            else (x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0))
            for x, d in zip(tensors, in_dims, strict=False)
        ]
        return BlockLinearRecurrence.apply(*tensors, dim + 1, reverse), 0
