"""A GILR-LSTM that learns which steps to skip (Skip GILR-LSTM)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longrnn.nn.gilr_lstm import GILRLSTM
from longrnn.nn.skip_stack import SkippingStack
from longrnn.nn.torch_stack import computed_dtype
from longrnn.ops.skip_gilr_lstm.op import skip_gilr_lstm


class SkipGILRLSTMState(NamedTuple):
    """State of a `SkipGILRLSTM`: (L, B, n) the first three, the probabilities (1, B, 1)."""

    surrogate: Tensor
    c: Tensor
    h: Tensor
    update_prob: Tensor
    accum_prob: Tensor


class SkipGILRLSTM(SkippingStack, GILRLSTM):
    r"""A GILR-LSTM that learns which steps to skip, and still trains in parallel over time.

    $$
    \begin{aligned}
    \tilde u_t &= \kappa_{t-1} + \min(p_{t-1}, 1 - \kappa_{t-1}), \qquad
    u_t = \operatorname{round}(\tilde u_t) \\
    \tilde s_t, \tilde c_t, \tilde h_t &= \mathrm{GILRLSTM}(x_t, s_{t-1}, c_{t-1}), \qquad
    \tilde p_t = \sigma(w_u x_t + b_u) \\
    (s, c, h, p)_t &= u_t (\tilde s, \tilde c, \tilde h, \tilde p)_t + (1 - u_t) (s, c, h, p)_{t-1},
    \qquad \kappa_t = (1 - u_t)\, \tilde u_t
    \end{aligned}
    $$

    The gate is that of `SkipLSTM`, but it sees the input instead of the state. So only two numbers
    a sequence, p and κ, go from step to step; once they have told which steps update, surrogate
    $s$, cell and output are linear in what they were, and all steps are computed at once. In a
    stack the gate sees the input of the first layer, all layers update together, and each takes
    the candidate of the one below. Add `budget_loss(updates, ...)` to the loss and the network
    learns to use fewer steps.

    Rounding has the gradient of the identity, so the gate is trained through skipped steps too:
    with gradients every step is evaluated. Without, skipped inputs are not looked at, and what is
    left is computed at once as if it were the whole sequence.

    Weights of a `GILRLSTM` load as they are; the layer then computes what the `GILRLSTM` does,
    until training teaches it to skip.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of each state and of the output, n.
        num_layers: Layers, each of which takes the candidate of the one below.
        bias: Whether the layers have biases; the gate always has one.
        batch_first: Whether input, output and updates are (B, T, ...) instead of (T, B, ...).
        dropout: Probability with which each layer's output but the last's is zeroed in training.
        bidirectional: Must be False.
        device: Where the parameters are.
        dtype: Of the parameters.
        forget_bias: Initial bias of the forget gate f; not used where `bias` is False.
        surrogate_shift: Whether a layer's gates see the surrogate before the step, or (False) the
            one that the step would make; see `GILRLSTM`.
        update_bias: Initial bias of the gate; σ(1) = 0.73 updates at every step.
        learn_initial_state: Whether surrogate and cell start from learned values, or from zero.
            The output starts from zero: the first step of a sequence updates.

    Shape:
        - input: (T, B, m), or (B, T, m) with `batch_first`, or (T, m), or a `PackedSequence`
        - state: surrogate, c and h (L, B, n), update_prob and accum_prob (1, B, 1), without B where
          the input is (T, m); surrogate_0, c_0, 0, 1 and 0 if None
        - lengths: (B,) integers, the valid steps of each sequence in padded input
        - cu_seqlens: (N + 1,) integers, the ends of sequences that lie end to end in (T, m)
        - returns: output (T, B, n), the state after the last step, and updates (T, B, 1), the
          gate u; laid out as the input

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        The gate: Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural
        Networks", ICLR 2018, https://arxiv.org/abs/1708.06834, section 3. The layers: Martin and
        Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", ICLR 2018,
        https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> layer = SkipGILRLSTM(8, 16, num_layers=2)
        >>> output, state, updates = layer(torch.randn(100, 4, 8))
        >>> output.shape, updates.shape, state.c.shape
        (torch.Size([100, 4, 16]), torch.Size([100, 4, 1]), torch.Size([2, 4, 16]))
    """

    state_type = SkipGILRLSTMState
    starts = ("surrogate", "c")
    options = (*GILRLSTM.options, *SkippingStack.options)

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
        update_bias: float = 1.0,
        learn_initial_state: bool = True,
    ):
        self._set_gate(bidirectional, update_bias, learn_initial_state)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            device=device,
            dtype=dtype,
            forget_bias=forget_bias,
            surrogate_shift=surrogate_shift,
        )

    @property
    def _seen(self) -> int:
        return self.input_size

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights as `GILRLSTM` draws them; a gate that uses every step, whatever the inputs."""
        super().reset_parameters()
        self.weight_u.zero_()

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
        *states, p, kappa = members
        dtype = computed_dtype(x)
        weights = [getattr(self, name) for names in self._names for name in names]
        output, updates, *last, p, kappa = skip_gilr_lstm(
            x,
            [None if weight is None else weight.to(dtype) for weight in weights],
            self.weight_u,
            self.bias_u,
            states,
            p[0],
            kappa[0],
            self.surrogate_shift,
            masks=self._dropout_masks(x.to(dtype)),
            **layout,
        )
        return (output, updates), [*last, p.unsqueeze(0), kappa.unsqueeze(0)]
