"""The definition of `solve_recurrence`: a loop that a reader can check by eye."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longrnn.ops.solve_recurrence.steps import like, members


def solve_recurrence_reference(
    cell: Callable[[Any, Any], Any], inputs: Any, initial_state: Any
) -> Any:
    """Run s_t = cell(x_t, s_{t-1}) one step at a time.

    The arguments mean what they mean in `solve_recurrence`; plain autograd differentiates it.
    """
    state, states = initial_state, []
    # unbind, not x[t]: the gradient of an index fills a whole tensor at each step.
    for x in zip(*(x.unbind(0) for x in members(inputs)), strict=True):
        state = cell(like(inputs, x), state)
        states.append(members(state))
    found: list[Tensor] = [torch.stack(s) for s in zip(*states, strict=True)]
    return like(initial_state, found)
