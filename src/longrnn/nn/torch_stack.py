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
    """The cell's name in `ops.candidates`; here and in `_initial_biases` "lstm" or a GRU."""
    gates: ClassVar[int]
    """Blocks of rows in the weights."""

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        rows = self.gates * self.hidden_size
        return {
            "weight_ih": (rows, width),
            "weight_hh": (rows, self.hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as Glorot and Bengio do for [x, h] and the gates together.

        Biases are zero, those of an LSTM's forget gate and of a GRU's gates 1.
        """
        n = self.hidden_size
        remembering = slice(n, 2 * n) if self.gates == 4 else slice(2 * n)
        for width, names in zip(self._widths, self._names, strict=True):
            bound = math.sqrt(6 / (width + n + self.gates * n))
            for name in names:
                parameter = getattr(self, name)
                if name.startswith("weight_ih") or name.startswith("weight_hh"):
                    parameter.uniform_(-bound, bound)
                elif parameter is not None:
                    parameter.zero_()
                    if name.startswith("bias_ih"):
                        parameter[remembering] = 1.0

    def _op_weights(self, weights: list[Any]) -> list[Tensor]:
        """The two weights and the 4 n biases that the ops take."""
        weight_ih, weight_hh, bias_ih, bias_hh = weights[:4]
        return [weight_ih, weight_hh, merge_biases(self.cell, bias_ih, bias_hh, weight_hh)]
