"""The stack with every step evaluated, in parallel over time, as its gradients need it.

Once it is known which steps update, what a step makes of a state is still linear in it: (1 - u)
times what it was, and u times what the layer's own recurrence makes of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.linear_recurrence.plain import final, previous


def run_every_step(
    x: Tensor,
    updates: Tensor,
    weights: Sequence[Any],
    states: Sequence[Tensor],
    surrogate_shift: bool,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> tuple[Tensor, ...]:
    """Output, and each member of the final state; see `op.py` for the arguments."""
    x = x.to(weights[0].dtype)
    u, wide = updates, updates.dtype  # u is 0 past a sequence's end, where states stay

    def recur(decays: Tensor | float, impulses: Tensor, first: Tensor) -> Tensor:
        kept, grown = 1 - u + u * decays, u * impulses
        return linear_recurrence(kept, grown, first, dim=dim, cu_seqlens=cu_seqlens)

    finals = []
    for k, firsts in enumerate(zip(*(member.to(wide) for member in states), strict=True)):
        if masks is not None and k:
            x = x * masks[k - 1]
        weight_is, bias_is, weight_ih, weight_sh, bias_ih = weights[5 * k : 5 * k + 5]
        gate, impulse = linear(x, weight_is, bias_is).to(wide).chunk(2, -1)
        kept, grown = sigmoid(gate), sigmoid(-gate) * tanh(impulse)
        surrogate = recur(kept, grown, firsts[0])
        seen = previous(surrogate, firsts[0], cu_seqlens, dim, False)
        if not surrogate_shift:
            seen = kept * seen + grown
        both = torch.cat([weight_ih, weight_sh], 1)
        gates = linear(torch.cat([x, seen.to(x.dtype)], -1), both, bias_ih).to(wide)
        i, f, z, o = gates.chunk(4, -1)
        kept, grown = sigmoid(f), sigmoid(i) * tanh(z)
        c = recur(kept, grown, firsts[1])
        new_c = kept * previous(c, firsts[1], cu_seqlens, dim, False) + grown
        new_h = sigmoid(o) * new_c
        h = recur(0.0, new_h, firsts[2])
        members = zip((surrogate, c, h), firsts, strict=True)
        finals.append([final(after, first, cu_seqlens, dim, False) for after, first in members])
        x = new_h.to(x.dtype)
    if lengths is not None:
        steps = torch.arange(x.shape[dim], device=x.device).unsqueeze(1 - dim)
        h = h.where((steps < lengths.unsqueeze(dim)).unsqueeze(-1), 0.0)
    return h.to(x.dtype), *(torch.stack(member).to(x.dtype) for member in zip(*finals, strict=True))
