"""The LSTM whose units see their own state only (ParaLSTM)."""

from typing import NamedTuple

from torch import Tensor

from longrnn.nn.parallel_stack import ParallelStack


class ParallelLSTMState(NamedTuple):
    """State of a `ParallelLSTM`: each member is (L * D, B, n)."""

    h: Tensor
    c: Tensor


class ParallelLSTM(ParallelStack):
    r"""An LSTM that runs in parallel over time, though it is not linear in its state.

    $$
    \begin{aligned}
    f_t &= \sigma(W_f x_t + a_f \odot h_{t-1} + p_f \odot c_{t-1} + b_f), \qquad
    g_t = \tanh(W_g x_t + a_g \odot h_{t-1} + b_g) \\
    c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot g_t \\
    o_t &= \sigma(W_o x_t + a_o \odot h_{t-1} + p_o \odot c_t + b_o), \qquad
    h_t = o_t \odot \tanh(c_t)
    \end{aligned}
    $$

    The weights on the state are diagonals, what is forgotten makes room for what is written, and
    the gates see c (peepholes). A step's derivative is a block of 2 x 2 a unit, by which Newton's
    method solves all steps at once; see `ParallelGRU` for when it does.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of each state and of the output, n.
        num_layers: Layers, each of which takes the output of the one below.
        bias: Whether the gates have biases.
        batch_first: Whether input and output are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Whether a second set of layers runs from the last step to the first.
        device: Where the parameters are.
        dtype: Of the parameters.
        algorithm: "serial" goes step by step, "parallel" by Newton's method, "auto" by what is
            faster for the device and the shape.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: `(h, c)`, each (L * D, B, n), or (L * D, n) where the input is (T, m)
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Attributes:
        weight_ih_l{k}: (3 n, m), rows f, g, o.
        weight_hh_l{k}: (3, n), the diagonals a in the same order.
        weight_peephole_l{k}: (2, n), the diagonals p of f and o.
        bias_ih_l{k}: (3 n,).

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Danieli, Rodriguez, Sarabia, Suau and Zappella, "ParaRNN: Unlocking Parallel Training of
        Nonlinear RNNs for Large Language Models", 2025, https://arxiv.org/abs/2510.21450, ParaLSTM;
        initial values as in the authors' program (`lstm_cifg_diag_mh`), with one head.

    Example:
        >>> import torch
        >>> layer = ParallelLSTM(8, 16)
        >>> output, (h, c) = layer(torch.randn(100, 4, 8))
        >>> output.shape, c.shape
        (torch.Size([100, 4, 16]), torch.Size([1, 4, 16]))
    """

    state_type = ParallelLSTMState
    _cell = "lstm"
