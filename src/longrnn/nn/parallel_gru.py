"""The GRU whose units see their own state only (ParaGRU)."""

from longrnn.nn.parallel_stack import ParallelStack


class ParallelGRU(ParallelStack):
    r"""A GRU that runs in parallel over time, though it is not linear in its state.

    $$
    \begin{aligned}
    z_t &= \sigma(W_z x_t + a_z \odot h_{t-1} + b_z), \qquad
    r_t = \sigma(W_r x_t + a_r \odot h_{t-1} + b_r) \\
    c_t &= \tanh(W_c x_t + a_c \odot (r_t \odot h_{t-1}) + b_c), \qquad
    h_t = (1 - z_t) \odot h_{t-1} + z_t \odot c_t
    \end{aligned}
    $$

    The weights on the state are diagonals. So a step is elementwise, and Newton's method solves all
    steps at once: at each turn a linear recurrence, with the steps' own derivatives as decays. That
    should pay on a GPU where there are few sequences (not timed yet). Elsewhere one native pass
    goes step by step, many units at a time. The results are the same, and so are the derivatives.

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
        algorithm: "serial" goes step by step, "parallel" by Newton's method, "auto" by what is
            faster for the device and the shape.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: (L * D, B, n), or (L * D, n) where the input is (T, m); zeros if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Attributes:
        weight_ih_l{k}: (3 n, m), rows z, r, c.
        weight_hh_l{k}: (3, n), the diagonals a in the same order.
        bias_ih_l{k}: (3 n,).

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Danieli, Rodriguez, Sarabia, Suau and Zappella, "ParaRNN: Unlocking Parallel Training of
        Nonlinear RNNs for Large Language Models", 2025, https://arxiv.org/abs/2510.21450, ParaGRU;
        initial values as in the authors' program (`gru_diag_mh`), with one head.

    Example:
        >>> import torch
        >>> layer = ParallelGRU(8, 16, num_layers=2)
        >>> x = torch.randn(100, 4, 8)
        >>> output, state = layer(x)
        >>> output.shape, state.shape
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]))
        >>> layer.algorithm = "parallel"
        >>> torch.allclose(layer(x)[0], output, atol=1e-5)
        True
    """

    _cell = "gru"
