"""Gated impulse linear recurrence (GILR)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from longrnn import _checks
from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gated_recurrence.op import gated_recurrence

ACTIVATIONS = ("tanh", "elu", "identity", "relu")


class GILR(RecurrentStack):
    r"""A gated running mean of a function of the input.

    $$
    g_t = \sigma(W_g x_t + b_g), \qquad i_t = \tau(W_i x_t + b_i), \qquad
    h_t = g_t \odot h_{t-1} + (1 - g_t) \odot i_t
    $$

    The simplest layer that is linear in its state: gates see only the input, so that the whole
    sequence is one matrix product and one scan. Depth supplies what a gate cannot see.

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
        activation: The function $\tau$: "tanh", "elu", "identity" or "relu".

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: (L * D, B, n), or (L * D, n) where the input is (T, m); zeros if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> layer = GILR(8, 16, num_layers=2)
        >>> x = torch.randn(100, 4, 8)
        >>> output, state = layer(x)
        >>> output.shape, state.shape
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]))
        >>> left, state = layer(x[:60])
        >>> right, state = layer(x[60:], state)
        >>> torch.allclose(torch.cat([left, right]), output, atol=1e-5)
        True
    """

    options = ("activation",)

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
        activation: str = "tanh",
    ):
        _checks.check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self._cell = f"gilr-{activation}"
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
        return {"weight_ih": (2 * n, width), "bias_ih": (2 * n,)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = weights
        output, h = gated_recurrence(linear(x, weight, bias), state[0], self._cell, **layout)
        return output, (h,)
