"""One step of `PhasedLSTM`, called like `nn.LSTMCell`."""

from typing import NamedTuple

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.nn.clocked_stack import check_clock, hold, reset_clock
from longrnn.nn.phased_stack import reset_peephole
from longrnn.nn.torch_cell import TorchCell
from longrnn.nn.torch_stack import computed_dtype
from longrnn.ops.phased_recurrence.op import phased_recurrence


class PhasedLSTMCellState(NamedTuple):
    """State of a `PhasedLSTMCell`: both are (B, n)."""

    h: Tensor
    c: Tensor


class PhasedLSTMCell(TorchCell):
    """One step of `PhasedLSTM`, called like `nn.LSTMCell` and with the time of the step.

    A loop over the cell computes what a `PhasedLSTM` of one layer does; see there for the
    equations. In evaluation without gradients only the rows of open units are multiplied.

    Args:
        input_size: Features of the input, m.
        hidden_size: Features of each state, n.
        bias: Whether the gates have biases.
        device: Where the parameters are.
        dtype: Of the parameters.
        period_init: Bounds between which the periods' logarithms are drawn, in the unit of time.
        on_ratio: Share of its period in which a unit is open, in (0, 1).
        leak: Slope of a closed unit's gate over its phase, in training only.
        peephole: Whether the gates see c, by a weight a unit.
        learn_on_ratio: Whether `on_ratio` is trained; it is held within [0.001, 0.999].

    Shape:
        - input: (B, m), or (m,)
        - state: h and c (B, n), without B where the input is (m,); zeros if None
        - time: a number or () for all sequences, or (B,)
        - returns: h (B, n), and the state after the step

    Raises:
        ValueError: If a size, option, shape, dtype or device is not as above.

    Reference:
        Neil, Pfeiffer and Liu, "Phased LSTM: Accelerating Recurrent Network Training for Long or
        Event-based Sequences", NIPS 2016, https://arxiv.org/abs/1610.09513, section 2.

    Example:
        >>> cell, state = PhasedLSTMCell(8, 16), None
        >>> for x, time in zip(torch.randn(100, 4, 8), torch.rand(100).cumsum(0)):
        ...     h, state = cell(x, state, time)
        >>> h.shape, state.c.shape
        (torch.Size([4, 16]), torch.Size([4, 16]))
    """

    cell = "lstm"
    gates = 4
    state_type = PhasedLSTMCellState
    options = ("period_init", "initial_on_ratio", "leak", "learn_on_ratio", "peephole")
    weight_peephole: Tensor | None
    log_period: Tensor
    shift: Tensor
    on_ratio: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        period_init: tuple[float, float] = (1.0, 1000.0),
        on_ratio: float = 0.05,
        leak: float = 0.001,
        peephole: bool = True,
        learn_on_ratio: bool = False,
    ):
        check_clock(period_init, on_ratio, leak)
        own: dict[str, tuple[int, ...] | None] = {
            "weight_peephole": (3, hidden_size) if peephole else None,
            **dict.fromkeys(("log_period", "shift", "on_ratio"), (hidden_size,)),
        }
        super().__init__(input_size, hidden_size, bias, device, dtype, own)
        self.period_init = period_init
        self.initial_on_ratio = on_ratio
        self.leak = leak
        self.peephole = peephole
        self.learn_on_ratio = learn_on_ratio
        self.on_ratio.requires_grad_(learn_on_ratio)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw parameters as `PhasedLSTM` does."""
        super().reset_parameters()
        clock = (self.log_period, self.shift, self.on_ratio)
        reset_clock(*clock, self.period_init, self.initial_on_ratio)
        reset_peephole(self.weight_peephole)

    def extra_repr(self) -> str:
        """Show the options as they were given."""
        return super().extra_repr().replace("initial_on_ratio", "on_ratio")

    def forward(
        self, input: Tensor, state: tuple[Tensor, Tensor] | None, time: Tensor | float
    ) -> tuple[Tensor, PhasedLSTMCellState]:
        """Do one step."""
        x, unbatched = self._check_input(input), input.ndim == 1
        times = self._check_time(time, input)
        hidden, cells = self._members(state, x, unbatched)
        output, h, c = phased_recurrence(
            x.to(computed_dtype(x)).unsqueeze(0),
            times.expand(1, x.shape[0]),
            self.weight_ih,
            self.weight_hh,
            self._op_bias(),
            self.weight_peephole,
            self.log_period.exp(),
            self.shift,
            hold(self.on_ratio) if self.learn_on_ratio else self.on_ratio,
            hidden,
            cells,
            "lstm",
            leak=self.leak if self.training else 0.0,
        )
        assert c is not None  # an LSTM has one
        results = [output[0], h, c]
        if unbatched:
            results = [r.squeeze(0) for r in results]
        return results[0], PhasedLSTMCellState(*results[1:])

    def _check_time(self, time: Tensor | float, x: Tensor) -> Tensor:
        """The time of each sequence in float64, or the one that they share."""
        if not isinstance(time, Tensor):
            if isinstance(time, bool) or not isinstance(time, (int, float)):
                raise ValueError(f"time must be a number or a tensor, got {type(time).__name__}")
            return torch.tensor(time, dtype=torch.float64, device=x.device)
        if time.is_complex():
            raise ValueError(f"time must be a tensor of real numbers, got {time.dtype}")
        if time.ndim > 0:
            dims, wanted = ("", ()) if x.ndim == 1 else ("B", (x.shape[0],))
            _checks.check_shape("time", time, dims, wanted)
        _checks.check_same_device("time", time, "input", x)
        return time.double()

    def _initial_members(self, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(x.shape[0], self.hidden_size)] * 2
