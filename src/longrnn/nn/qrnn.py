"""Quasi-recurrent network (QRNN)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.nn.convolution import recent_inputs
from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.linear import linear


class QRNNState(NamedTuple):
    """State of a `QRNN`: c is (L * D, B, n)."""

    c: Tensor
    inputs: tuple[Tensor, ...]  # one (kernel_size - 1, B, features) a layer and direction


class QRNN(RecurrentStack):
    r"""A convolution over time whose outputs are pooled by gates (fo-pooling).

    $$
    \begin{aligned}
    \hat x_t &= [x_t, x_{t-1}, \dots, x_{t-k+1}], \qquad
    z_t = \tanh(W_z \hat x_t + b_z), \qquad
    (f, o)_t = \sigma(W_{fo} \hat x_t + b_{fo}) \\
    c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot z_t, \qquad h_t = o_t \odot c_t
    \end{aligned}
    $$

    Gates that see the last k inputs replace gates that see the state.

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
        kernel_size: The number k of inputs, this step's included, that a step's gates see.
        forget_bias: Initial bias of the forget gate f; not used where `bias` is False.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: `(c, inputs)`; c is (L * D, B, n), or (L * D, n) where the input is (T, m);
          inputs is a tuple, one tensor (k - 1, B, features) a layer and direction, oldest first
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Bradbury et al., "Quasi-Recurrent Neural Networks", ICLR 2017,
        https://arxiv.org/abs/1611.01576.

    Example:
        >>> layer = QRNN(8, 16, kernel_size=3)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.c.shape, state.inputs[0].shape
        (torch.Size([100, 4, 16]), torch.Size([1, 4, 16]), torch.Size([2, 4, 8]))
    """

    state_type = QRNNState
    keeps_inputs = True
    options = ("kernel_size", "forget_bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kernel_size: int = 2,
        forget_bias: float = 1.0,
    ):
        _checks.check_positive(kernel_size=kernel_size)
        self.kernel_size = kernel_size
        self.forget_bias = forget_bias
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return {"weight_ih": (3 * n, self.kernel_size * width), "bias_ih": (3 * n,)}

    def _initial_biases(self) -> dict[str, tuple[float, ...]]:
        return {"bias_ih": (0.0, self.forget_bias, 0.0)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        seen, inputs = recent_inputs(x, state[1], layout)
        output, c = gated_recurrence(linear(seen, weight, bias), state[0], "qrnn", **layout)
        return output, (c, inputs)
