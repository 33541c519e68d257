"""One layer of GILR-LSTM from its weights: two products and two recurrences."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.open_linear import open_linear


def gilr_lstm(
    x: Tensor,
    weights: Sequence[Any],
    surrogate: Tensor,
    c: Tensor,
    surrogate_shift: bool,
    **layout: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer and direction.

    Args:
        x: The input.
        weights: weight_is, bias_is, weight_ih, weight_sh and bias_ih, as `GILRLSTM` has them;
            biases may be None.
        surrogate: The surrogate before the first step.
        c: The cell before the first step.
        surrogate_shift: Whether the gates see the surrogate before the step, or after it.
        **layout: What `gated_recurrence` takes.

    Returns:
        Output, and surrogate and cell after each sequence's last step.
    """
    weight_is, bias_is, weight_ih, weight_sh, bias_ih = weights
    kind, openness = "surrogate" if surrogate_shift else "gilr-tanh", layout.get("openness")
    gates = open_linear(x, weight_is, bias_is, openness)
    seen, surrogate = gated_recurrence(gates, surrogate, kind, **layout)
    gates = open_linear(x, weight_ih, bias_ih, openness, seen.to(x.dtype), weight_sh)
    output, c = gated_recurrence(gates, c, "lstm", **layout)
    return output, surrogate, c
