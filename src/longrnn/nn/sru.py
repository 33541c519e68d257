"""Simple recurrent unit (SRU)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.nn.clocked_stack import ClockedStack, choose_clock
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.open_linear import open_linear

ACTIVATIONS = ("identity", "tanh")


class PhasedSRUState(NamedTuple):
    """State of a phased `SRU`: c and h are (L * D, B, n), steps (1, B, 1) whole numbers."""

    c: Tensor
    h: Tensor
    steps: Tensor


class SRU(ClockedStack):
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
          `phased`, c and the output h like that and steps (1, B, 1)
        - times: where `phased`, (T, B), or (B, T) with `batch_first`, or (T,), or a
          `PackedSequence`, in any order and unit; None counts steps, and goes on counting
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

    options: tuple[str, ...] = ("activation", "forget_bias")

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
        phased: bool = False,
        period_init: tuple[float, float] | None = None,
        on_ratio: float | None = None,
        leak: float | None = None,
        learn_on_ratio: bool | None = None,
    ):
        _checks.check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.forget_bias = forget_bias
        self._cell = f"sru-{activation}"
        if phased:
            self.state_type = PhasedSRUState
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
        return {
            "weight_ih": (3 * n, width),
            "bias_ih": (3 * n,),
            "weight_highway": None if width == n else (n, width),
        } | self._clock_shapes()

    def _initial_biases(self) -> dict[str, tuple[float, ...]]:
        return {"bias_ih": (0.0, self.forget_bias, 0.0)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (weight, bias, weight_highway), layout = self._openness(weights, layout)
        openness, highway = layout.get("openness"), x
        if weight_highway is not None:
            highway = open_linear(x, weight_highway, None, openness)
        gates = open_linear(x, weight, bias, openness)
        output, c = gated_recurrence(gates, state[0], self._cell, highway=highway, **layout)
        if self.clock is None:
            return output, (c,)
        output, h = gated_recurrence(output, state[1], "hold", **layout)
        return output, (c, h)
