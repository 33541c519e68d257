"""The stack with every step evaluated, in parallel over time, as its gradients need it.

Once it is known which steps update, what a step makes of a state is still linear in it: (1 - u)
times what it was, and u times what the layer's own recurrence makes of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.skip_gilr_lstm.shut_rows import linear_with_shut_rows


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
    x = x.to(weights[0].dtype).contiguous()
    openness = updates.to(x.dtype).expand(*x.shape[:-1], states[0].shape[-1]).contiguous()
    layout: dict[str, Any] = {
        "openness": openness,
        "lengths": lengths,
        "cu_seqlens": cu_seqlens,
        "batch_first": dim == 1,
    }
    kind, finals = "surrogate" if surrogate_shift else "gilr-tanh-candidate", []
    for k, (surrogate, c, h) in enumerate(zip(*states, strict=True)):
        if masks is not None and k:
            x = x * masks[k - 1]
        weight_is, bias_is, weight_ih, weight_sh, bias_ih = weights[5 * k : 5 * k + 5]
        gates = linear_with_shut_rows(x, weight_is, bias_is)
        seen, surrogate = gated_recurrence(gates, surrogate, kind, **layout)
        gates = linear_with_shut_rows(x, weight_ih, bias_ih, seen.to(x.dtype), weight_sh)
        # The next layer takes the candidate; at skipped steps it is what the gate's gradient sees.
        x, c = gated_recurrence(gates, c, "lstm-candidate", **layout)
        output, h = gated_recurrence(x, h, "hold", **layout)
        finals.append((surrogate, c, h))
    return output, *(torch.stack(member) for member in zip(*finals, strict=True))
