"""`nn.RNN`, `nn.LSTM` and `nn.GRU` on padded sequences with lengths, at the speed of padded ones.

They take lengths only as a `PackedSequence`, for which PyTorch leaves its fast kernels (training is
several times slower on a CPU), and which no CUDA graph can hold, as its shapes follow the lengths.
Here they run over the padding, a layer and direction at a time, and exactly as if they had not:

- the final hidden state is the output at a sequence's last step;
- the final cell state of an LSTM is held through the padding by one more input feature, 1 past the
  end, that drives the forget gate to 1 and the input gate to 0;
- the reverse direction runs forward over sequences that are turned around within their lengths.

Where the lengths are known, what can be cut off is: steps past the longest are not run, steps that
all sequences have are not masked, and sequences of one length run as PyTorch runs them.

This reads the layer's weights and leaves out its call, so it is for PyTorch's own `forward` without
hooks. Any other layer is called, with a `PackedSequence`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from longrnn import _checks

_SHUT = 1e4  # drives a gate to exactly 0 or 1, in every floating dtype
_RUN: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}
_FORWARDS = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_Body = Callable[[nn.RNNBase, Tensor, Any, Tensor], tuple[Tensor, list[Tensor]]]


class _Ends(NamedTuple):
    """Where sequences end."""

    lengths: Tensor  # (B,)
    past: Tensor  # (T, B, 1), whether a step is past the end
    shortest: int  # steps that all sequences have, or 0


def run_padded(rnn: nn.RNNBase, input: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
    """Run PyTorch's layer over padded sequences.

    A layer with hooks, as pruning sets them, or of a derived class with a `forward` of its own, is
    called with a `PackedSequence`, which is slower.

    Args:
        rnn: The layer.
        input: (T, B, m), or (B, T, m) with its `batch_first`.
        state: As the layer takes it, or None.
        lengths: (B,), on the device of `input`; may be 0.

    Returns:
        The output, zero past each sequence's end, and the state after its last step.

    Raises:
        ValueError: If an argument has another shape, dtype or device, or a length is longer than
            the input.
    """
    own = getattr(rnn.forward, "__func__", None) not in _FORWARDS
    hooked = _has_any_global_hook() or any(getattr(rnn, hooks) for hooks in _HOOKS)
    return _run(_run_packed if own or hooked else _run_weights, rnn, input, state, lengths)


def run_weights(rnn: nn.RNNBase, input: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
    """As `run_padded`, by the layer's weights alone: for the `forward` of a derived class."""
    return _run(_run_weights, rnn, input, state, lengths)


def _run(
    body: _Body, rnn: nn.RNNBase, input: Tensor, state: Any, lengths: Tensor
) -> tuple[Tensor, Any]:
    """Run a body on time first, without the steps past the longest sequence."""
    if not isinstance(rnn, nn.RNNBase):
        raise ValueError(f"rnn must be an nn.LSTM, nn.GRU or nn.RNN, got {type(rnn).__name__}")
    layout = "B T m" if rnn.batch_first else "T B m"
    _checks.check_floating("input", input)
    _checks.check_shape("input", input, layout, (None, None, rnn.input_size))
    _checks.check_fits("input", input, "the layer", rnn.weight_ih_l0)  # type: ignore[arg-type]
    x = input.transpose(0, 1) if rnn.batch_first else input
    T = len(x)
    _checks.check_lengths("lengths", lengths, x.shape[1], T)
    longest = max(lengths.tolist(), default=T) if _checks.is_known(lengths) else T
    x = x[:longest] if longest else F.pad(x[:0], (0, 0, 0, 0, 0, 1))  # PyTorch wants a step
    output, last = body(rnn, x, state, lengths)
    if len(output) != T:
        output = F.pad(output, (0, 0, 0, 0, 0, T - len(output)))
    output = output.transpose(0, 1) if rnn.batch_first else output
    return output, tuple(last) if rnn.mode == "LSTM" else last[0]


