"""A GRU whose units open by the clock (Phased GRU)."""

from typing import NamedTuple

from torch import Tensor

from longrnn.nn.phased_stack import PhasedStack


class PhasedGRUState(NamedTuple):
    """State of a `PhasedGRU`: h is (L * D, B, n), steps (1, B, 1) whole numbers."""

    h: Tensor
    steps: Tensor


class PhasedGRU(PhasedStack):
    r"""A GRU for event streams: each unit opens for a small part of its own period.

    $$
    h_t = k_t \odot \mathrm{GRU}(x_t, h_{t-1}) + (1 - k_t) \odot h_{t-1}
    $$

    with `nn.GRU`'s step and the `time_gate` $k_t$ of the time stamp. See `PhasedLSTM` for what
    the clock does, in training and in evaluation.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state and of the output, n.
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
        learn_on_ratio: Whether `on_ratio` is trained; it is held within [0.001, 0.999].

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: h (L * D, B, n), steps (1, B, 1), without B where the input is (T, m); zeros if
          None
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
        >>> import torch
        >>> layer = PhasedGRU(8, 16, num_layers=2, bidirectional=True)
        >>> output, state = layer(torch.randn(100, 4, 8), times=torch.rand(100).cumsum(0))
        >>> output.shape, state.h.shape
        (torch.Size([100, 4, 32]), torch.Size([4, 4, 16]))
    """

    state_type = PhasedGRUState
    cell = "gru"
    gates = 3
