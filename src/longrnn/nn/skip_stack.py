"""What skip layers share: one gate over the stack, its state, checkpoints, counting."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from longrnn.nn.stack import RecurrentStack, State
from longrnn.nn.torch_stack import TorchStack, computed_dtype
from longrnn.ops.skip_recurrence.op import skip_recurrence


class SkippingStack(RecurrentStack):
    """Layers that all update, or all keep their states, as the gate of the stack says.

    A subclass calls `_set_gate` before it builds its layers.
    """

    scalars = ("update_prob", "accum_prob")
    options: tuple[str, ...] = ("update_bias", "learn_initial_state")
    starts: ClassVar[tuple[str, ...]] = ()
    """Fields of the state whose initial values can be learned; the parameters end in `_0`."""
    update_bias: float
    learn_initial_state: bool
    weight_u: Tensor
    bias_u: Tensor

    def _set_gate(self, bidirectional: bool, update_bias: float, learn_initial_state: bool) -> None:
        if bidirectional:
            raise ValueError(
                "bidirectional must be False: the gate decides from the past which inputs are read"
            )
        self.update_bias = update_bias
        self.learn_initial_state = learn_initial_state

    @property
    def _seen(self) -> int:
        """Features that the gate sees."""
        raise NotImplementedError

    @property
    def _learned(self) -> tuple[str, ...]:
        """Parameters that hold the learned initial state."""
        return tuple(f"{field}_0" for field in self.starts) if self.learn_initial_state else ()

    @property
    def _fields(self) -> tuple[str, ...]:
        """Fields of the state that layers have, each (L, B, n)."""
        fields: tuple[str, ...] = self.state_type._fields  # type: ignore[union-attr]
        return fields[: -len(self.scalars)]

    def _stack_shapes(self) -> dict[str, tuple[int, ...]]:
        start = (self.num_layers, 1, self.hidden_size)
        gate = {"weight_u": (1, self._seen), "bias_u": (1,)}
        return gate | dict.fromkeys(self._learned, start)

    def reset_parameters(self) -> None:
        """As in the paper's code: Glorot weights, a gate open at first, a normal initial state."""
        super().reset_parameters()
        starts = [getattr(self, name) for name in self._learned]
        reset_gate(self.weight_u, self.bias_u, self.update_bias, starts)

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

    def macs(self, updates: Tensor | PackedSequence) -> Tensor:
        """Multiply-adds of the matrix products that `updates` took, by the paper's rule.

        An update costs as many as the weights of all layers and the gate have elements: for a Skip
        LSTM or GRU G n (n + m) in each layer, G = 4 and 3, and n for the gate. A skipped step costs
        nothing.

        Args:
            updates: The gate as `forward` returned it, or any part of it.

        Returns:
            One number: the total, in float64.
        """
        if isinstance(updates, PackedSequence):
            updates = updates.data
        names = [name for layer in self._names for name in layer if name.startswith("weight")]
        each = sum(getattr(self, name).numel() for name in ("weight_u", *names))
        return updates.sum(dtype=torch.float64) * each

    def _initial_members(self, x: Tensor, rows: int) -> list[Any]:
        zeros = x.new_zeros(self.num_layers, rows, self.hidden_size)
        learned = {name: getattr(self, name).expand_as(zeros) for name in self._learned}
        states = [learned.get(f"{field}_0", zeros) for field in self._fields]
        wide = torch.promote_types(x.dtype, torch.float32)
        p = x.new_ones(1, rows, 1, dtype=wide)
        return [*states, p, torch.zeros_like(p)]

    def _dropout_masks(self, x: Tensor) -> Tensor | None:
        """What each layer's output but the last's is multiplied by: (L - 1, T, B, n)."""
        if not (self.dropout and self.training and self.num_layers > 1):
            return None
        ones = x.new_ones(self.num_layers - 1, *x.shape[:-1], self.hidden_size)
        return F.dropout(ones, self.dropout)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = {name: getattr(self, name) for name in self._stack_shapes()}
        complete_checkpoint(state_dict, prefix, self._names[0][0], own)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SkipStack(SkippingStack, TorchStack):
    """What SkipLSTM and SkipGRU share: the cells of `nn.LSTM` and `nn.GRU`."""

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
        )

    @property
    def _seen(self) -> int:
        return self.hidden_size

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
        *states, p, kappa = members
        weights = [
            w
            for names in self._names
            for w in self._op_weights([getattr(self, name) for name in names])
        ]
        x = x.to(computed_dtype(x))
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
            masks=self._dropout_masks(x),
            **layout,
        )
        states = [hidden, cells][: len(states)]
        return (output, updates), [*states, p.unsqueeze(0), kappa.unsqueeze(0)]


@torch.no_grad()
def reset_gate(
    weight_u: Tensor, bias_u: Tensor, update_bias: float, starts: Sequence[Tensor]
) -> None:
    """Draw the gate's weights as Glorot and Bengio do, and initial states from N(0, 1)."""
    bound = math.sqrt(6 / (weight_u.shape[1] + 1))
    weight_u.uniform_(-bound, bound)
    bias_u.fill_(update_bias)
    for start in starts:
        start.normal_()


def complete_checkpoint(
    state_dict: dict[str, Any], prefix: str, weight: str, own: dict[str, Tensor]
) -> None:
    """Let a checkpoint of a layer or cell load into the one that skips.

    It goes on as that layer, which starts from zeros and updates at every step, until training
    changes it.

    Args:
        state_dict: The checkpoint; gains what it lacks.
        prefix: Of the names in it.
        weight: A parameter that the other has too, by which a checkpoint of it is known.
        own: The parameters that the other lacks, by their names.
    """
    if prefix + weight in state_dict and not any(prefix + name in state_dict for name in own):
        for name, parameter in own.items():
            state_dict[prefix + name] = torch.zeros_like(parameter)
        state_dict[prefix + "bias_u"] += 1.0
