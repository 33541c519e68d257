"""An LSTM that learns which steps to skip (Skip LSTM)."""

from typing import NamedTuple

from torch import Tensor

from longrnn.nn.skip_stack import SkipStack


class SkipLSTMState(NamedTuple):
    """State of a `SkipLSTM`: h and c are (L, B, n), the probabilities (1, B, 1)."""

    h: Tensor
    c: Tensor
    update_prob: Tensor
    accum_prob: Tensor


class SkipLSTM(SkipStack):
    r"""An LSTM that learns which steps to skip, and in evaluation does skip them.

    $$
    \begin{aligned}
    \tilde u_t &= \kappa_{t-1} + \min(p_{t-1}, 1 - \kappa_{t-1}), \qquad
    u_t = \operatorname{round}(\tilde u_t) \\
    \tilde h_t, \tilde c_t &= \mathrm{LSTM}(x_t, h_{t-1}, c_{t-1}), \qquad
    \tilde p_t = \sigma(w_u \tilde c_t + b_u) \\
    (h, c, p)_t &= u_t (\tilde h, \tilde c, \tilde p)_t + (1 - u_t) (h, c, p)_{t-1}, \qquad
    \kappa_t = (1 - u_t)\, \tilde u_t
    \end{aligned}
    $$

    After an update, p says how fast the wish for the next one accumulates in κ; a step updates
    once the sum exceeds ½. Add `budget_loss(updates, ...)` to the loss and the network learns to
    use fewer steps. In a stack the gate sees the top layer's cell, all layers update together, and
    each layer takes the candidate of the one below.

    Rounding has the gradient of the identity, so the gate is trained through skipped steps too:
    with gradients every step is evaluated. Without, skipped steps cost no arithmetic, and the
    inputs there are not looked at.

    Weights of an `nn.LSTM` load as they are; the layer then computes what the `nn.LSTM` does,
    until training teaches it to skip.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of each state and of the output, n.
        num_layers: Layers, each of which takes the candidate of the one below.
        bias: Whether the cells have biases; the gate always has one.
        batch_first: Whether input, output and updates are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Must be False.
        device: Where the parameters are.
        dtype: Of the parameters.
        update_bias: Initial bias of the gate; σ(1) = 0.73 updates at every step.
        learn_initial_state: Whether the state that sequences start from is learned, or zero.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: h and c (L, B, n), update_prob and accum_prob (1, B, 1), without B where the
          input is (T, m); h_0, c_0, 1 and 0 if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, n), the state after the last step, and updates (T, B, 1), the
          gate u; laid out as the input

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks",
        ICLR 2018, https://arxiv.org/abs/1708.06834, section 3.

    Example:
        >>> import torch
        >>> layer = SkipLSTM(8, 16)
        >>> output, state, updates = layer(torch.randn(100, 4, 8))
        >>> output.shape, updates.shape, state.c.shape
        (torch.Size([100, 4, 16]), torch.Size([100, 4, 1]), torch.Size([1, 4, 16]))
    """

    state_type = SkipLSTMState
    starts = ("h", "c")
    cell = "lstm"
    gates = 4
