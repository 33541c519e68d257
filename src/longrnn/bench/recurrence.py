"""The recurrence suite: one op, many shapes, against the bytes that must move."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longrnn.bench import scans
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows
from longrnn.bench.scan_case import ScanCase

_STREAMS = {"forward": 3, "training": 8}  # tensors that must be read or written
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
_PIECES = 16  # a probed contender is first timed on one piece in so many of the sequence

_CPU = {
    "shapes": [
        (1, 65536, 256),
        (16, 4096, 256),
        (256, 256, 256),
        (1, 1048576, 16),
        (1, 1048576, 1),
        (8, 1048576, 1),
        (8, 1024, 256),
        (1, 65536, 64),
    ],
    "one step": [(1, 1, 256), (64, 1, 256)],
    "sweep": [(1, T, 256) for T in (64, 256, 1024, 4096, 16384)],
}
_CUDA = {
    **_CPU,
    "paper": [(1, 65536, D) for D in (4, 32, 128)],
    "splits": [(64 * 2**20 // T // 256, T, 256) for T in (1, 16, 256, 4096, 65536, 262144)],
}


@dataclass(frozen=True)
class Shape:
    """One line of the suite's programme."""

    group: str
    B: int
    T: int
    D: int
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        kind = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        return f"({self.B}, {self.T}, {self.D}){kind}"


def cases(device: str) -> list[Shape]:
    """What the suite measures on a device."""
    programme, dtypes = (_CPU, [torch.float32])
    if device == "cuda":
        programme, dtypes = (_CUDA, [torch.float32, torch.bfloat16])
    return [
        Shape(group, *shape, dtype)
        for group, shapes in programme.items()
        for shape in shapes
        for dtype in dtypes
    ]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite on a device, present or not."""
    return scans.contenders(device)


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

    for name, streams in _STREAMS.items():
        case = ScanCase(a, x, y, name == "training", exact if name == "training" else states)
        outcomes = compare(
            runners,
            case,
            _TOLERANCE[shape.dtype],
            budget,
            device=device,
            shortened=_shortened(case),
        )
        moved = streams * a.nbytes
        yield rows(
            {
                "suite": "recurrence",
                "group": shape.group,
                "case": str(shape),
                "B": shape.B,
                "T": shape.T,
                "D": shape.D,
                "dtype": str(shape.dtype).removeprefix("torch."),
                "pass": name,
                "limit_ms": 1e3 * moved / limits["bandwidth"],
            },
            outcomes,
            baseline=scans.BASELINE,
            per_call={"gb_per_s": moved / 1e9},
        )


def _shortened(case: ScanCase) -> tuple[ScanCase, int] | None:
    """The first piece of the sequence, and how many pieces there are; None where it is short."""
    steps = case.x.shape[1] // _PIECES
    if steps < 2:
        return None
    a, x, y = (v[:, :steps].contiguous() for v in (case.a, case.x, case.y))
    return replace(case, a=a, x=x, y=y), _PIECES


def inputs(shape: Shape, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Decays as sigmoid gates make them, impulses, and the gradient of the states."""
    generator = torch.Generator().manual_seed(0)
    a, x, y = (torch.randn(shape.B, shape.T, shape.D, generator=generator) for _ in range(3))
    return tuple(v.to(device, shape.dtype) for v in (torch.sigmoid(a + 2), x, y))  # type: ignore[return-value]


def exact_results(a: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The states and both gradients of a recurrence over (B, T, D), in the dtype that came."""
    h = exact_states(a, x)
    a_next = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
    s = exact_states(a_next.flip(1), y.flip(1)).flip(1)
    h_before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
    return {"h": h, "grad_a": s * h_before, "grad_x": s}


def exact_states(a: Tensor, x: Tensor) -> Tensor:
    """Solve a recurrence in two short loops: within pieces of about √T steps, then over them.

    Not fast, but a million steps are two thousand.
    """
    B, T, D = x.shape
    steps = math.isqrt(max(T - 1, 0)) + 1
    missing = -T % steps
    a, x = (torch.nn.functional.pad(v, (0, 0, 0, missing)) for v in (a, x))
    a, x = (v.view(B, -1, steps, D) for v in (a, x))
    h, decay = x.clone(), a.clone()
    for k in range(1, steps):
        h[:, :, k] += a[:, :, k] * h[:, :, k - 1]
        decay[:, :, k] *= decay[:, :, k - 1]
    for c in range(1, h.shape[1]):
        h[:, c] += decay[:, c] * h[:, c - 1, -1:]
    return h.flatten(1, 2)[:, :T]
