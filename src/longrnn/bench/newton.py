"""The newton suite: non-linear cells at all steps at once, against loops, by sequence length."""

from collections.abc import Iterator
from dataclasses import dataclass

from longrnn.bench import newton_contenders
from longrnn.bench.contender import Contender
from longrnn.bench.measure import Budget, compare
from longrnn.bench.newton_contenders import BASELINES, GROUPS, NewtonCase
from longrnn.bench.results import Row, rows

_LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16)
_LONGEST = 1 << 18  # of the layers, on a GPU
_TOLERANCE = 1e-3
_PIECES = 64  # contenders are first timed on so small a part: time may grow faster than length
_LEAST = 64  # steps of that part at least


@dataclass(frozen=True)
class Line:
    """One line of the suite's programme: a cell over one sequence, forward or a training step."""

    group: str
    T: int
    training: bool

    def __str__(self) -> str:
        return f"{self.group}, B 1, T {self.T}, {GROUPS[self.group].n} units"


def cases(device: str) -> list[Line]:
    """What the suite measures on a device."""
    return [
        Line(group, T, training)
        for group in GROUPS
        for T in (_LENGTHS if device == "cpu" or group == "solve" else (*_LENGTHS, _LONGEST))
        for training in (True, False)
    ]


def contenders(device: str) -> list[Contender]:
    """Who runs in the suite: our layers and solver, PyTorch's, and pararnn-torch in its modes."""
    return [runner for cell in BASELINES for runner in newton_contenders.contenders(cell)]


def measure(
    line: Line, runners: list[Contender], budget: Budget, device: str, limits: dict[str, float]
) -> Iterator[list[Row]]:
    """Measure one cell and length, forward or a training step.

    Args:
        line: The case.
        runners: The contenders that are present.
        budget: How long it may take.
        device: "cpu" or "cuda".
        limits: Of the machine; not used, since what limits a step is that it waits for another.

    Yields:
        The rows. `us_per_step` is the time of one step, `iterations` how many linear recurrences
        a solver took.
    """
    group = GROUPS[line.group]
    case = NewtonCase.draw(group, line.T, line.training, device)
    steps = min(line.T, max(_LEAST, line.T // _PIECES))
    chosen = {contender.name for contender in newton_contenders.contenders(group.cell)}
    outcomes = compare(
        [runner for runner in runners if runner.name in chosen],
        case,
        _TOLERANCE,
        budget,
        device=device,
        shortened=(case.beginning(steps), line.T // steps),
    )
    made = rows(
        {
            "suite": "newton",
            "group": line.group,
            "case": str(line),
            "B": 1,
            "T": line.T,
            "m": group.m,
            "D": group.n,
            "dtype": "float32",
            "pass": "training" if line.training else "forward",
        },
        outcomes,
        baseline=BASELINES[group.cell],
        per_call={"steps_per_s": line.T},
    )
    for row in made:
        if row["status"] == "timed":
            row["us_per_step"] = 1e3 * row["median_ms"] / line.T
        if row["contender"] in case.iterations:
            row["iterations"] = case.iterations[row["contender"]]
    yield made
