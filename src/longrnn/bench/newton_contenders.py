"""Contenders of the newton suite: cells with the same weights, however they get along the sequence.

What runs a cell with diagonal recurrence computes the same numbers, ours or not, and is judged by
the same loop in float64: output, and in training the gradient of the input and of every weight.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from longrnn.bench.contender import Contender, Run, relative_error
from longrnn.nn import ParallelGRU, ParallelLSTM
from longrnn.nn.parallel_stack import ParallelStack
from longrnn.ops import solve_recurrence
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES

BASELINES = {"gru": "nn.GRU", "lstm": "nn.LSTM", "solve": "loop over nn.GRUCell"}
_LAYERS: dict[str, type[ParallelStack]] = {"gru": ParallelGRU, "lstm": ParallelLSTM}
_DIAGONALS = {"gru": ("a_z", "a_r", "a_n"), "lstm": ("a_f", "a_z", "a_o")}  # pararnn's names
_CHUNK = 1024  # steps that pararnn solves at once in one of its modes
_CHECKED = {False: 1 << 16, True: 256}  # steps at most; with gradients a loop is slow


@dataclass(frozen=True)
class Group:
    """Cases that differ in their length alone.

    Attributes:
        cell: "gru" or "lstm", with diagonal recurrence; "solve", `nn.GRUCell` as it is.
        m: Features of the input.
        n: Units.
    """

    cell: str
    m: int
    n: int


GROUPS = {
    "gru": Group("gru", 256, 256),
    "gru-16-features": Group("gru", 16, 256),
    "lstm": Group("lstm", 256, 256),
    "solve": Group("solve", 32, 32),
}


@dataclass(frozen=True)
class NewtonCase:
    """One cell over one sequence.

    Attributes:
        group: Which cell, and its sizes.
        x: Input, (T, 1, m).
        y: Gradient of the output, (T, 1, n).
        training: Whether gradients are asked for: of the input and of every parameter.
        iterations: Linear recurrences that each solver took, by contender, once it has run.
    """

    group: Group
    x: Tensor
    y: Tensor
    training: bool
    iterations: dict[str, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, group: Group, T: int, training: bool, device: str) -> "NewtonCase":
        """Draw a case."""
        generator = torch.Generator().manual_seed(0)
        x, y = (
            torch.randn(T, 1, width, generator=generator).to(device) for width in (group.m, group.n)
        )
        return cls(group, x, y, training)

    def beginning(self, steps: int) -> "NewtonCase":
        """The first steps of the case."""
        return replace(self, x=self.x[:steps], y=self.y[:steps])

    @functools.cached_property
    def checked(self) -> "NewtonCase":
        """The steps on which contenders are judged."""
        return self.beginning(_CHECKED[self.training])

    @functools.cached_property
    def exact(self) -> dict[str, Tensor]:
        """What is right there."""
        loop = _CellLoop(self.group) if self.group.cell == "solve" else _Loop(self.group)
        return _step(loop.to(self.x.device).double(), self.checked, torch.float64)


class _Cell(nn.Module):
    """A module (T, 1, m) -> (T, 1, n) that tells its parameters by the names that all share."""

    def shared(self) -> dict[str, list[Any]]:
        """By name: the parameter, or the rows of which it consists."""
        return {name: [parameter] for name, parameter in self.named_parameters()}


class _Parallel(_Cell):
    """Ours, by an algorithm of its choice."""

    def __init__(self, group: Group, algorithm: str = "auto"):
        super().__init__()
        torch.manual_seed(0)
        self.layer = _LAYERS[group.cell](group.m, group.n, algorithm=algorithm)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


class _Loop(_Parallel):
    """The definition: the equations of the cell, step by step."""

    def forward(self, x: Tensor) -> Tensor:
        weight_ih, bias_ih, *diagonals = self.layer.parameters()
        weight = torch.cat([*diagonals]).unbind()
        cell = CELLS[self.layer._cell]
        gates = linear(x, weight_ih, bias_ih).unbind()
        state = (x.new_zeros(1, self.layer.hidden_size),) * cell.states
        outputs = []
        for gates_t in gates:
            state = cell.step(gates_t.chunk(GATES, -1), weight, state)
            outputs.append(state[0])
        return torch.stack(outputs)


class _ParaRNN(_Cell):
    """pararnn-torch's, with the weights of ours."""

    def __init__(self, group: Group, solver: str, chunk: int | None):
        super().__init__()
        pararnn = importlib.import_module("pararnn")
        self.group = group
        cell = getattr(pararnn, f"Para{group.cell.upper()}")(group.m, group.n)
        config = pararnn.NewtonConfig(chunk_len=chunk)
        self.stack = pararnn.ParaRNN(cell, solver=solver, config=config, batch_first=True)
        ours = _Parallel(group).shared()
        with torch.no_grad():
            for name, rows in self.shared().items():
                (value,) = ours[name]
                for row, values in zip(rows, value.unbind() if rows[1:] else [value], strict=True):
                    row.copy_(values)

    def shared(self) -> dict[str, list[Any]]:
        cell: Any = self.stack.layers[0]
        named = {
            "layer.weight_ih_l0": [cell.W_x.weight],
            "layer.bias_ih_l0": [cell.W_x.bias],
            "layer.weight_hh_l0": [getattr(cell, name) for name in _DIAGONALS[self.group.cell]],
        }
        if self.group.cell == "lstm":
            named["layer.weight_peephole_l0"] = [cell.c_f, cell.c_o]
        return named

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.stack(x.transpose(0, 1)).transpose(0, 1)
        return output


