"""A GILR-LSTM whose units open by the clock (Phased GILR-LSTM)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn.nn.clocked_stack import Clock, ClockedStack
from longrnn.nn.gilr_lstm import GILRLSTM
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.gilr_lstm import gilr_lstm


class PhasedGILRLSTMState(NamedTuple):
    """State of a `PhasedGILRLSTM`: all are (L * D, B, n), but steps (1, B, 1) whole numbers."""

    surrogate: Tensor
    c: Tensor
    h: Tensor
    steps: Tensor


class PhasedGILRLSTM(ClockedStack, GILRLSTM):
    r"""An LSTM for event streams that trains in parallel over time.

    $$
    \begin{aligned}
    g_t &= 1 - k_t \odot \sigma(-W_g x_t - b_g), \qquad
    \tilde h_t = g_t \odot \tilde h_{t-1} + (1 - g_t) \odot \tanh(W_s x_t + b_s) \\
    (i, f, o)_t &= \sigma(V_{ifo} x_t + U_{ifo} \tilde h_{t-1} + b_{ifo}), \qquad
    z_t = \tanh(V_z x_t + U_z \tilde h_{t-1} + b_z) \\
    c_t &= (1 - k_t \odot (1 - f_t)) \odot c_{t-1} + k_t \odot i_t \odot z_t \\
    h_t &= (1 - k_t) \odot h_{t-1} + k_t \odot o_t \odot c_t
    \end{aligned}
    $$

    with the `time_gate` $k_t$ of the time stamp, which every layer and both directions get. The
    gate is known before the states are, so that surrogate, cell and output stay linear in them: all
    steps of a recording at once, as in `GILRLSTM`. A closed unit keeps all three as they are, as
    in `PhasedLSTM`; in training it leaks a little, so that a gradient finds it. In evaluation
    without gradients, on a CPU, in float32 and float64, only the rows of open units are multiplied
    where fewer than 15 % are open; elsewhere all are.

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
        forget_bias: Initial bias of the forget gate f; not used where `bias` is False.
        surrogate_shift: Whether the gates see the surrogate before the step, or (False) the one
            after it.
        period_init: Bounds between which the periods' logarithms are drawn, in the unit of times.
        on_ratio: Share of its period in which a unit is open, in (0, 1).
        leak: Slope of a closed unit's gate over its phase, in training only.
        learn_on_ratio: Whether `on_ratio` is trained; it is held within [0.001, 0.999].

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: surrogate, c and h (L * D, B, n), steps (1, B, 1), without B where the input is
          (T, m); zeros if None
        - times: (T, B), or (B, T) with `batch_first`, or (T,), or a `PackedSequence`, in any order
          and unit; None counts steps, and goes on counting in the state
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 3, gated as in Neil, Pfeiffer and Liu,
        "Phased LSTM: Accelerating Recurrent Network Training for Long or Event-based Sequences",
        NIPS 2016, https://arxiv.org/abs/1610.09513, section 2.

    Example:
        >>> layer = PhasedGILRLSTM(8, 16)
        >>> times = torch.rand(100, 4).cumsum(0)
        >>> output, state = layer(torch.randn(100, 4, 8), times=times)
        >>> output.shape, state.c.shape, state.steps.flatten().tolist()
        (torch.Size([100, 4, 16]), torch.Size([1, 4, 16]), [100, 100, 100, 100])
    """

    state_type = PhasedGILRLSTMState

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
        forget_bias: float = 1.0,
        surrogate_shift: bool = True,
        period_init: tuple[float, float] = (1.0, 1000.0),
        on_ratio: float = 0.05,
        leak: float = 0.001,
        learn_on_ratio: bool = False,
    ):
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
            forget_bias=forget_bias,
            surrogate_shift=surrogate_shift,
            clock=Clock(period_init, on_ratio, leak, learn_on_ratio),
        )

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        return super()._shapes(width) | self._clock_shapes()

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weights, layout = self._openness(weights, layout)
        surrogate, c, h = state
        output, surrogate, c = gilr_lstm(x, weights, surrogate, c, self.surrogate_shift, **layout)
        output, h = gated_recurrence(output, h, "hold", **layout)
        return output, (surrogate, c, h)
