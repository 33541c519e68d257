"""`nn.RNN`, `nn.LSTM` and `nn.GRU` on padded sequences with lengths, at the speed of padded ones.

They take lengths only as a `PackedSequence`, for which PyTorch leaves its fast kernels (training is
several times slower on a CPU), and which no CUDA graph can hold, as its shapes follow the lengths.
Here they run over the padding, a layer and direction at a time, and exactly as if they had not:

- the final hidden state is the output at a sequence's last step;
- the final cell state of an LSTM is held through the padding by one more input feature, 1 past the
  end, that drives the forget gate to 1 and the input gate to 0;
- the reverse direction runs forward over sequences that are turned around within their lengths.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHUT = 1e4  # drives a gate to exactly 0 or 1, in every floating dtype
_RUN: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def run_padded(rnn: nn.RNNBase, input: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
    """Run PyTorch's layer over padded sequences.

    Args:
        rnn: The layer.
        input: (T, B, m), or (B, T, m) with its `batch_first`.
        state: As the layer takes it, or None.
        lengths: (B,), on the device of `input`; may be 0.

    Returns:
        The output, zero past each sequence's end, and the state after its last step.
    """
    x = input.transpose(0, 1) if rnn.batch_first else input
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
    past = (steps >= lengths).unsqueeze(-1)  # (T, B, 1)
    # A step's place in its sequence turned around; past the end, where it was.
    turned = torch.where(past.squeeze(-1), steps, lengths - 1 - steps)
    x = x.masked_fill(past, 0)
    states = _initial_states(rnn, x, state)
    finals = []
    directions = 2 if rnn.bidirectional else 1
    for layer in range(rnn.num_layers):
        outputs = []
        for k in range(layer * directions, (layer + 1) * directions):
            backward = k % directions == 1
            y = _turn(x, turned) if backward else x
            y, final = _run_one(rnn, k, y, [s[k] for s in states], past, lengths)
            outputs.append(_turn(y, turned) if backward else y)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if layer + 1 < rnn.num_layers:
            x = F.dropout(x, rnn.dropout, rnn.training)
    last = [torch.stack(member) for member in zip(*finals, strict=True)]
    output = x.transpose(0, 1) if rnn.batch_first else x
    return output, tuple(last) if rnn.mode == "LSTM" else last[0]


def _run_one(
    rnn: nn.RNNBase, k: int, x: Tensor, state: list[Tensor], past: Tensor, lengths: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction: outputs (T, B, n), and the final state, each (B, n)."""
    weights: list[Tensor] = list(rnn.all_weights[k])
    if rnn.mode == "LSTM":
        rows = weights[0].new_tensor([-_SHUT, _SHUT, 0.0, 0.0])  # gates i, f, g, o
        hold = rows.repeat_interleave(rnn.hidden_size).unsqueeze(1)
        weights[0] = torch.cat([weights[0], hold], 1)
        x = torch.cat([x, past.to(x.dtype)], -1)
    given = [s.unsqueeze(0) for s in state]
    y, _, *cells = _RUN[rnn.mode](
        x, given if rnn.mode == "LSTM" else given[0], weights, rnn.bias, 1, 0.0, rnn.training,
        False, False,
    )  # fmt: skip
    y = y.masked_fill(past, 0)
    at_end = (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, y.shape[-1])
    hidden = torch.where((lengths == 0).unsqueeze(-1), state[0], y.gather(0, at_end)[0])
    return y, [hidden, *(c[0] for c in cells)]


def _initial_states(rnn: nn.RNNBase, x: Tensor, state: Any) -> list[Tensor]:
    if state is not None:
        return list(state) if rnn.mode == "LSTM" else [state]
    rows = rnn.num_layers * (2 if rnn.bidirectional else 1)
    hidden = x.new_zeros(rows, x.shape[1], rnn.proj_size or rnn.hidden_size)
    if rnn.mode != "LSTM":
        return [hidden]
    return [hidden, x.new_zeros(rows, x.shape[1], rnn.hidden_size)]


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    """Each sequence from its last step to its first."""
    return x.gather(0, turned.unsqueeze(-1).expand_as(x))
