"""The mux suite: sequences of many lengths, padded, in buckets, multiplexed and packed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from longrnn.batching import LengthBucketBatchSampler, plan_buckets
from longrnn.bench import memory, mux_case
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget, compare
from longrnn.bench.mux_case import LOOP, MuxCase, Way
from longrnn.bench.results import Row, rows
from longrnn.nn import models

BASELINE = "pad"
WAYS: dict[str, tuple[Way, str]] = {
    "pad": (mux_case.pad, "peer"),
    "pad, step by step": (mux_case.stepwise, "peer"),
    "pad to the longest": (mux_case.longest, "peer"),
    "lengths": (mux_case.told, "ours"),
    "pack_padded_sequence": (mux_case.pack_padded, "peer"),
    "buckets": (mux_case.buckets, "ours"),
    "mux": (mux_case.buckets, "ours"),
    "packed": (mux_case.packed, "ours"),
}
_TOLERANCE = 1e-3
_NUM_BUCKETS = 6
_ORIGINAL = (1, 21, 41, 61, 81, 100)
_PIECES = 8  # what a probed contender is timed on first: sequences of an eighth of the length
_NOTEBOOK = ("lstm", LOOP, "sru")


@dataclass(frozen=True)
class Line:
    """One line of the suite's programme.

    Attributes:
        group: "notebook", "uniform" or "lognormal".
        layer: A layer of `longrnn.models()`, or a loop over a cell.
        batch_size: Sequences in a batch.
        count: Sequences in all.
        sizes: Input size, hidden size and number of layers.
        planned: Whether the buckets are planned, and not those of the original.
    """

    group: str
    layer: str
    batch_size: int
    count: int
    sizes: tuple[int, int, int]
    planned: bool = True

    def __str__(self) -> str:
        m, n, _ = self.sizes
        kind = "optimal" if self.planned else "the original's"
        return (
            f"{self.layer}, {self.group}, batches of {self.batch_size}, {m} to {n}, {kind} buckets"
        )

    def draw(self, training: bool, device: str = "cpu") -> MuxCase:
        """Draw the sequences; the longest that there may be is always among them."""
        generator = torch.Generator().manual_seed(1337)
        if self.group == "lognormal":
            steps = torch.empty(self.count).log_normal_(6.0, 1.0, generator=generator)
            lengths = steps.round().clamp(1, 5000).long()
            lengths[0] = 5000
        else:
            lengths = torch.randint(1, 101, (self.count,), generator=generator)
            lengths[0] = 100
        width = self.sizes[0]
        sequences = tuple(torch.randn(n, width, generator=generator) for n in lengths.tolist())
        chosen = plan_buckets(lengths, _NUM_BUCKETS) if self.planned else _ORIGINAL
        return MuxCase(
            self.layer, sequences, self.batch_size, tuple(chosen), self.sizes, training, device
        )


def cases(device: str) -> list[Line]:
    """What the suite measures on a device."""
    notebook = [
        Line("notebook", layer, 1, 100, (10, 10, 1), planned)
        for layer in _NOTEBOOK
        for planned in (False, True)
    ]
    return [
        *notebook,
        *(Line("uniform", layer, 32, 512, (128, 128, 1)) for layer in models()),
        *(Line("lognormal", layer, 8, 64, (64, 64, 1)) for layer in models()),
    ]


def contenders(device: str) -> list[Contender]:
    """The ways to batch, each a contender; loops of calls on a GPU, to be compared with graphs."""
    return [contender(name) for name in WAYS if device == "cuda" or name != "pad, step by step"]


def contender(name: str) -> Contender:
    """One way to batch."""
    way, kind = WAYS[name]
    return Contender(
        name,
        lambda case: mux_case.ready(case, way, multiplexed=name == "mux"),
        kind=kind,
        package="torch" if kind == "peer" else "longrnn",
        layout="(T, B, m)",
        # Slow ones: on a CPU the time of packed sequences grows with the square of T.
        probe=name in ("pack_padded_sequence", "pad, step by step"),
    )


def measure(
    line: Line,
    runners: list[Contender],
    budget: Budget,
    device: str,
    limits: dict[str, float],
) -> Iterator[list[Row]]:
    """Measure one layer on one distribution of lengths: all sequences, forward and in training.

    Args:
        line: The case.
        runners: The ways.
        budget: Of each of the two passes.
        device: "cpu" or "cuda".
        limits: Not used: the limit here is padding, and `of_ideal` tells how near it is.

    Yields:
        The rows of each pass.
    """
    for training in (False, True):
        case = line.draw(training, device)
        long = case.buckets[-1] > 1000
        outcomes = compare(
            runners,
            case,
            _TOLERANCE,
            budget,
            device=device,
            shortened=(case.shorter(_PIECES), _PIECES**2) if long else None,
        )
        m, n, layers = line.sizes
        made = rows(
            {
                "suite": "mux",
                "group": line.group,
                "case": str(line),
                "layer": line.layer,
                "B": line.batch_size,
                "T": case.buckets[-1],
                "m": m,
                "D": n,
                "num_layers": layers,
                "dtype": "float32",
                "pass": "training" if training else "forward",
                "buckets": list(case.buckets),
                "valid_steps": int(case.lengths.sum()),
                "ideal": case.ideal,
                "seconds": budget.seconds,
            },
            outcomes,
            baseline=BASELINE,
        )
        for row in made:
            _add_padding(row, case)
            if training and row["status"] == "timed":
                task = [str(line), row["contender"], device]
                row["peak_mb"] = memory.growth_elsewhere(__name__, task)
        yield made


def growth(task: list) -> float:
    """Megabytes by which a way's largest batch in training grows the memory in use."""
    name, way, device = task
    line = next(c for c in cases(device) if str(c) == name)
    case = line.draw(True, device)
    few = tuple(s[:2] for s in case.sequences[: case.batch_size])
    tiny = replace(case, sequences=few, buckets=(2,))  # nor padded: pages that it took would count
    largest = replace(
        contender(way),
        prepare=lambda case: mux_case.ready_largest(case, WAYS[way][0], multiplexed=way == "mux"),
    )
    return memory.growth_of_call(largest, case, tiny, device)


def _add_padding(row: Row, case: MuxCase) -> None:
    """What a way runs besides the valid steps, and how near it comes to the ideal speed-up."""
    if row["status"] != "timed":
        return
    way, _ = WAYS[row["contender"]]
    row["padded_steps"] = mux_case.steps_run(case, way) - row["valid_steps"]
    if row["contender"] == "mux":
        row["padded_steps"], row["way"] = case.stats["padded_steps"], case.stats["way"]
    if "ratio" in row:
        row["speed_up"] = 1 / row["ratio"]
        if row["contender"] in ("buckets", "mux"):
            row["of_ideal"] = row["speed_up"] / row["ideal"]
    if row["contender"] == "mux":
        row["sampler_share"] = _sampler_seconds(case) / (row["median_ms"] / 1e3)


def _sampler_seconds(case: MuxCase) -> float:
    """Seconds that the sampler takes for the batches of the case."""
    start = time.perf_counter()
    sampler = LengthBucketBatchSampler(case.lengths, case.batch_size, case.buckets)
    epochs = 10
    for _ in range(epochs):
        for _ in sampler:
            pass
    return (time.perf_counter() - start) / epochs
