"""Skip RNN on the adding task: table 1 of the paper.

The paper's code charges λ beside half the squared error. Ours is the whole, with λ twice.
"""

from pathlib import Path
from typing import Any

import numpy as np

from longrnn.experiments import used_samples
from longrnn.experiments.experiment import Case, Column, Experiment, Runs
from longrnn.experiments.skipping import MACS, QUICK, REFERENCE, SETTINGS, settled
from longrnn.tasks import Task

STEPS = 50
HALVES = 2


def _case(
    name: str, title: str, model: str, published: str, goal: float | None = None, **settings: Any
) -> Case:
    return Case(name, title, model, tuple(published.split(" | ")), settings, goal=goal)


def _mark(axes: Any, task: Task, samples: np.ndarray, used: np.ndarray) -> None:
    steps = np.arange(len(samples))
    for marked in steps[samples[:, 1] == 1]:
        axes.axvline(marked, color="tab:blue", alpha=0.3, linewidth=5)
    used_samples.mark_line(axes, steps, samples[:, 0], used)
    axes.set(ylim=(-0.6, 0.6), xlabel="step (blue: the two marked)")


def _draw(path: Path, runs: Runs) -> bool:
    return used_samples.draw(path, runs, _mark, examples=[0, 1])


EXPERIMENT = Experiment(
    name="skip-adding",
    summary="Skip RNN adds two marked numbers of 50 and reads about half of them",
    reference=f"{REFERENCE}, table 1",
    task="adding",
    settings=SETTINGS,
    quick=QUICK,
    minutes=60.0,
    columns=(
        Column("MSE", lambda line: line["test_score"], "{:.1e}".format),
        Column("updates", lambda line: 100 * line["test_updates"] / STEPS, "{:.1f} %".format),
        MACS,
    ),
    cases=(
        _case(
            "skip-lstm-1e-5",
            "Skip LSTM, λ = 1e-5",
            "skip-lstm",
            "solved | 53.9 ± 2.1 % | 1.33e+06",
            goal=0.639 * STEPS,
            cost_per_sample=HALVES * 1e-5,
        ),
        _case(
            "skip-gru-1e-5",
            "Skip GRU, λ = 1e-5",
            "skip-gru",
            "solved | 50.7 ± 2.6 % | 9.40e+05",
            goal=0.607 * STEPS,
            cost_per_sample=HALVES * 1e-5,
        ),
        _case("lstm", "LSTM", "lstm", "solved | 100.0 % | 2.46e+06"),
        _case("gru", "GRU", "gru", "solved | 100.0 % | 1.85e+06"),
        _case("skip-lstm-0", "Skip LSTM, λ = 0", "skip-lstm", "solved | 81.1 ± 3.6 % | 2.00e+06"),
        _case("skip-gru-0", "Skip GRU, λ = 0", "skip-gru", "solved | 97.9 ± 3.2 % | 1.81e+06"),
        _case(
            "lstm-skip-0.2",
            "LSTM, p = 0.2",
            "lstm",
            "not solved | 80.0 ± 0.1 % | 1.97e+06",
            random_skip=0.2,
        ),
        _case(
            "lstm-skip-0.5",
            "LSTM, p = 0.5",
            "lstm",
            "not solved | 50.1 ± 0.1 % | 1.23e+06",
            random_skip=0.5,
        ),
        _case(
            "gru-skip-0.02",
            "GRU, p = 0.02",
            "gru",
            "not solved | 98.0 % | 1.81e+06",
            random_skip=0.02,
        ),
        _case(
            "gru-skip-0.5",
            "GRU, p = 0.5",
            "gru",
            "not solved | 49.9 ± 0.6 % | 9.25e+05",
            random_skip=0.5,
        ),
    ),
    shown=settled,
    draw=_draw,
)
