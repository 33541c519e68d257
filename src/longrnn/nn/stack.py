"""What all layers share: stacking, directions, dropout, layouts, packing and states.

Start reading at `RecurrentStack.forward`. A layer supplies the shapes of its parameters, their
initial values and `_run`, which does one layer in one direction over the whole sequence.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from longrnn import _checks
from longrnn.nn import packing

State = Any  # a tensor (L * D, B, n), or a NamedTuple of such


class RecurrentStack(nn.Module):
    """Layers of one kind on top of each other, in one direction or both, called like `nn.LSTM`.

    A subclass is one kind of layer. `input_size`, `hidden_size`, ... mean what they mean in
    `torch.nn.LSTM`; `kernel_size` is the number of inputs that one step sees, and layers that see
    more than one keep the last ones in their state.
    """

    state_type: type | None = None  # a NamedTuple; None where the state is one tensor
    keeps_inputs: bool = False  # the last field of the state is the past inputs
    scalars: ClassVar[tuple[str, ...]] = ()  # fields of the state with one number a sequence
    counters: ClassVar[tuple[str, ...]] = ()  # such fields with a whole number
    options: tuple[str, ...] = ()  # attributes that `extra_repr` also shows
    kernel_size: int = 1

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
    ):
        super().__init__()
        _checks.check_positive(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        _checks.check_probability("dropout", dropout)
        if dropout and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, so that it expects num_layers greater than 1, got "
                f"dropout={dropout} and num_layers=1",
                stacklevel=3,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        # Features of each layer's input and names of its parameters, once for each direction.
        self._widths: list[int] = []
        self._names: list[tuple[str, ...]] = []
        for layer in range(num_layers):
            width = hidden_size * directions if layer else input_size
            shapes = self._shapes(width)
            for suffix in ("", "_reverse")[:directions]:
                names = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in names.items():
                    parameter = None
                    if shape is not None and (bias or not name.startswith("bias")):
                        parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(name, parameter)
                self._widths.append(width)
                self._names.append(tuple(names))
        for name, shape in self._stack_shapes().items():
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        """Shape of each parameter of a layer whose input has `width` features; None: absent."""
        raise NotImplementedError

    def _stack_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter that belongs to the stack and not to one layer."""
        return {}

    def _initial_biases(self) -> dict[str, tuple[float, ...]]:
        """One initial value a gate for each bias that does not start at zero."""
        return {}

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one layer in one direction; return its output and its final state."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights with variance 1 / fan-in; biases are zero, or as the layer's options say."""
        biases = self._initial_biases()
        for name, parameter in self.named_parameters(recurse=False):
            kind = name.rsplit("_l", 1)[0]
            if parameter.ndim == 2:
                bound = math.sqrt(3 / parameter.shape[1])
                parameter.uniform_(-bound, bound)
            else:
                values = biases.get(kind, (0.0,))
                for rows, value in zip(parameter.chunk(len(values)), values, strict=True):
                    rows.fill_(value)

    def flatten_parameters(self) -> None:
        """Do nothing; `nn.LSTM` has it, and programs call it."""

    def extra_repr(self) -> str:
        """Show in `print(model)` what differs from the defaults."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name in (*defaults, *self.options):
            value = getattr(self, name)
            if name not in defaults or value != defaults[name]:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State = None,
        *,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Run the stack over sequences, or over the next pieces of them."""
        (output,), last = self._forward(input, state, lengths, cu_seqlens)
        return output, last

    def _forward(
        self,
        input: Tensor | PackedSequence,
        state: State,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        **along: Tensor,
    ) -> tuple[tuple[Any, ...], State]:
        """What `forward` does, with one result or several at every step.

        `along` are tensors that lie as the input does and go to `_run` as they are.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, state, lengths, cu_seqlens, along)
        rows = self._check_input(input, lengths, cu_seqlens)
        unbatched = input.ndim == 2 and cu_seqlens is None
        x = input
        if unbatched:
            x, along = x.unsqueeze(1), {name: y.unsqueeze(1) for name, y in along.items()}
        time_first = unbatched or not self.batch_first
        if lengths is not None and _nothing_padded(lengths, x.shape[0 if time_first else 1]):
            lengths = None
        if lengths is not None:
            lengths = lengths.to(x.device, torch.int64)
            if unbatched:
                lengths = lengths.reshape(1)
            valid = inside(lengths, x, 0 if time_first else 1)
            x = x.where(valid.unsqueeze(-1), 0.0)
            along = {name: y.where(valid, 0) for name, y in along.items()}
        elif cu_seqlens is not None:
            cu_seqlens = cu_seqlens.to(x.device, torch.int64)
        layout = {"lengths": lengths, "cu_seqlens": cu_seqlens, "batch_first": not time_first}
        layout |= along
        members = self._members(state, x, rows, unbatched)
        outputs, members = self._run_layers(x, members, layout)
        last = members[0] if self.state_type is None else self.state_type(*members)
        if unbatched:
            return tuple(y.squeeze(1) for y in outputs), map_state(lambda s: s.squeeze(1), last)
        return outputs, last

    def _run_layers(
        self, x: Tensor, members: Sequence[Any], layout: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], list[Any]]:
        """Results at every step and the members of the final state, from those of the initial."""
        states = list(
            zip(*(s.unbind(0) if isinstance(s, Tensor) else s for s in members), strict=True)
        )
        finals = []
        dropout = self.dropout if self.training else 0.0
        layouts = [{**layout, "reverse": False}]
        if self.bidirectional:
            layouts.append({**layout, "reverse": True})
        top = len(self._names) - len(layouts)
        for k in range(0, top + 1, len(layouts)):
            outputs = []
            for j, one_way in enumerate(layouts, k):
                weights = [getattr(self, name) for name in self._names[j]]
                y, final = self._run(x, weights, states[j], one_way)
                outputs.append(y)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if dropout and k < top:
                x = F.dropout(x, dropout)
        joined: list[Any] = list(zip(*finals, strict=True))
        stacked = len(joined) - self.keeps_inputs
        joined[:stacked] = [_stack(member) for member in joined[:stacked]]
        return (x,), joined

    def _forward_packed(
        self,
        input: PackedSequence,
        state: State,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        along: dict[str, Tensor],
    ) -> tuple[tuple[PackedSequence, ...], State]:
        if lengths is not None or cu_seqlens is not None:
            name = "cu_seqlens" if lengths is None else "lengths"
            raise ValueError(f"{name} must be None where input is a PackedSequence, which has them")
        data, batch_sizes, to_sorted, from_sorted = input
        order, back, ends = packing.end_to_end(batch_sizes, data.device)
        if state is not None and to_sorted is not None:
            self._check_state(state, data, int(batch_sizes[0]), False)
            state = map_state(lambda s: s.index_select(1, to_sorted), state)
        along = {name: y.index_select(0, order) for name, y in along.items()}
        outputs, last = self._forward(data.index_select(0, order), state, None, ends, **along)
        if from_sorted is not None:
            last = map_state(lambda s: s.index_select(1, from_sorted), last)
        packed = tuple(
            PackedSequence(y.index_select(0, back), batch_sizes, to_sorted, from_sorted)
            for y in outputs
        )
        return packed, last

    def _check_input(self, x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> int:
        """Check the arguments but the state; return how many sequences there are."""
        _checks.check_floating("input", x)
        shape, m = x.shape, self.input_size
        if cu_seqlens is not None:
            if lengths is not None:
                raise ValueError("lengths and cu_seqlens must not both be given")
            _checks.check_shape("input", x, "T m", (None, m))
        elif len(shape) not in (2, 3) or shape[-1] != m:
            layout = "B T m" if self.batch_first else "T B m"
            if len(shape) == 2:
                _checks.check_shape("input", x, "T m", (None, m))
            _checks.check_shape("input", x, layout, (None, None, m))
        self._check_fits(x)
        if cu_seqlens is not None:
            _checks.check_cu_seqlens("cu_seqlens", cu_seqlens, shape[0])
            return cu_seqlens.shape[0] - 1
        if len(shape) == 2:
            if lengths is not None:
                _checks.check_lengths("lengths", lengths, None, shape[0])
            return 1
        batch, time = (0, 1) if self.batch_first else (1, 0)
        if lengths is not None:
            _checks.check_lengths("lengths", lengths, shape[batch], shape[time])
        return shape[batch]

    def _check_fits(self, x: Tensor) -> None:
        weight: Tensor = getattr(self, self._names[0][0])
        _checks.check_fits("input", x, "the layer", weight)

    def _check_state(self, state: State, x: Tensor, rows: int, unbatched: bool) -> None:
        batch, letter = ((), "") if unbatched else ((rows,), "B ")
        stacked = (len(self._names), *batch, self.hidden_size)
        dims = f"L*D {letter}n"
        if self.state_type is None:
            _checks.check_state("state", state, dims, stacked, x)
            return
        names = self.state_type._fields  # type: ignore[attr-defined]
        _checks.check_members("state", state, names)
        for name, member in zip(names, state, strict=True):
            if self.keeps_inputs and name == names[-1]:
                _checks.check_members(f"state.{name}", member, len(self._names))
                for k, width in enumerate(self._widths):
                    shape = (self.kernel_size - 1, *batch, width)
                    label = f"state.{name}[{k}]"
                    _checks.check_state(label, member[k], f"kept {letter}m", shape, x)
            elif name in self.scalars:
                _checks.check_state(f"state.{name}", member, f"1 {letter}1", (1, *batch, 1), x)
            elif name in self.counters:
                _checks.check_counter(f"state.{name}", member, f"1 {letter}1", (1, *batch, 1), x)
            else:
                _checks.check_state(f"state.{name}", member, dims, stacked, x)

    def _members(self, state: State, x: Tensor, rows: int, unbatched: bool) -> list[Any]:
        """The members of `state`, each with a batch dimension."""
        if state is None:
            return self._initial_members(x, rows)
        self._check_state(state, x, rows, unbatched)
        if unbatched:
            state = map_state(lambda s: s.unsqueeze(1), state)
        return [state] if self.state_type is None else list(state)

    def _initial_members(self, x: Tensor, rows: int) -> list[Any]:
        """What a sequence starts from where no state is given: zeros."""
        fields = 1 if self.state_type is None else len(self.state_type._fields)  # type: ignore[attr-defined]
        zeros: list[Any] = [x.new_zeros(len(self._names), rows, self.hidden_size)] * fields
        if self.keeps_inputs:
            kept = self.kernel_size - 1
            zeros[-1] = tuple(x.new_zeros(kept, rows, width) for width in self._widths)
        return zeros


def _nothing_padded(lengths: Tensor, T: int) -> bool:
    """Whether every sequence is known to have all the steps."""
    return _checks.is_known(lengths) and set(lengths.flatten().tolist()) <= {T}


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to each tensor of a state, whatever its structure."""
    if isinstance(state, Tensor):
        return function(state)
    members = [map_state(function, member) for member in state]
    return type(state)(*members) if hasattr(state, "_fields") else tuple(members)


def inside(lengths: Tensor, x: Tensor, time: int) -> Tensor:
    """Which steps lie within their sequence: 0 * nan would reach the weights' gradients."""
    steps = torch.arange(x.shape[time], device=x.device)
    return steps.unsqueeze(1 - time) < lengths.unsqueeze(time)
