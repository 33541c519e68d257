"""What SkipLSTM and SkipGRU share: one gate over the stack, its state, checkpoints, counting."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from longrnn.nn.stack import State
from longrnn.nn.torch_stack import TorchStack
from longrnn.ops.skip_recurrence.op import skip_recurrence


class SkipStack(TorchStack):
    """Layers that all update, or all keep their states, as the gate of the stack says."""

    scalars = ("update_prob", "accum_prob")
    options: ClassVar[tuple[str, ...]] = ("update_bias", "learn_initial_state")
    weight_u: Tensor
    bias_u: Tensor

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
    ):
        if bidirectional:
            raise ValueError(
                "bidirectional must be False: the gate decides from the past which inputs are read"
            )
        self.update_bias = update_bias
        self.learn_initial_state = learn_initial_state
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            device=device,
            dtype=dtype,
        )

    @property
    def _starts(self) -> tuple[str, ...]:
        """Parameters that hold the learned initial state."""
        return ("h_0", "c_0")[: len(self._fields) - 2] if self.learn_initial_state else ()

    @property
    def _fields(self) -> tuple[str, ...]:
        fields: tuple[str, ...] = self.state_type._fields  # type: ignore[union-attr]
        return fields

    def _stack_shapes(self) -> dict[str, tuple[int, ...]]:
        start = (self.num_layers, 1, self.hidden_size)
        gate = {"weight_u": (1, self.hidden_size), "bias_u": (1,)}
        return gate | dict.fromkeys(self._starts, start)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in the paper's code: Glorot weights, a gate open at first, a normal initial state."""
        super().reset_parameters()
        bound = math.sqrt(6 / (self.hidden_size + 1))
        self.weight_u.uniform_(-bound, bound)
        self.bias_u.fill_(self.update_bias)
        for name in self._starts:
            getattr(self, name).normal_()

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        state: State = None,
        *,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, State, Any]:
        """Run the stack; the third result holds the gate at every step, 0 or 1."""
        (output, updates), last = self._forward(input, state, lengths, cu_seqlens)
        return output, last, updates

    def macs(self, updates: Tensor) -> Tensor:
        """Multiply-adds of the matrix products that `updates` took, by the paper's rule.

        An update costs G n (n + m) in each layer, G = 4 for an LSTM and 3 for a GRU, and n for
        the gate; a skipped step costs nothing.

        Args:
            updates: The gate as `forward` returned it, or any part of it.

        Returns:
            One number: the total, in float64.
        """
        n = self.hidden_size
        layers = sum(self.gates * n * (n + width) for width in self._widths)
        return updates.sum(dtype=torch.float64) * (layers + n)

    def _initial_members(self, x: Tensor, rows: int) -> list[Any]:
        zeros = x.new_zeros(self.num_layers, rows, self.hidden_size)
        states = [getattr(self, name).expand_as(zeros) for name in self._starts]
        wide = torch.promote_types(x.dtype, torch.float32)
        p = x.new_ones(1, rows, 1, dtype=wide)
        return [*(states or [zeros] * (len(self._fields) - 2)), p, torch.zeros_like(p)]

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
        *states, p, kappa = members
        weights = [
            w
            for names in self._names
            for w in self._op_weights([getattr(self, name) for name in names])
        ]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weights = x.to(dtype), [w.to(dtype) for w in weights]
        masks = None
        if self.dropout and self.training and self.num_layers > 1:
            ones = x.new_ones(self.num_layers - 1, *x.shape[:-1], self.hidden_size)
            masks = F.dropout(ones, self.dropout)
        cells = states[1] if len(states) == 2 else None
        output, updates, hidden, cells, p, kappa = skip_recurrence(
            x,
            weights,
            self.weight_u,
            self.bias_u,
            states[0],
            cells,
            p[0],
            kappa[0],
            self.cell,
            masks=masks,
            **layout,
        )
        states = [hidden, cells][: len(states)]
        return (output, updates), [*states, p.unsqueeze(0), kappa.unsqueeze(0)]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A checkpoint of nn.LSTM or nn.GRU: go on as that layer, which starts from zeros and
        # updates at every step, until training changes it.
        own = {prefix + name: getattr(self, name) for name in self._stack_shapes()}
        if prefix + self._names[0][0] in state_dict and not own.keys() & state_dict.keys():
            for name, parameter in own.items():
                state_dict[name] = torch.zeros_like(parameter)
            state_dict[prefix + "bias_u"] += 1.0
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