class _Torch(_Cell):
    """PyTorch's layer of the same size, with whole matrices on the state."""

    def __init__(self, group: Group):
        super().__init__()
        torch.manual_seed(0)
        self.layer: nn.Module = {"gru": nn.GRU, "lstm": nn.LSTM}[group.cell](group.m, group.n)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output


class _CellLoop(_Cell):
    """`nn.GRUCell`, step by step."""

    def __init__(self, group: Group):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(group.m, group.n)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(1, self.cell.hidden_size)
        states = []
        for x_t in x.unbind():
            h = self.cell(x_t, h)
            states.append(h)
        return torch.stack(states)


class _Solved(_CellLoop):
    """`nn.GRUCell`, by Newton's method."""

    def __init__(self, group: Group, jacobian: str):
        super().__init__(group)
        self.jacobian = jacobian
        self.iterations: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        start = x.new_zeros(1, self.cell.hidden_size)
        states, report = solve_recurrence(self.cell, x, start, jacobian=self.jacobian)
        self.iterations = report.iterations
        output: Tensor = states
        return output


def contenders(cell: str) -> list[Contender]:
    """Who runs one cell."""
    if cell == "solve":
        return [
            _contender("solve_recurrence, diagonal", lambda group: _Solved(group, "diagonal")),
            _contender("solve_recurrence, dense", lambda group: _Solved(group, "dense")),
            _contender(BASELINES[cell], _CellLoop, kind="peer"),
        ]
    modes = {
        "Newton": ("newton", None),
        f"Newton in chunks of {_CHUNK}": ("newton", _CHUNK),
        "serial": ("sequential", None),
    }
    return [
        _contender(f"parallel-{cell}, serial", lambda group: _Parallel(group, "serial")),
        _contender(f"parallel-{cell}, Newton", lambda group: _Parallel(group, "parallel")),
        *(
            replace(
                _contender(
                    f"pararnn Para{cell.upper()}, {name}",
                    functools.partial(_ParaRNN, solver=solver, chunk=chunk),
                    kind="peer",
                ),
                module="pararnn",
                package="pararnn-torch",
            )
            for name, (solver, chunk) in modes.items()
        ),
        _contender(BASELINES[cell], _Torch, kind="peer", judged=False),
    ]


def _contender(
    name: str, build: Callable[[Group], _Cell], *, kind: str = "ours", judged: bool = True
) -> Contender:
    def prepare(case: NewtonCase) -> Run:
        module = build(case.group).to(case.x.device)

        def call() -> None:
            _step(module, case, torch.float32)
            if isinstance(module, _Solved) and module.iterations is not None:
                case.iterations[name] = int(module.iterations.max())

        def check() -> float:
            return relative_error(_step(module, case.checked, torch.float32), case.exact)

        return Run(call, check if judged else None)

    package = "longrnn" if kind == "ours" else "torch"
    return Contender(name, prepare, kind=kind, package=package, layout="(T, B, n)", probe=True)


def _step(module: _Cell, case: NewtonCase, dtype: torch.dtype) -> dict[str, Tensor]:
    """A forward or, in training, one with the gradients of the input and of every parameter."""
    x = case.x.to(dtype)
    if not case.training:
        with torch.no_grad():
            return {"output": module(x)}
    x = x.detach().requires_grad_()
    module.zero_grad(set_to_none=True)
    output = module(x)
    output.backward(case.y.to(dtype))
    grads = {"x": x.grad}
    for name, rows in module.shared().items():
        found = [row.grad for row in rows]
        grads[name] = torch.stack(found) if found[1:] else found[0]
    return {"output": output.detach(), **grads}
