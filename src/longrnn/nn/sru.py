"""Simple recurrent unit (SRU)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from longrnn import _checks
from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gated_recurrence.op import gated_recurrence

ACTIVATIONS = ("identity", "tanh")


class SRU(RecurrentStack):
    r"""A gated recurrence with a highway past it.

    $$
    \begin{aligned}
    z_t &= W_z x_t + b_z, \qquad
    f_t = \sigma(W_f x_t + b_f), \qquad r_t = \sigma(W_r x_t + b_r) \\
    c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot z_t, \qquad
    h_t = r_t \odot \tau(c_t) + (1 - r_t) \odot x_t
    \end{aligned}
    $$

    The highway lets many layers be stacked. Where m and n differ, it carries $W_x x_t$.

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
        activation: The function $\tau$: "identity" or "tanh".
        forget_bias: Initial bias of the forget gate f; not used where `bias` is False.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: (L * D, B, n), or (L * D, n) where the input is (T, m); zeros if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP 2018,
        https://arxiv.org/abs/1709.02755.

    Example:
        >>> layer = SRU(16, 16, num_layers=4)
        >>> output, state = layer(torch.randn(100, 4, 16))
        >>> output.shape, state.shape
        (torch.Size([100, 4, 16]), torch.Size([4, 4, 16]))
    """

    options = ("activation", "forget_bias")

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
        activation: str = "identity",
        forget_bias: float = 1.0,
    ):
        _checks.check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.forget_bias = forget_bias
        self._cell = f"sru-{activation}"
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
        return {
            "weight_ih": (3 * n, width),
            "bias_ih": (3 * n,),
            "weight_highway": None if width == n else (n, width),
        }

    def _initial_biases(self) -> dict[str, tuple[float, ...]]:
        return {"bias_ih": (0.0, self.forget_bias, 0.0)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias, weight_highway = weights
        highway = x if weight_highway is None else linear(x, weight_highway)
        output, c = gated_recurrence(
            linear(x, weight, bias), state[0], self._cell, highway=highway, **layout
        )
        return output, (c,)
