"""Gated impulse linear recurrence (GILR)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.nn.clocked_stack import ClockedStack, choose_clock
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.open_linear import open_linear

ACTIVATIONS = ("tanh", "elu", "identity", "relu")


class PhasedGILRState(NamedTuple):
    """State of a phased `GILR`: h is (L * D, B, n), steps (1, B, 1) whole numbers."""

    h: Tensor
    steps: Tensor


class GILR(ClockedStack):
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
        phased: Whether each unit opens for a part of its own period only, as in `PhasedLSTM`: a
            closed one keeps its state and its output. The options below are for that.
        period_init: Bounds between which the periods' logarithms are drawn, in the unit of times;
            (1.0, 1000.0) if None.
        on_ratio: Share of its period in which a unit is open, in (0, 1); 0.05 if None.
        leak: Slope of a closed unit's gate over its phase, in training only; 0.001 if None.
        learn_on_ratio: Whether `on_ratio` is trained; it is held within [0.001, 0.999].

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: (L * D, B, n), or (L * D, n) where the input is (T, m); zeros if None; where
          `phased`, h like that and steps (1, B, 1)
        - times: where `phased`, (T, B), or (B, T) with `batch_first`, or (T,), or a
          `PackedSequence`, in any order and unit; None counts steps, and goes on counting
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

    options: tuple[str, ...] = ("activation",)

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
        phased: bool = False,
        period_init: tuple[float, float] | None = None,
        on_ratio: float | None = None,
        leak: float | None = None,
        learn_on_ratio: bool | None = None,
    ):
        _checks.check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self._cell = f"gilr-{activation}"
        if phased:
            self.state_type = PhasedGILRState
            self.options = (*self.options, "phased")
        self.phased = phased
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
            clock=choose_clock(
                phased,
                period_init=period_init,
                on_ratio=on_ratio,
                leak=leak,
                learn_on_ratio=learn_on_ratio,
            ),
        )

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return {"weight_ih": (2 * n, width), "bias_ih": (2 * n,)} | self._clock_shapes()

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (weight, bias), layout = self._openness(weights, layout)
        gates = open_linear(x, weight, bias, layout.get("openness"))
        output, h = gated_recurrence(gates, state[0], self._cell, **layout)
        return output, (h,)
