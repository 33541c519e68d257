"""The definition of `linear_recurrence`: a loop that a reader can check by eye."""

import itertools

import torch
from torch import Tensor


def linear_recurrence_reference(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None = None,
    *,
    dim: int = 0,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Run h_t = decays_t * h_{t-1} + impulses_t one step at a time.

    The arguments mean what they mean in `linear_recurrence`; plain autograd differentiates it.
    """
    ends = [0, impulses.shape[dim]] if cu_seqlens is None else cu_seqlens.tolist()
    decays = decays.broadcast_to(impulses.shape)
    # unbind, not decays[t]: the gradient of an index fills a whole tensor at each step.
    decay_steps, impulse_steps = decays.unbind(dim), impulses.unbind(dim)
    states = list(impulse_steps)
    for n, (start, end) in enumerate(itertools.pairwise(ends)):
        h: Tensor | float = 0.0
        if initial_state is not None:
            h = initial_state if cu_seqlens is None else initial_state.select(dim, n)
        for t in reversed(range(start, end)) if reverse else range(start, end):
            h = decay_steps[t] * h + impulse_steps[t]
            states[t] = h
    return torch.stack(states, dim) if states else impulses.clone()
