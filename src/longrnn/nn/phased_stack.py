"""What PhasedLSTM and PhasedGRU share: the cells of torch, blended by the clock."""

from typing import Any

import torch
from torch import Tensor

from longrnn.nn.clocked_stack import Clock, ClockedStack
from longrnn.nn.torch_stack import TorchStack, computed_dtype
from longrnn.ops.phased_recurrence.op import phased_recurrence


class PhasedStack(ClockedStack, TorchStack):
    """Layers of torch's cells whose units each open for a part of their own period."""

    peephole = False

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
        period_init: tuple[float, float] = (1.0, 1000.0),
        on_ratio: float = 0.05,
        leak: float = 0.001,
        learn_on_ratio: bool = False,
    ):
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
            clock=Clock(period_init, on_ratio, leak, learn_on_ratio),
        )

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        peephole = {"weight_peephole": (3, self.hidden_size) if self.peephole else None}
        return super()._shapes(width) | peephole | self._clock_shapes()

    def reset_parameters(self) -> None:
        """Draw each layer's parameters with `reset_cell` and `reset_clock`."""
        super().reset_parameters()
        for names in self._names:
            reset_peephole(getattr(self, names[4]))

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight_ih, weight_hh, bias = self._op_weights(weights)
        dtype = computed_dtype(x)
        x, weight_ih, weight_hh, bias = (t.to(dtype) for t in (x, weight_ih, weight_hh, bias))
        period, shift, on_ratio, leak = self._periods(weights)
        output, h, c = phased_recurrence(
            x,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            peephole=weights[4],
            period=period,
            shift=shift,
            on_ratio=on_ratio,
            hidden=state[0],
            cells=state[1] if len(state) == 2 else None,
            cell=self.cell,
            leak=leak,
            **layout,
        )
        return output, (h,) if c is None else (h, c)


@torch.no_grad()
def reset_peephole(peephole: Tensor | None) -> None:
    """Draw small weights."""
    if peephole is not None:
        peephole.normal_(std=0.1)
