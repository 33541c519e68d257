"""What PhasedLSTM and PhasedGRU share: a clock for each unit, and time stamps for every layer."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from longrnn import _checks
from longrnn.nn.stack import State
from longrnn.nn.torch_stack import TorchStack, computed_dtype
from longrnn.ops.phased_recurrence.op import phased_recurrence


class PhasedStack(TorchStack):
    """Layers whose units each open for a part of their own period."""

    counters = ("steps",)
    options: ClassVar[tuple[str, ...]] = ("period_init", "on_ratio", "leak", "learn_on_ratio")
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
        check_clock(period_init, on_ratio, leak)
        self.period_init = period_init
        self.on_ratio = on_ratio
        self.leak = leak
        self.learn_on_ratio = learn_on_ratio
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
        for names in self._names:
            getattr(self, names[-1]).requires_grad_(learn_on_ratio)

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n = self.hidden_size
        return super()._shapes(width) | {
            "weight_peephole": (3, n) if self.peephole else None,
            "log_period": (n,),
            "shift": (n,),
            "on_ratio": (n,),
        }

    def reset_parameters(self) -> None:
        """Draw each layer's parameters with `reset_cell` and `reset_clock`."""
        super().reset_parameters()
        for names in self._names:
            peephole, log_period, shift, on_ratio = (getattr(self, name) for name in names[4:])
            reset_clock(peephole, log_period, shift, on_ratio, self.period_init, self.on_ratio)

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
        *zeros, _ = super()._initial_members(x, rows)
        return [*zeros, x.new_zeros(1, rows, 1, dtype=torch.int64)]

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
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

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        *_, peephole, log_period, shift, on_ratio = weights
        weight_ih, weight_hh, bias = self._op_weights(weights)
        dtype = computed_dtype(x)
        x, weight_ih, weight_hh, bias = (t.to(dtype) for t in (x, weight_ih, weight_hh, bias))
        output, h, c = phased_recurrence(
            x,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            peephole=peephole,
            period=log_period.exp(),
            shift=shift,
            on_ratio=hold(on_ratio) if self.learn_on_ratio else on_ratio,
            hidden=state[0],
            cells=state[1] if len(state) == 2 else None,
            cell=self.cell,
            leak=self.leak if self.training else 0.0,
            **layout,
        )
        return output, (h,) if c is None else (h, c)


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
    peephole: Tensor | None,
    log_period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    period_init: tuple[float, float],
    initial_ratio: float,
) -> None:
    """Periods are log-uniform in `period_init`, shifts uniform in a period."""
    low, high = (math.log(bound) for bound in period_init)
    if peephole is not None:
        peephole.normal_(std=0.1)
    log_period.uniform_(low, high)
    shift.uniform_(0.0, 1.0).mul_(log_period.exp())
    on_ratio.fill_(initial_ratio)


def hold(on_ratio: Tensor) -> Tensor:
    """A learned ratio within its bounds, exactly; the gradient that brings it back stays."""
    return on_ratio.clamp(1e-3, 1 - 1e-3).detach() + (on_ratio - on_ratio.detach())
