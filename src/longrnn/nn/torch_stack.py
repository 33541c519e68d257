"""What skip and phased layers share: the parameters of `nn.LSTM` and `nn.GRU`, by their names."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from longrnn.nn.stack import RecurrentStack
from longrnn.ops.candidates import merge_biases


class TorchStack(RecurrentStack):
    """Layers whose cells are those of `nn.LSTM` or `nn.GRU`, so that their weights load."""

    cell: str
    """The cell's name in `ops.candidates`."""
    gates: ClassVar[int]
    """Blocks of rows in the weights."""

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        return torch_shapes(self.gates, width, self.hidden_size)

    def reset_parameters(self) -> None:
        """Draw each layer's parameters with `reset_cell`."""
        for names in self._names:
            reset_cell(*(getattr(self, name) for name in names[:4]))

    def _op_weights(self, weights: list[Any]) -> list[Tensor]:
        """The two weights and the 4 n biases that the ops take."""
        weight_ih, weight_hh, bias_ih, bias_hh = weights[:4]
        return [weight_ih, weight_hh, merge_biases(self.cell, bias_ih, bias_hh, weight_hh)]


def torch_shapes(gates: int, m: int, n: int) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the parameters of torch's cell with so many gates."""
    rows = gates * n
    return {
        "weight_ih": (rows, m),
        "weight_hh": (rows, n),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }


@torch.no_grad()
def reset_cell(
    weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None
) -> None:
    """Draw weights as Glorot and Bengio do for [x, h] and the gates together.

    Biases are zero, those of an LSTM's forget gate and of a GRU's gates 1.
    """
    rows, n = weight_hh.shape
    bound = math.sqrt(6 / (weight_ih.shape[1] + n + rows))
    weight_ih.uniform_(-bound, bound)
    weight_hh.uniform_(-bound, bound)
    if bias_ih is not None and bias_hh is not None:
        bias_hh.zero_()
        bias_ih.zero_()
        bias_ih[n if rows == 4 * n else 0 : 2 * n] = 1.0


def computed_dtype(x: Tensor) -> torch.dtype:
    """The type in which products with `x` are computed: autocast's, or its own."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
