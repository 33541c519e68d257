"""Minimal long short-term memory (minLSTM)."""

from typing import Any

from torch import Tensor

from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.linear import linear


class MinLSTM(RecurrentStack):
    r"""An LSTM whose gates see only the input and sum to one.

    $$
    \begin{aligned}
    f_t &= \sigma(W_f x_t + b_f), \qquad i_t = \sigma(W_i x_t + b_i) \\
    h_t &= \frac{f_t}{f_t + i_t} \odot h_{t-1}
        + \frac{i_t}{f_t + i_t} \odot (W_c x_t + b_c)
    \end{aligned}
    $$

    Normalised gates keep the state's scale independent of the number of steps. The candidate is
    linear in the input.

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
        Feng et al., "Were RNNs All We Needed?", 2024, https://arxiv.org/abs/2410.01201.

    Example:
        >>> import torch
        >>> layer = MinLSTM(8, 16, num_layers=2)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.shape
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]))
    """

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        rows = 3 * self.hidden_size
        return {"weight_ih": (rows, width), "bias_ih": (rows,)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        output, h = gated_recurrence(linear(x, weight, bias), state[0], "min-lstm", **layout)
        return output, (h,)