def _run_packed(
    rnn: nn.RNNBase, x: Tensor, state: Any, lengths: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The layer's own call."""
    # A PackedSequence holds no empty sequence: those run a step of zeros, of which nothing is kept.
    empty = (lengths == 0).unsqueeze(-1)
    kept = _initial_states(rnn, x, state)
    packed, last = rnn(
        pack_padded_sequence(
            torch.where(empty, 0.0, x), lengths.clamp(min=1).cpu(), enforce_sorted=False
        ),
        state,
    )
    output, _ = pad_packed_sequence(packed, total_length=len(x))
    members = last if rnn.mode == "LSTM" else [last]
    both = zip(kept, members, strict=True)
    return torch.where(empty, 0.0, output), [torch.where(empty, k.to(m.dtype), m) for k, m in both]


def _run_weights(
    rnn: nn.RNNBase, x: Tensor, state: Any, lengths: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """PyTorch's kernels on the layer's weights."""
    states = _initial_states(rnn, x, state)
    shortest = min(lengths.tolist(), default=len(x)) if _checks.is_known(lengths) else 0
    if 0 < shortest == len(x):
        return _run_whole(rnn, x, states)
    return _run_ragged(rnn, x, states, lengths, shortest)


def _run_whole(rnn: nn.RNNBase, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """All layers over sequences of one length."""
    weights = [weight for layer in rnn.all_weights for weight in layer]
    output, *last = _RUN[rnn.mode](
        x, states if rnn.mode == "LSTM" else states[0], weights, rnn.bias, rnn.num_layers,
        rnn.dropout, rnn.training, rnn.bidirectional, False,
    )  # fmt: skip
    return output, last


def _run_ragged(
    rnn: nn.RNNBase, x: Tensor, states: list[Tensor], lengths: Tensor, shortest: int
) -> tuple[Tensor, list[Tensor]]:
    """All layers over padded sequences, of which none is shorter than `shortest`."""
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)  # (T, 1)
    past = steps >= lengths  # (T, B)
    # A step's place in its sequence turned around; past the end, where it was.
    turned = torch.where(past, steps, lengths - 1 - steps)
    ends = _Ends(lengths, past.unsqueeze(-1), shortest)
    x = _zero_past(x, ends)
    finals = []
    directions = 2 if rnn.bidirectional else 1
    for layer in range(rnn.num_layers):
        outputs = []
        for k in range(layer * directions, (layer + 1) * directions):
            backward = k % directions == 1
            y = _turn(x, turned) if backward else x
            y, final = _run_one(rnn, k, y, [s[k] for s in states], ends)
            outputs.append(_turn(y, turned) if backward else y)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if layer + 1 < rnn.num_layers:
            x = F.dropout(x, rnn.dropout, rnn.training)
    return x, [torch.stack(member) for member in zip(*finals, strict=True)]


def _run_one(
    rnn: nn.RNNBase, k: int, x: Tensor, state: list[Tensor], ends: _Ends
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction: outputs (T, B, n), and the final state, each (B, n)."""
    weights: list[Tensor] = list(rnn.all_weights[k])
    if rnn.mode == "LSTM":
        rows = weights[0].new_tensor([-_SHUT, _SHUT, 0.0, 0.0])  # gates i, f, g, o
        hold = rows.repeat_interleave(rnn.hidden_size).unsqueeze(1)
        weights[0] = torch.cat([weights[0], hold], 1)
        x = torch.cat([x, ends.past.to(x.dtype)], -1)
    given = [s.unsqueeze(0) for s in state]
    y, _, *cells = _RUN[rnn.mode](
        x, given if rnn.mode == "LSTM" else given[0], weights, rnn.bias, 1, 0.0, rnn.training,
        False, False,
    )  # fmt: skip
    y = _zero_past(y, ends)
    at_end = (ends.lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, y.shape[-1])
    empty = (ends.lengths == 0).unsqueeze(-1)
    hidden = torch.where(empty, state[0].to(y.dtype), y.gather(0, at_end)[0])
    return y, [hidden, *(c[0] for c in cells)]


def _initial_states(rnn: nn.RNNBase, x: Tensor, state: Any) -> list[Tensor]:
    rows = rnn.num_layers * (2 if rnn.bidirectional else 1)
    widths = [rnn.proj_size or rnn.hidden_size, rnn.hidden_size][: 2 if rnn.mode == "LSTM" else 1]
    shapes = [(rows, x.shape[1], n) for n in widths]
    if state is None:
        return [x.new_zeros(shape) for shape in shapes]
    names = ["state"]
    if rnn.mode == "LSTM":
        _checks.check_members("state", state, 2)
        names = ["state[0]", "state[1]"]
    states = list(state) if rnn.mode == "LSTM" else [state]
    for name, member, shape in zip(names, states, shapes, strict=True):
        _checks.check_state(name, member, "L*D B n", shape, x)
    return states


def _zero_past(x: Tensor, ends: _Ends) -> Tensor:
    """`x` (T, B, m) with zeros past the ends."""
    _, past, shortest = ends
    if not shortest:
        return torch.where(past, 0.0, x)
    common, rest = x.split([shortest, len(x) - shortest])
    return torch.cat([common, torch.where(past[shortest:], 0.0, rest)])


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    """Each sequence from its last step to its first."""
    return x.gather(0, turned.unsqueeze(-1).expand_as(x))
