"""What the one-step cells share: the parameters of `nn.LSTMCell` and `nn.GRUCell`, and checks."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from longrnn import _checks
from longrnn.nn.torch_stack import reset_cell, torch_shapes
from longrnn.ops.candidates import merge_biases


class TorchCell(nn.Module):
    """A cell that is called with (B, m), or (m,), and a state or None."""

    cell: str  # in ops.candidates
    gates: ClassVar[int]
    state_type: ClassVar[Any]
    options: ClassVar[tuple[str, ...]]  # attributes that `extra_repr` also shows
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        own: dict[str, tuple[int, ...] | None],
    ):
        """Make the parameters of torch's cell and `own`, whose shapes are given; None: absent."""
        super().__init__()
        _checks.check_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        for name, shape in (torch_shapes(self.gates, input_size, hidden_size) | own).items():
            parameter = None
            if shape is not None and (bias or name not in ("bias_ih", "bias_hh")):
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)

    def reset_parameters(self) -> None:
        """Draw parameters as the layer of the same cell does."""
        reset_cell(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def extra_repr(self) -> str:
        """Show in `print(cell)` what differs from the defaults, and the cell's own options."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        shown += [] if self.bias else ["bias=False"]
        return ", ".join(shown + [f"{name}={getattr(self, name)!r}" for name in self.options])

    def _check_input(self, input: Tensor) -> Tensor:
        """The input with a batch dimension."""
        _checks.check_floating("input", input)
        m = self.input_size
        dims, wanted = ("m", (m,)) if input.ndim == 1 else ("B m", (None, m))
        _checks.check_shape("input", input, dims, wanted)
        _checks.check_fits("input", input, "the cell", self.weight_ih)
        return input.unsqueeze(0) if input.ndim == 1 else input

    def _members(self, state: Any, x: Tensor, unbatched: bool) -> list[Tensor]:
        """The members of `state`, or of the initial one, each with a batch dimension."""
        if state is None:
            return self._initial_members(x)
        batch, letter = ((), "") if unbatched else ((x.shape[0],), "B ")
        fields = self.state_type._fields
        _checks.check_members("state", state, fields)
        for name, member in zip(fields, state, strict=True):
            dims, width = ("gate", 1) if name.endswith("prob") else ("n", self.hidden_size)
            _checks.check_state(f"state.{name}", member, letter + dims, (*batch, width), x)
        return [member.unsqueeze(0) for member in state] if unbatched else list(state)

    def _initial_members(self, x: Tensor) -> list[Tensor]:
        """What a sequence starts from where no state is given."""
        raise NotImplementedError

    def _op_bias(self) -> Tensor:
        """The 4 n biases that the ops take."""
        return merge_biases(self.cell, self.bias_ih, self.bias_hh, self.weight_hh)
