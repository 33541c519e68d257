"""The stack with every step evaluated, in parallel over time, as its gradients need it.

Once it is known which steps update, what a step makes of a state is still linear in it: (1 - u)
times what it was, and u times what the layer's own recurrence makes of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from longrnn.ops.gated_recurrence.op import gated_recurrence
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
    x, u = x.to(weights[0].dtype), updates
    openness = u.to(x.dtype).expand(*x.shape[:-1], states[0].shape[-1]).contiguous()
    layout: dict[str, Any] = {
        "lengths": lengths,
        "cu_seqlens": cu_seqlens,
        "batch_first": dim == 1,
    }
    finals = []
    for k, (surrogate, c, h) in enumerate(zip(*states, strict=True)):
        if masks is not None and k:
            x = x * masks[k - 1]
        weight_is, bias_is, weight_ih, weight_sh, bias_ih = weights[5 * k : 5 * k + 5]
        gates = linear(x, weight_is, bias_is)
        seen, surrogate = gated_recurrence(
            gates, surrogate, "surrogate", openness=openness, **layout
        )
        if not surrogate_shift:
            gate, impulse = gates.chunk(2, -1)
            seen = sigmoid(gate) * seen + sigmoid(-gate) * tanh(impulse)
        both = torch.cat([weight_ih, weight_sh], 1)
        gates = linear(torch.cat([x, seen.to(x.dtype)], -1), both, bias_ih)
        i, f, z, o = gates.to(u.dtype).chunk(4, -1)
        kept, grown, c = sigmoid(f), sigmoid(i) * tanh(z), c.to(u.dtype)
        decays, impulses = 1 - u + u * kept, u * grown
        after = linear_recurrence(decays, impulses, c, dim=dim, cu_seqlens=cu_seqlens)
        new_c = kept * previous(after, c, cu_seqlens, dim, False) + grown
        x = (sigmoid(o) * new_c).to(x.dtype)  # the next layer takes the candidate
        output, h = gated_recurrence(x, h, "hold", openness=openness, **layout)
        c = final(after, c, cu_seqlens, dim, False)  # u is 0 past a sequence's end
        finals.append((surrogate, c.to(x.dtype), h))
    return output, *(torch.stack(member) for member in zip(*finals, strict=True))
