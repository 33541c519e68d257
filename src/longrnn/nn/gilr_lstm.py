"""The LSTM whose gates see a linear surrogate of its state (GILR-LSTM)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn.nn.stack import RecurrentStack
from longrnn.ops.gilr_lstm import gilr_lstm


class GILRLSTMState(NamedTuple):
    """State of a `GILRLSTM`: each member is (L * D, B, n)."""

    surrogate: Tensor
    c: Tensor


class GILRLSTM(RecurrentStack):
    r"""An LSTM that trains in parallel over time.

    $$
    \begin{aligned}
    g_t &= \sigma(W_g x_t + b_g), \qquad
    \tilde h_t = g_t \odot \tilde h_{t-1} + (1 - g_t) \odot \tanh(W_s x_t + b_s) \\
    (i, f, o)_t &= \sigma(V_{ifo} x_t + U_{ifo} \tilde h_{t-1} + b_{ifo}), \qquad
    z_t = \tanh(V_z x_t + U_z \tilde h_{t-1} + b_z) \\
    c_t &= f_t \odot c_{t-1} + i_t \odot z_t, \qquad h_t = o_t \odot c_t
    \end{aligned}
    $$

    The gates of an LSTM see the state before, which forbids all steps at once. Here they see the
    surrogate $\tilde h$ instead, a GILR of the input: two matrix products and two scans.

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
        forget_bias: Initial bias of the forget gate f; not used where `bias` is False.
        surrogate_shift: Whether the gates see the surrogate before the step, as in the paper, or
            (False) the one after it, as in the paper's program.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: `(surrogate, c)`, each (L * D, B, n), or (L * D, n) where the input is (T, m)
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, D * n) laid out as the input, and the state after the last step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        ICLR 2018, https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> layer = GILRLSTM(8, 16, num_layers=2)
        >>> output, state = layer(torch.randn(100, 4, 8))
        >>> output.shape, state.c.shape
        (torch.Size([100, 4, 16]), torch.Size([2, 4, 16]))
    """

    state_type: type | None = GILRLSTMState
    options: tuple[str, ...] = ("forget_bias", "surrogate_shift")

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
    ):
        self.forget_bias = forget_bias
        self.surrogate_shift = surrogate_shift
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
            "weight_is": (2 * n, width),
            "bias_is": (2 * n,),
            "weight_ih": (4 * n, width),
            "weight_sh": (4 * n, n),
            "bias_ih": (4 * n,),
        }

    def _initial_biases(self) -> dict[str, tuple[float, ...]]:
        return {"bias_ih": (0.0, self.forget_bias, 0.0, 0.0)}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        shift = self.surrogate_shift
        output, surrogate, c = gilr_lstm(x, weights, state[0], state[1], shift, **layout)
        return output, (surrogate, c)
