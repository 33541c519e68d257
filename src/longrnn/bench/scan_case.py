"""One case of the recurrence suite, and how a PyTorch scan runs it in the layout it likes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longrnn.bench.contender import Contender, Run, relative_error

Scan = Callable[[Tensor, Tensor], Tensor]
_RESULTS = ("h", "grad_a", "grad_x")

# How a layout is made from (B, T, D), and undone.
_LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, torch.Size], Tensor]]] = {
    "(B, T, D)": (lambda v: v, lambda v, shape: v),
    "(T, B, n, n)": (lambda v: v, lambda v, shape: v),  # of the block suite
    "(B, T, 1, D)": (lambda v: v.unsqueeze(2), lambda v, shape: v.squeeze(2)),
    "(B, D, T)": (
        lambda v: v.transpose(1, 2).contiguous(),
        lambda v, shape: v.transpose(1, 2),
    ),
    "(B·D, T)": (
        lambda v: v.transpose(1, 2).contiguous().flatten(0, 1),
        lambda v, shape: v.unflatten(0, (shape[0], shape[2])).transpose(1, 2),
    ),
}


@dataclass(frozen=True)
class ScanCase:
    """Inputs of one recurrence: decays a, impulses x and the gradient y of the states.

    All are (B, T, D). `training` asks for the states and the gradients of a and x; `exact` tells
    what is right, in float64: "h", and "grad_a" and "grad_x" in training.
    """

    a: Tensor
    x: Tensor
    y: Tensor
    training: bool
    exact: Callable[[], dict[str, Tensor]]

    def error(self, made: Iterable[Tensor]) -> float:
        """How far off h, and in training grad_a and grad_x, are."""
        return relative_error(dict(zip(_RESULTS, made, strict=False)), self.exact())


def torch_run(case: ScanCase, scan: Scan, layout: str = "(B, T, D)") -> Run:
    """Ready a differentiable PyTorch scan, with its inputs in the layout it likes."""
    into, back = _LAYOUTS[layout]
    a, x, y = (into(v) for v in (case.a, case.x, case.y))
    if case.training:
        a, x = a.detach().requires_grad_(), x.detach().requires_grad_()

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (scan(a, x),)

    def training() -> tuple[Tensor, ...]:
        h = scan(a, x)
        return (h, *torch.autograd.grad(h, (a, x), y))

    call = training if case.training else forward
    return Run(call, lambda: case.error(back(v, case.x.shape) for v in call()))


def torch_scan(
    name: str, load: Callable[[ScanCase], Scan], layout: str = "(B, T, D)", **options: Any
) -> Contender:
    """A contender from a function that imports and returns a scan for the case."""
    return Contender(
        name, lambda case: torch_run(case, load(case), layout), layout=layout, **options
    )
