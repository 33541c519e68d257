"""An LSTM whose units open by the clock (Phased LSTM)."""

from typing import NamedTuple

import torch
from torch import Tensor

from longrnn.nn.phased_stack import PhasedStack


class PhasedLSTMState(NamedTuple):
    """State of a `PhasedLSTM`: h and c are (L * D, B, n), steps (1, B, 1) whole numbers."""

    h: Tensor
    c: Tensor
    steps: Tensor


class PhasedLSTM(PhasedStack):
    r"""An LSTM for event streams: each unit opens for a small part of its own period.

    $$
    \begin{aligned}
    i_t &= \sigma(W_i x_t + U_i h_{t-1} + w_i \odot c_{t-1} + b_i), \qquad
    f_t = \sigma(W_f x_t + U_f h_{t-1} + w_f \odot c_{t-1} + b_f) \\
    \tilde c_t &= f_t \odot c_{t-1} + i_t \odot \tanh(W_g x_t + U_g h_{t-1} + b_g) \\
    o_t &= \sigma(W_o x_t + U_o h_{t-1} + w_o \odot \tilde c_t + b_o), \qquad
    \tilde h_t = o_t \odot \tanh(\tilde c_t) \\
    c_t &= k_t \odot \tilde c_t + (1 - k_t) \odot c_{t-1}, \qquad
    h_t = k_t \odot \tilde h_t + (1 - k_t) \odot h_{t-1}
    \end{aligned}
    $$

    with the `time_gate` $k_t$ of the time stamp, which every layer and both directions get. A
    closed unit keeps its state as it is; in training it leaks a little, so that a gradient finds
    it. In evaluation without gradients only the rows of open units are multiplied, and a step at
    which no unit is open costs nothing.

    The output gate sees the candidate $\tilde c_t$, by the author's erratum. Phases are computed
    in float64, whatever the parameters are. The gradient to a period grows with the time since
    its shift: let long recordings begin near 0.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of each state and of the output, n.
        num_layers: Layers, each of which takes the output of the one below.
        bias: Whether the gates have biases.
        batch_first: Whether input, times and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.
        period_init: Bounds between which the periods' logarithms are drawn, in the unit of times.
        on_ratio: Share of its period in which a unit is open, in (0, 1).
        leak: Slope of a closed unit's gate over its phase, in training only.
        peephole: Whether the gates see c, by a weight a unit.
        learn_on_ratio: Whether `on_ratio` is trained; it is held within [0.001, 0.999].

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: h and c (L * D, B, n), steps (1, B, 1), without B where the input is (T, m); zeros
          if None
        - times: (T, B), or (B, T) with `batch_first`, or (T,), or a `PackedSequence`, in any order
          and unit; None counts steps, and goes on counting in the state
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Neil, Pfeiffer and Liu, "Phased LSTM: Accelerating Recurrent Network Training for Long or
        Event-based Sequences", NIPS 2016, https://arxiv.org/abs/1610.09513, section 2.

    Example:
        >>> layer = PhasedLSTM(8, 16)
        >>> times = torch.rand(100, 4).cumsum(0)
        >>> output, state = layer(torch.randn(100, 4, 8), times=times)
        >>> output.shape, state.c.shape, state.steps.flatten().tolist()
        (torch.Size([100, 4, 16]), torch.Size([1, 4, 16]), [100, 100, 100, 100])
    """

    state_type = PhasedLSTMState
    options: tuple[str, ...] = ("peephole",)
    cell = "lstm"
    gates = 4

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
        period_init: tuple[float, float] = (1.0, 1000.0),
        on_ratio: float = 0.05,
        leak: float = 0.001,
        peephole: bool = True,
        learn_on_ratio: bool = False,
    ):
        self.peephole = peephole
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
            period_init=period_init,
            on_ratio=on_ratio,
            leak=leak,
            learn_on_ratio=learn_on_ratio,
        )
