"""One case of the layers and streaming suites, and how a module runs it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from longrnn.bench.contender import Run, relative_error

_CHECKED = 1 << 16  # steps, over the batch, that are checked at most: float64 takes memory
_STEPWISE = 64  # of those, the first are computed one step a call


@dataclass(frozen=True)
class LayerCase:
    """A stack of layers on a batch.

    Attributes:
        x: Input, (T, B, m).
        y: Gradient of the output, (T, B, n).
        num_layers: Layers in the stack.
        training: Whether the parameters' gradients are asked for.
    """

    x: Tensor
    y: Tensor
    num_layers: int
    training: bool

    @classmethod
    def draw(
        cls,
        B: int,
        T: int,
        sizes: tuple[int, int, int],
        training: bool,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "LayerCase":
        """Draw a case; `sizes` are input size, hidden size and number of layers."""
        m, n, num_layers = sizes
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(T, B, width, generator=generator) for width in (m, n))
        return cls(x.to(device, dtype), y.to(device, dtype), num_layers, training)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Input size, hidden size and number of layers."""
        return self.x.shape[2], self.y.shape[2], self.num_layers


def module_run(
    module: nn.Module,
    case: LayerCase,
    forward: Callable[[nn.Module, Tensor], Tensor],
    *,
    stepwise: bool = False,
) -> Run:
    """Ready a module to run a case.

    Args:
        module: On the case's device, in its dtype.
        case: The case.
        forward: Runs the module on the input and returns its output, (T, B, n).
        stepwise: Whether the module is called as `nn.LSTM` is, so that it can be checked against
            itself in float64 one step a call.
    """
    module.train(case.training)

    def check() -> float:
        part = _part(case, _CHECKED)
        # A peer's inference may be compiled for float32, not its training; nothing drops out.
        exact_module = exact_copy(module).train(case.training or not stepwise)
        exact_part = replace(part, x=part.x.double(), y=part.y.double())
        results = _step(module, part, forward)
        exact = _step(exact_module, exact_part, forward)
        if stepwise:
            piece = _in_pieces(exact_module, exact_part.x[:_STEPWISE])
            exact["output"] = torch.cat([piece, exact["output"][_STEPWISE:]])
        return relative_error(results, exact)

    return Run(lambda: _step(module, case, forward), check)


@torch.no_grad()
def exact_copy(module: nn.Module) -> nn.Module:
    """A copy in float64; its clocks have the periods that the module's have after rounding.

    Over a hundred thousand steps the last digit of a period is the difference between a unit that
    is open and one that is closed.
    """
    exact = copy.deepcopy(module).double()
    for name, parameter in module.named_parameters():
        if name.startswith("log_period"):
            exact.get_parameter(name).copy_(parameter.exp().double().log())
    return exact


def _part(case: LayerCase, elements: int) -> LayerCase:
    """The first steps of a case, so many that they hold at most `elements` over the batch."""
    steps = max(1, elements // case.x.shape[1])
    return replace(case, x=case.x[:steps], y=case.y[:steps])


def _step(
    module: nn.Module, case: LayerCase, forward: Callable[[nn.Module, Tensor], Tensor]
) -> dict[str, Tensor]:
    """One forward, or one training step without the optimizer's; by name, what it made."""
    if not case.training:
        with torch.no_grad():
            return {"output": forward(module, case.x)}
    module.zero_grad(set_to_none=True)
    output = forward(module, case.x)
    output.backward(case.y)
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **grads}


def _in_pieces(module: nn.Module, x: Tensor, steps: int = 1) -> Tensor:
    """The output over x, computed in pieces with the state passed on."""
    state: Any = None
    outputs = []
    with torch.no_grad():
        for piece in x.split(steps):
            output, state = module(piece, state)[:2]
            outputs.append(output)
    return torch.cat(outputs)
