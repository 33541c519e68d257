"""What ParallelGRU and ParallelLSTM share: products with the input, then elementwise steps."""

import math
from typing import Any

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.nn.stack import RecurrentStack
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES
from longrnn.ops.diagonal_recurrence.op import ALGORITHMS, diagonal_recurrence
from longrnn.ops.linear import linear


class ParallelStack(RecurrentStack):
    """Layers of non-linear cells whose units see no state but their own."""

    options = ("algorithm",)
    _cell: str  # a name in CELLS

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
        algorithm: str = "auto",
    ):
        _checks.check_choice("algorithm", algorithm, ALGORITHMS)
        self.algorithm = algorithm
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

    def _shapes(self, width: int) -> dict[str, tuple[int, ...] | None]:
        n, peepholes = self.hidden_size, CELLS[self._cell].weights - GATES
        shapes: dict[str, tuple[int, ...] | None] = {
            "weight_ih": (GATES * n, width),
            "bias_ih": (GATES * n,),
            "weight_hh": (GATES, n),
        }
        return shapes | ({"weight_peephole": (peepholes, n)} if peepholes else {})

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw as the authors do; the first gate's biases fall from 0 to -1 over the units."""
        n = self.hidden_size
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("weight_ih"):
                bound = math.sqrt(6 / (n + parameter.shape[1]))
                parameter.uniform_(-bound, bound)
            elif name.startswith("weight"):
                parameter.normal_(std=2 / math.sqrt(5 * n))
            else:
                parameter.zero_()
                parameter[:n] = -torch.linspace(0, 1, n)

    def _run(
        self, x: Tensor, weights: list[Any], state: tuple[Tensor, ...], layout: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias, *diagonal = weights
        output, last = diagonal_recurrence(
            linear(x, weight, bias),
            diagonal[0] if len(diagonal) == 1 else torch.cat(diagonal),
            torch.stack(state),
            self._cell,
            algorithm=self.algorithm,
            **layout,
        )
        return output, last.unbind()
