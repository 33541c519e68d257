"""The definition of `block_linear_recurrence`: a loop that a reader can check by eye."""

import torch
from torch import Tensor


def block_linear_recurrence_reference(
    transitions: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None = None,
    *,
    dim: int = 0,
    reverse: bool = False,
) -> Tensor:
    """Run h_t = transitions_t @ h_{t-1} + impulses_t one step at a time.

    The arguments mean what they mean in `block_linear_recurrence`; plain autograd differentiates
    it.
    """
    shape, dim = impulses.shape, dim % impulses.ndim
    transitions = transitions.broadcast_to((*shape, shape[-1]))
    h = initial_state
    if h is None:
        h = impulses.new_zeros((*shape[:dim], *shape[dim + 1 :]))
    # unbind, not transitions[t]: the gradient of an index fills a whole tensor at each step.
    transition_steps, states = transitions.unbind(dim), list(impulses.unbind(dim))
    for t in reversed(range(len(states))) if reverse else range(len(states)):
        h = (transition_steps[t] * h.unsqueeze(-2)).sum(-1) + states[t]
        states[t] = h
    return torch.stack(states, dim) if states else impulses.clone()
