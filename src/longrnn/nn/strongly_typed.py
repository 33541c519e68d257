"""Strongly typed recurrent networks: no state enters a matrix product."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from longrnn.nn.convolution import recent_inputs
from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.linear import linear


class StronglyTypedGRUState(NamedTuple):
    """State of a `StronglyTypedGRU`: h is (L * D, B, n)."""

    h: Tensor
    inputs: tuple[Tensor, ...]  # one (1, B, features) a layer and direction


class StronglyTypedLSTMState(NamedTuple):
    """State of a `StronglyTypedLSTM`: c is (L * D, B, n)."""

    c: Tensor
    inputs: tuple[Tensor, ...]  # one (1, B, features) a layer and direction


class StronglyTypedRNN(RecurrentStack):
    r"""A gated running mean of a linear function of the input.

    $$
    z_t = W x_t, \qquad f_t = \sigma(V x_t + b), \qquad
    h_t = f_t \odot h_{t-1} + (1 - f_t) \odot z_t
    $$

    What a weight matrix reads stays in one basis: states are only ever averaged, feature by
    feature, so that each feature keeps its meaning over time. The bias is the forget gate's.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state and of the output, n.
        num_layers: Layers, each of which takes the output of the one below.
        bias: Whether the gates have biases.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: (L * D, B, n), or (L * D, n) where the input is (T, m); zeros if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Balduzzi and Ghifary, "Strongly-Typed Recurrent Neural Networks", ICML 2016,
        https://arxiv.org/abs/1602.02218.

    Example:
        >>> import torch
        >>> layer = StronglyTypedRNN(8, 16, num_layers=2)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.shape
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]))
    """

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return {"weight_ih": (2 * n, width), "bias_ih": (n,)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        if bias is not None:
            bias = pad(bias, (self.hidden_size, 0))  # z has none
        gates = linear(x, weight, bias)
        output, h = gated_recurrence(gates, state[0], "strongly-typed-rnn", **layout)
        return output, (h,)


class StronglyTypedGRU(RecurrentStack):
    r"""A GRU whose gates see this input and the one before.

    $$
    \begin{aligned}
    z_t &= W_z x_t + V_z x_{t-1} + b_z, \qquad
    f_t = \sigma(W_f x_t + V_f x_{t-1} + b_f), \qquad
    o_t = \tanh(W_o x_t + V_o x_{t-1} + b_o) \\
    h_t &= f_t \odot h_{t-1} + z_t \odot o_t
    \end{aligned}
    $$

    The input before stands where a GRU has its state, so that the state enters no matrix product.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state and of the output, n.
        num_layers: Layers, each of which takes the output of the one below.
        bias: Whether the gates have biases.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: `(h, inputs)`; h is (L * D, B, n), or (L * D, n) where the input is (T, m);
          inputs is a tuple, one tensor (1, B, features) a layer and direction, oldest first
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Balduzzi and Ghifary, "Strongly-Typed Recurrent Neural Networks", ICML 2016,
        https://arxiv.org/abs/1602.02218.

    Example:
        >>> import torch
        >>> layer = StronglyTypedGRU(8, 16, num_layers=2)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.h.shape, [x.shape[-1] for x in state.inputs]
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]), [8, 16])
    """

    state_type = StronglyTypedGRUState
    keeps_inputs = True
    kernel_size = 2

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return {"weight_ih": (3 * n, 2 * width), "bias_ih": (3 * n,)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        seen, inputs = recent_inputs(x, state[1], layout)
        gates = linear(seen, weight, bias)
        output, h = gated_recurrence(gates, state[0], "strongly-typed-gru", **layout)
        return output, (h, inputs)


class StronglyTypedLSTM(RecurrentStack):
    r"""An LSTM whose gates see this input and the one before.

    $$
    \begin{aligned}
    z_t &= W_z x_t + V_z x_{t-1} + b_z, \qquad
    f_t = \sigma(W_f x_t + V_f x_{t-1} + b_f), \qquad
    o_t = \tanh(W_o x_t + V_o x_{t-1} + b_o) \\
    c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot z_t, \qquad h_t = c_t \odot o_t
    \end{aligned}
    $$

    The input before stands where an LSTM has its state, so that the state enters no matrix
    product.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state and of the output, n.
        num_layers: Layers, each of which takes the output of the one below.
        bias: Whether the gates have biases.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: `(c, inputs)`; c is (L * D, B, n), or (L * D, n) where the input is (T, m);
          inputs is a tuple, one tensor (1, B, features) a layer and direction, oldest first
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Balduzzi and Ghifary, "Strongly-Typed Recurrent Neural Networks", ICML 2016,
        https://arxiv.org/abs/1602.02218.

    Example:
        >>> import torch
        >>> layer = StronglyTypedLSTM(8, 16, num_layers=2)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.c.shape, [x.shape[-1] for x in state.inputs]
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]), [8, 16])
    """

    state_type = StronglyTypedLSTMState
    keeps_inputs = True
    kernel_size = 2

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return {"weight_ih": (3 * n, 2 * width), "bias_ih": (3 * n,)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        seen, inputs = recent_inputs(x, state[1], layout)
        gates = linear(seen, weight, bias)
        output, c = gated_recurrence(gates, state[0], "strongly-typed-lstm", **layout)
        return output, (c, inputs)
