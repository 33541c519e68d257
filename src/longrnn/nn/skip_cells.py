"""One step of `SkipLSTM` and of `SkipGRU`, called like `nn.LSTMCell`."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from longrnn.nn.skip_gru import SkipGRUState
from longrnn.nn.skip_lstm import SkipLSTMState
from longrnn.nn.skip_stack import complete_checkpoint, reset_gate
from longrnn.nn.torch_cell import TorchCell
from longrnn.nn.torch_stack import computed_dtype
from longrnn.ops.skip_recurrence.op import skip_recurrence


class _SkipCell(TorchCell):
    """What both cells are: torch's cell, the gate, and the state that sequences start from."""

    options: ClassVar[tuple[str, ...]] = ("update_bias", "learn_initial_state")
    starts: ClassVar[tuple[str, ...]]  # parameters that hold the learned initial state
    weight_u: Tensor
    bias_u: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        update_bias: float = 1.0,
        learn_initial_state: bool = True,
    ):
        own: dict[str, tuple[int, ...] | None] = {
            "weight_u": (1, hidden_size),
            "bias_u": (1,),
            **dict.fromkeys(self.starts, (1, hidden_size) if learn_initial_state else None),
        }
        super().__init__(input_size, hidden_size, bias, device, dtype, own)
        self.update_bias = update_bias
        self.learn_initial_state = learn_initial_state
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw parameters as the layer of the same cell does."""
        super().reset_parameters()
        reset_gate(self.weight_u, self.bias_u, self.update_bias, list(self._own_starts().values()))

    def forward(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any, Tensor]:
        """Do one step, or skip it."""
        x, unbatched = self._check_input(input), input.ndim == 1
        *states, p, kappa = self._members(state, x, unbatched)
        output, updates, hidden, cells, p, kappa = skip_recurrence(
            x.to(computed_dtype(x)).unsqueeze(0),
            [self.weight_ih, self.weight_hh, self._op_bias()],
            self.weight_u,
            self.bias_u,
            states[0].unsqueeze(0),
            states[1].unsqueeze(0) if len(states) == 2 else None,
            p,
            kappa,
            self.cell,
        )
        last = [hidden[0], *([] if cells is None else [cells[0]]), p, kappa]
        results = [output[0], *last, updates[0]]
        if unbatched:
            results = [r.squeeze(0) for r in results]
        return results[0], self.state_type(*results[1:-1]), results[-1]

    def _own_starts(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.starts if self.learn_initial_state}

    def _initial_members(self, x: Tensor) -> list[Tensor]:
        zeros = x.new_zeros(x.shape[0], self.hidden_size)
        begin = [start.expand_as(zeros) for start in self._own_starts().values()]
        p = x.new_ones(x.shape[0], 1, dtype=torch.promote_types(x.dtype, torch.float32))
        return [*(begin or [zeros] * len(self.starts)), p, torch.zeros_like(p)]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = {"weight_u": self.weight_u, "bias_u": self.bias_u, **self._own_starts()}
        complete_checkpoint(state_dict, prefix, "weight_ih", own)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SkipLSTMCell(_SkipCell):
    """One step of `SkipLSTM`, called like `nn.LSTMCell`.

    A loop over the cell computes what a `SkipLSTM` of one layer does; see there for the equations.
    Without gradients a sequence that skips the step costs no arithmetic, and its input is not
    looked at. Weights of an `nn.LSTMCell` load as they are.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state, n.
        bias: Whether the cell has biases; the gate always has one.
        device: Where the parameters are.
        dtype: Of the parameters.
        update_bias: Initial bias of the gate; σ(1) = 0.73 updates at every step.
        learn_initial_state: Whether the state that sequences start from is learned, or zero.

    Shape:
        - input: (B, m), or (m,)
        - state: h and c (B, n), update_prob and accum_prob (B, 1), without B where the input is
          (m,); h_0, c_0, 1 and 0 if None
        - returns: h (B, n), the state after the step, and update (B, 1), the gate, 0 or 1

    Raises:
        ValueError: If a size, shape, dtype or device is not as above.

    Reference:
        Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks",
        ICLR 2018, https://arxiv.org/abs/1708.06834, section 3.

    Example:
        >>> cell, state = SkipLSTMCell(8, 16), None
        >>> for x in torch.randn(100, 4, 8):
        ...     h, state, update = cell(x, state)
        >>> h.shape, state.c.shape, update.shape
        (torch.Size([4, 16]), torch.Size([4, 16]), torch.Size([4, 1]))
    """

    cell = "lstm"
    gates = 4
    state_type = SkipLSTMState
    starts = ("h_0", "c_0")


class SkipGRUCell(_SkipCell):
    """One step of `SkipGRU`, called like `nn.GRUCell`.

    A loop over the cell computes what a `SkipGRU` of one layer does; see there for the equations,
    and `SkipLSTMCell` for what skipping saves. Weights of an `nn.GRUCell` load as they are.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of the state, n.
        bias: Whether the cell has biases; the gate always has one.
        device: Where the parameters are.
        dtype: Of the parameters.
        update_bias: Initial bias of the gate; σ(1) = 0.73 updates at every step.
        learn_initial_state: Whether the state that sequences start from is learned, or zero.
        reset_after: Whether the reset gate acts after the product with the state, as in
            `nn.GRUCell`, or before it, as in Cho et al. (2014) and the original Skip GRU.

    Shape:
        - input: (B, m), or (m,)
        - state: h (B, n), update_prob and accum_prob (B, 1), without B where the input is (m,);
          h_0, 1 and 0 if None
        - returns: h (B, n), the state after the step, and update (B, 1), the gate, 0 or 1

    Raises:
        ValueError: If a size, shape, dtype or device is not as above.

    Reference:
        Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks",
        ICLR 2018, https://arxiv.org/abs/1708.06834, section 3.

    Example:
        >>> cell = SkipGRUCell(8, 16)
        >>> h, state, update = cell(torch.randn(4, 8))
        >>> h.shape, update.flatten().tolist()  # the first step always updates
        (torch.Size([4, 16]), [1.0, 1.0, 1.0, 1.0])
    """

    options: ClassVar[tuple[str, ...]] = (*_SkipCell.options, "reset_after")
    gates = 3
    state_type = SkipGRUState
    starts = ("h_0",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        update_bias: float = 1.0,
        learn_initial_state: bool = True,
        reset_after: bool = True,
    ):
        super().__init__(
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            update_bias=update_bias,
            learn_initial_state=learn_initial_state,
        )
        self.reset_after = reset_after

    @property
    def cell(self) -> str:  # type: ignore[override]
        """The name of the cell that the ops use."""
        return "gru" if self.reset_after else "gru-reset-before"
