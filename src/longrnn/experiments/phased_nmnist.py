"""Phased LSTM on the events of N-MNIST: how many digits it names, and how few updates it takes."""

from pathlib import Path

from longrnn.experiments.experiment import Case, Column, Experiment, Runs
from longrnn.experiments.open_units import draw_open, open_units, updates_per_unit
from longrnn.experiments.phasing import BASELINES, PUBLISHED_BY
from longrnn.nn.phased_stack import PhasedStack
from longrnn.train import load_network, plot

PERIOD = 100.0
"""Milliseconds, of one saccade."""
NOTHING = ("", "")
"""Published numbers are of all 60,000 recordings, beside which no other can stand."""


def _draw(path: Path, runs: Runs) -> bool:
    """When the units of each phased network are open, below the events that it sees."""
    from matplotlib.figure import Figure

    loaded = [(case, *load_network(folder)) for case, (folder, *_) in runs]
    phased = [row for row in loaded if isinstance(row[1].recurrent, PhasedStack)]
    if not phased:
        return False
    figure = Figure(figsize=(9, 4.5 * len(phased)), layout="constrained")
    grid = figure.subplots(2 * len(phased), 1, sharex=True, height_ratios=(1, 4) * len(phased))
    for (case, network, task), above, below in zip(phased, grid[::2], grid[1::2], strict=True):
        (_, times), _ = task.test_set[0]
        above.hist(times, bins=150, color="0.6")
        above.set(ylabel="events")
        draw_open(below, network.recurrent, times)
        share = open_units(network.recurrent, times).double().mean().item()
        above.set_title(f"{case.title}: a unit is open at {share:.1%} of {len(times):,} events")
        below.set(xlabel="ms")
    plot.save(figure, path, phased[0][2].note)
    return True


EXPERIMENT = Experiment(
    name="phased-nmnist",
    summary="Phased LSTM names a digit from thousands of events, each unit at a few of them",
    reference=f"{PUBLISHED_BY}, section 3.3",
    task="nmnist",
    settings={"hidden_size": 110, "batch_size": 16, "epochs": 20},
    minutes=600.0,
    columns=(
        Column("accuracy", lambda line: line["test_score"], "{:.3f}".format),
        Column("updates a unit", lambda line: line["updates_per_unit"], "{:.0f}".format),
    ),
    cases=(
        Case(
            "phased-lstm",
            "Phased LSTM",
            "phased-lstm",
            NOTHING,
            {"layer_options": {"period_init": [PERIOD, PERIOD]}},
        ),
        Case("lstm", "LSTM", "lstm", NOTHING),
        Case("input-norm-lstm", "BN-LSTM", "input-norm-lstm", NOTHING),
    ),
    layers=BASELINES,
    measure=updates_per_unit,
    draw=_draw,
)
