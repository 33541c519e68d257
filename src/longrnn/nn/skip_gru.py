"""A GRU that learns which steps to skip (Skip GRU)."""

from typing import NamedTuple

import torch
from torch import Tensor

from longrnn.nn.skip_stack import SkipStack


class SkipGRUState(NamedTuple):
    """State of a `SkipGRU`: h is (L, B, n), the probabilities (1, B, 1)."""

    h: Tensor
    update_prob: Tensor
    accum_prob: Tensor


class SkipGRU(SkipStack):
    r"""A GRU that learns which steps to skip, and in evaluation does skip them.

    $$
    \begin{aligned}
    \tilde u_t &= \kappa_{t-1} + \min(p_{t-1}, 1 - \kappa_{t-1}), \qquad
    u_t = \operatorname{round}(\tilde u_t) \\
    \tilde h_t &= \mathrm{GRU}(x_t, h_{t-1}), \qquad \tilde p_t = \sigma(w_u \tilde h_t + b_u) \\
    (h, p)_t &= u_t (\tilde h, \tilde p)_t + (1 - u_t) (h, p)_{t-1}, \qquad
    \kappa_t = (1 - u_t)\, \tilde u_t
    \end{aligned}
    $$

    See `SkipLSTM` for what the gate does and how skipping is trained; here it sees the top
    layer's candidate. Weights of an `nn.GRU` load as they are.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state and of the output, n.
        num_layers: Layers, each of which takes the candidate of the one below.
        bias: Whether the cells have biases; the gate always has one.
        batch_first: Whether input, output and updates are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Must be False.
        device: Where the parameters are.
        dtype: Of the parameters.
        update_bias: Initial bias of the gate; σ(1) = 0.73 updates at every step.
        learn_initial_state: Whether the state that sequences start from is learned, or zero.
        reset_after: Whether the reset gate acts after the product with the state, as in `nn.GRU`,
            or before it, as in Cho et al. (2014) and the original Skip GRU.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: h (L, B, n), update_prob and accum_prob (1, B, 1), without B where the input is
          (T, m); h_0, 1 and 0 if None
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
        >>> layer = SkipGRU(8, 16, batch_first=True)
        >>> output, state, updates = layer(torch.randn(4, 100, 8))
        >>> output.shape, updates.shape, state.h.shape
        (torch.Size([4, 100, 16]), torch.Size([4, 100, 1]), torch.Size([1, 4, 16]))
    """

    state_type = SkipGRUState
    starts = ("h",)
    options = (*SkipStack.options, "reset_after")
    gates = 3

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
        update_bias: float = 1.0,
        learn_initial_state: bool = True,
        reset_after: bool = True,
    ):
        self.reset_after = reset_after
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
            update_bias=update_bias,
            learn_initial_state=learn_initial_state,
        )

    @property
    def cell(self) -> str:  # type: ignore[override]
        """The name of the cell that the ops use."""
        return "gru" if self.reset_after else "gru-reset-before"
