"""The layers suite: whole training steps, against PyTorch's LSTM and the matrix products alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from longrnn.bench import layer_contenders, memory
from longrnn.bench.contender import Contender
from longrnn.bench.layer_case import LayerCase
from longrnn.bench.layer_contenders import PRODUCTS
from longrnn.bench.measure import Budget, compare
from longrnn.bench.results import Row, rows

BASELINE = "nn.LSTM"
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
_PIECES = 8  # a probed contender is first timed on one piece in so many of the sequence
_STACK = (24, 256, 2)  # input size, hidden size, layers
_POSITIONS = 1 << 16  # B * T of the sweep
_PAPER = (32, 256, 2)


@dataclass(frozen=True)
class LayerShape:
    """One line of the suite's programme; `sizes` are input size, hidden size and layers."""

    group: str
    B: int
    T: int
    sizes: tuple[int, int, int] = _STACK
    dtype: torch.dtype = torch.float32
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        m, n, layers = self.sizes
        kind = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        return f"B {self.B}, T {self.T}, {m} to {layers} x {n}{kind}"


def cases(device: str) -> list[LayerShape]:
    """What the suite measures on a device."""
    lengths = (256, 1024, 4096, 16384, 65536)
    programme = [
        LayerShape("default", 1, 8192),
        LayerShape("default", 8, 1024, (256, 256, 1)),
        *(LayerShape("sweep", _POSITIONS // T, T) for T in lengths),
    ]
    if device == "cpu":
        return programme
    programme += [
        LayerShape("paper", 2**i, 2**j, _PAPER, only=("gilr-lstm", BASELINE))
        for i in range(9)
        for j in range(8, 18)
    ]
    both = (torch.float32, torch.bfloat16)
    return [LayerShape(s.group, s.B, s.T, s.sizes, d, s.only) for s in programme for d in both]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite on a device, present or not."""
    return layer_contenders.contenders()


def measure(
    shape: LayerShape,
    runners: list[Contender],
    budget: Budget,
    device: str,
    limits: dict[str, float],
) -> Iterator[list[Row]]:
    """Measure one shape, forward and then a training step.

    Args:
        shape: The case.
        runners: The contenders that are present.
        budget: Of each of the two passes.
        device: "cpu" or "cuda".
        limits: The machine's "multiply_adds" a second.

    Yields:
        The rows of each pass.
    """
    if shape.only:
        runners = [c for c in runners if c.name.removesuffix(PRODUCTS) in shape.only]
    for training in (False, True):
        case = LayerCase.draw(shape.B, shape.T, shape.sizes, training, device, shape.dtype)
        short = LayerCase.draw(
            shape.B, max(1, shape.T // _PIECES), shape.sizes, training, device, shape.dtype
        )
        outcomes = compare(
            runners,
            case,
            _TOLERANCE[shape.dtype],
            budget,
            device=device,
            shortened=(short, _PIECES),
        )
        m, n, layers = shape.sizes
        made = rows(
            {
                "suite": "layers",
                "group": shape.group,
                "case": str(shape),
                "B": shape.B,
                "T": shape.T,
                "m": m,
                "D": n,
                "num_layers": layers,
                "dtype": str(shape.dtype).removeprefix("torch."),
                "pass": "training" if training else "forward",
            },
            outcomes,
            baseline=BASELINE,
            per_call={"steps_per_s": shape.B * shape.T},
        )
        add_products(made, shape.sizes, shape.B * shape.T, limits["multiply_adds"])
        if shape.group == "default":
            for row in made:
                if row["status"] == "timed" and row["kind"] != "products":
                    row["peak_mb"] = memory.peak(row["contender"], case, device)
        yield made


def add_products(made: list[Row], sizes: tuple[int, int, int], positions: int, rate: float) -> None:
    """Tell each layer of ours the time of its matrix products, at best and as measured alone."""
    alone = {row["contender"]: row for row in made if row["kind"] == "products"}
    for row in made:
        products = alone.get(row["contender"] + PRODUCTS)
        if products is None:
            continue
        work = layer_contenders.multiply_adds(
            row["contender"], sizes, positions, row["pass"] == "training"
        )
        row["limit_ms"] = products["limit_ms"] = 1e3 * work / rate
        if "median_ms" in row and "median_ms" in products:
            row["of_limit"] = row["limit_ms"] / row["median_ms"]
            row["products_ms"] = products["median_ms"]
            row["of_products"] = products["median_ms"] / row["median_ms"]
            row["of_products_min"] = products["min_ms"] / row["min_ms"]
