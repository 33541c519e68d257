"""What layers with a clock for each unit share: its parameters, and time stamps for every layer."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from longrnn import _checks
from longrnn.nn.stack import RecurrentStack, State
from longrnn.ops.time_gate.op import time_gate


class Clock(NamedTuple):
    """The options of a layer whose units each open for a part of their own period."""

    period_init: tuple[float, float] = (1.0, 1000.0)
    on_ratio: float = 0.05
    leak: float = 0.001
    learn_on_ratio: bool = False


class ClockedStack(RecurrentStack):
    """Layers whose units open by the clock; without one, what every stack is.

    A layer adds `_clock_shapes` to the shapes of its parameters, last, and makes of their values
    what its kernel takes: the openness of each unit at each step (`_openness`), or what that is
    made of (`_periods`).
    """

    counters = ("steps",)

    def __init__(self, *sizes: Any, clock: Clock | None, **settings: Any):
        self.clock = clock
        if clock is not None:
            check_clock(clock.period_init, clock.on_ratio, clock.leak)
            self.period_init, self.on_ratio, self.leak, self.learn_on_ratio = clock
            self.options = (*clock._fields, *self.options)
        super().__init__(*sizes, **settings)
        if clock is not None:
            for names in self._names:
                getattr(self, names[-1]).requires_grad_(clock.learn_on_ratio)

    def _clock_shapes(self) -> dict[str, tuple[int, ...] | None]:
        if self.clock is None:
            return {}
        return dict.fromkeys(("log_period", "shift", "on_ratio"), (self.hidden_size,))

    def reset_parameters(self) -> None:
        """Draw the parameters as the layer does without a clock, then the clock's."""
        super().reset_parameters()
        if self.clock is not None:
            for names in self._names:
                log_period, shift, on_ratio = (getattr(self, name) for name in names[-3:])
                reset_clock(log_period, shift, on_ratio, self.period_init, self.on_ratio)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State = None,
        *,
        times: Tensor | PackedSequence | None = None,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Run the stack over sequences, or over the next pieces of them."""
        along = {}
        if times is not None:
            if self.clock is None:
                raise ValueError("times must be None where phased is False")
            if not isinstance(input, PackedSequence):
                self._check_input(input, lengths, cu_seqlens)  # to which the stamps must fit
            along["times"] = self._check_times(times, input, cu_seqlens)
        (output,), last = self._forward(input, state, lengths, cu_seqlens, **along)
        return output, last

    def _check_times(
        self,
        times: Tensor | PackedSequence,
        input: Tensor | PackedSequence,
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        """Stamps as float64, one a step of the input."""
        if isinstance(input, PackedSequence) or isinstance(times, PackedSequence):
            if not (isinstance(input, PackedSequence) and isinstance(times, PackedSequence)):
                raise ValueError("times and input must both be a PackedSequence, or neither")
            for name in ("batch_sizes", "sorted_indices"):
                of_times, of_input = getattr(times, name), getattr(input, name)
                if of_times is not of_input and (
                    of_times is None or of_input is None or not torch.equal(of_times, of_input)
                ):
                    raise ValueError(f"times must be packed as input is: their {name} differ")
            times, input = times.data.reshape(len(times.data), -1).squeeze(-1), input.data
        if not isinstance(times, Tensor) or times.is_complex():
            came = times.dtype if isinstance(times, Tensor) else type(times).__name__
            raise ValueError(f"times must be a tensor of real numbers, got {came}")
        _checks.check_same_device("times", times, "input", input)
        if input.ndim == 3 and times.ndim == 1 and cu_seqlens is None:  # all sequences share them
            steps = input.shape[1] if self.batch_first else input.shape[0]
            _checks.check_shape("times", times, "T", (steps,))
            times = times if self.batch_first else times.unsqueeze(-1)
            times = times.expand(input.shape[:-1])
        if times.shape != input.shape[:-1]:
            raise ValueError(
                f"times must have shape {tuple(input.shape[:-1])}, one a step, or (T,), "
                f"got {tuple(times.shape)}"
            )
        return times.double()

    def _initial_members(self, x: Tensor, rows: int) -> list[Any]:
        members = super()._initial_members(x, rows)
        if self.clock is not None:
            members[-1] = x.new_zeros(1, rows, 1, dtype=torch.int64)
        return members

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
        if self.clock is None:
            return super()._run_layers(x, members, layout)
        *states, steps = members
        lengths, cu_seqlens = layout["lengths"], layout["cu_seqlens"]
        T = x.shape[1] if layout["batch_first"] and cu_seqlens is None else x.shape[0]
        if "times" not in layout:  # steps are counted, on from those of the state
            seen = steps.view(-1)
            count = torch.arange(T, device=x.device)
            if cu_seqlens is not None:
                spans = cu_seqlens.diff()
                starts = (seen - cu_seqlens[:-1]).repeat_interleave(spans, output_size=T)
                times = count + starts
            elif layout["batch_first"]:
                times = seen.unsqueeze(1) + count
            else:
                times = seen + count.unsqueeze(1)
            layout = {**layout, "times": times.double()}
        outputs, states = super()._run_layers(x, states, layout)
        taken = T if lengths is None else lengths.view(1, -1, 1)
        taken = taken if cu_seqlens is None else cu_seqlens.diff().view(1, -1, 1)
        return outputs, [*states, steps + taken]

    def _periods(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, float]:
        """Period, shift, on ratio and leak, from a layer's parameters."""
        log_period, shift, on_ratio = weights[-3:]
        on_ratio = hold(on_ratio) if self.learn_on_ratio else on_ratio
        return log_period.exp(), shift, on_ratio, self.leak if self.training else 0.0

    def _openness(
        self, weights: list[Any], layout: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Weights without the clock's, and a layout with what it shows for `times`."""
        if self.clock is None:
            return weights, layout
        layout = dict(layout)
        openness = time_gate(layout.pop("times"), *self._periods(weights))
        return weights[:-3], {**layout, "openness": openness}


def choose_clock(phased: bool, **options: Any) -> Clock | None:
    """The clock of a layer that need not have one; raise for options without it."""
    given = {name: value for name, value in options.items() if value is not None}
    if phased:
        return Clock(**given)
    for name, value in given.items():
        raise ValueError(f"{name} must be None where phased is False, got {value!r}")
    return None


def check_clock(period_init: tuple[float, float], on_ratio: float, leak: float) -> None:
    """Raise unless the options of a clock are legal."""
    _checks.check_probability("leak", leak)
    _checks.check_probability("on_ratio", on_ratio)
    if not 0 < on_ratio < 1:
        raise ValueError(f"on_ratio must lie in (0, 1), got {on_ratio}")
    pair = isinstance(period_init, (tuple, list)) and len(period_init) == 2
    if not pair or not all(isinstance(bound, (int, float)) for bound in period_init):
        raise ValueError(f"period_init must be two numbers, got {period_init!r}")
    low, high = period_init
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"period_init must be two positive numbers, the lesser first, got {period_init}"
        )


@torch.no_grad()
def reset_clock(
    log_period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    period_init: tuple[float, float],
    initial_ratio: float,
) -> None:
    """Periods are log-uniform in `period_init`, shifts uniform in a period."""
    low, high = (math.log(bound) for bound in period_init)
    log_period.uniform_(low, high)
    shift.uniform_(0.0, 1.0).mul_(log_period.exp())
    on_ratio.fill_(initial_ratio)


def hold(on_ratio: Tensor) -> Tensor:
    """A learned ratio within its bounds, exactly; the gradient that brings it back stays."""
    return on_ratio.clamp(1e-3, 1 - 1e-3).detach() + (on_ratio - on_ratio.detach())
