"""The block suite: h_t = A_t h_{t-1} + x_t with n x n transitions, against the bytes that move."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from longrnn.bench import block_scans
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows
from longrnn.bench.scan_case import ScanCase

# Tensors of matrices and of vectors that must be read or written: A, x and h; backward again A, h
# and y, and two gradients.
_STREAMS = {"forward": (1, 2), "training": (3, 5)}
_TOLERANCE = 1e-5
_PIECES = 16  # a probed contender is first timed on one piece in so many of the sequence

_CASES = {
    2: [(65536, 64), (4096, 1024), (262144, 1)],
    4: [(65536, 64), (4096, 1024), (262144, 1)],
    8: [(16384, 64), (1024, 1024), (262144, 1)],
}


@dataclass(frozen=True)
class Shape:
    """One line of the suite's programme."""

    T: int
    sequences: int
    n: int

    @property
    def group(self) -> str:
        """Shapes with matrices of one size."""
        return f"n={self.n}"

    def __str__(self) -> str:
        return f"({self.T}, {self.sequences}, {self.n})"


def cases(device: str) -> list[Shape]:
    """What the suite measures on a device."""
    return [Shape(*shape, n) for n, shapes in _CASES.items() for shape in shapes]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite on a device, present or not."""
    return block_scans.contenders(device)


def measure(
    shape: Shape, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one shape, forward and then forward with backward.

    Args:
        shape: The case.
        runners: The contenders that are present.
        budget: Of each of the two passes.
        device: "cpu" or "cuda".
        limits: The machine's "bandwidth" in bytes a second.

    Yields:
        The rows of each pass.
    """
    a, x, y = inputs(shape, device)
    exact = functools.cache(lambda: exact_results(a.double(), x.double(), y.double()))

    def states() -> dict[str, Tensor]:
        return {"h": exact()["h"]}

    for name, (matrices, vectors) in _STREAMS.items():
        moved = matrices * a.nbytes + vectors * x.nbytes
        case = ScanCase(a, x, y, name == "training", exact if name == "training" else states)
        steps = shape.T // _PIECES
        piece = replace(case, a=a[:steps], x=x[:steps], y=y[:steps])
        outcomes = compare(
            runners, case, _TOLERANCE, budget, device=device, shortened=(piece, _PIECES)
        )
        yield rows(
            {
                "suite": "block",
                "group": shape.group,
                "case": str(shape),
                "B": shape.sequences,
                "T": shape.T,
                "D": shape.n,
                "dtype": "float32",
                "pass": name,
                "limit_ms": 1e3 * moved / limits["bandwidth"],
            },
            outcomes,
            baseline=block_scans.BASELINE,
            per_call={"gb_per_s": moved / 1e9},
        )


def inputs(shape: Shape, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Transitions that shrink a state, impulses, and the gradient of the states."""
    generator = torch.Generator().manual_seed(0)
    lead = shape.T, shape.sequences, shape.n
    a = torch.randn(*lead, shape.n, generator=generator).mul_(0.5 / math.sqrt(shape.n))
    x, y = (torch.randn(lead, generator=generator) for _ in range(2))
    return a.to(device), x.to(device), y.to(device)


def exact_results(a: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The states and both gradients of a recurrence over (T, B, n), in the dtype that came."""
    h = exact_states(a, x)
    a_next = torch.cat([a[1:].mT, torch.zeros_like(a[:1])])
    s = exact_states(a_next.flip(0), y.flip(0)).flip(0)
    h_before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    return {"h": h, "grad_a": s.unsqueeze(-1) * h_before.unsqueeze(-2), "grad_x": s}


def exact_states(a: Tensor, x: Tensor) -> Tensor:
    """Solve a recurrence in two short loops: within pieces of about √T steps, then over them.

    The second also adds to every state what came before its piece, by a product of transitions.
    """
    T = len(x)
    steps = math.isqrt(max(T - 1, 0)) + 1
    missing = -T % steps
    a, x = pad(a, (0, 0) * (a.ndim - 1) + (0, missing)), pad(x, (0, 0, 0, 0, 0, missing))
    a, h = a.unflatten(0, (-1, steps)), x.unflatten(0, (-1, steps)).clone()
    product = a.clone()
    for k in range(1, steps):
        h[:, k] += _apply(a[:, k], h[:, k - 1])
        product[:, k] = a[:, k] @ product[:, k - 1]
    for c in range(1, len(h)):
        h[c] += _apply(product[c], h[c - 1, -1])
    return h.flatten(0, 1)[:T]


def _apply(a: Tensor, h: Tensor) -> Tensor:
    return (a @ h.unsqueeze(-1)).squeeze(-1)
