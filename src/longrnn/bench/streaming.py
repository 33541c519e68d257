"""The streaming suite: one sequence that arrives piece by piece, the state passed on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from longrnn.bench import layer_contenders
from longrnn.bench.contender import Contender, Run, relative_error
from longrnn.bench.layer_case import LayerCase, exact_copy
from longrnn.bench.layers import BASELINE, add_products
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows
from longrnn.nn import models

_STACK = (24, 256, 2)  # input size, hidden size, layers
_TOLERANCE = 1e-4
_CHECKED = 128  # steps


@dataclass(frozen=True)
class Piece:
    """One line of the suite's programme: the length of a piece."""

    steps: int
    group: str = "streaming"

    def __str__(self) -> str:
        m, n, layers = _STACK
        return f"pieces of {self.steps}, {m} to {layers} x {n}"


def cases(device: str) -> list[Piece]:
    """What the suite measures on a device."""
    return [Piece(1), Piece(8), Piece(64)]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite on a device: every layer, and the parallel ones' matrix products."""
    return [
        *(replace(layer_contenders.layer(name), prepare=_prepare(name)) for name in models()),
        *(layer_contenders.products(n) for n in models() if layer_contenders.is_parallel(n)),
    ]


def _prepare(name: str) -> Callable[[LayerCase], Run]:
    def prepare(case: LayerCase) -> Run:
        return stream_run(
            layer_contenders.build(name, case.sizes, case.x.device, case.x.dtype), case
        )

    return prepare


def stream_run(module: torch.nn.Module, case: LayerCase) -> Run:
    """Ready a module, called as `nn.LSTM` is, to take a case's input again and again."""
    module.eval()
    state: Any = None

    def call() -> Any:
        nonlocal state
        with torch.no_grad():
            output, state, *_ = module(case.x, state)
        return output

    def check() -> float:
        steps, width = case.x.shape[0], case.x.shape[2]
        x = torch.randn(-(-_CHECKED // steps) * steps, 1, width).to(case.x)
        with torch.no_grad():
            whole = exact_copy(module)(x.double())[0]
            held, outputs = None, []
            for piece in x.split(steps):
                output, held, *_ = module(piece, held)
                outputs.append(output)
        return relative_error({"output": torch.cat(outputs)}, {"output": whole})

    return Run(call, check)


def measure(
    piece: Piece, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one piece length, without gradients.

    Args:
        piece: The case.
        runners: The contenders that are present.
        budget: How long it may take.
        device: "cpu" or "cuda".
        limits: The machine's "multiply_adds" a second.

    Yields:
        The rows.
    """
    case = LayerCase.draw(1, piece.steps, _STACK, False, device)
    outcomes = compare(runners, case, _TOLERANCE, budget, device=device)
    m, n, layers = _STACK
    made = rows(
        {
            "suite": "streaming",
            "group": piece.group,
            "case": str(piece),
            "B": 1,
            "T": piece.steps,
            "m": m,
            "D": n,
            "num_layers": layers,
            "dtype": "float32",
            "pass": "forward",
        },
        outcomes,
        baseline=BASELINE,
        per_call={"steps_per_s": piece.steps},
    )
    add_products(made, _STACK, piece.steps, limits["multiply_adds"])
    for row in made:
        if "median_ms" in row:
            row["us_per_step"] = 1e3 * row["median_ms"] / piece.steps
    yield made
