"""Skip RNN on handwritten digits, a pixel at a time: table 2 of the paper."""

from pathlib import Path
from typing import Any

import numpy as np

from longrnn.experiments import used_samples
from longrnn.experiments.experiment import Case, Column, Experiment, Runs
from longrnn.experiments.skipping import MACS, QUICK, REFERENCE, SETTINGS
from longrnn.tasks import Task


def _case(name: str, title: str, model: str, published: str, **settings: Any) -> Case:
    return Case(name, title, model, tuple(published.split(" | ")), settings)


def _mark(axes: Any, task: Task, samples: np.ndarray, used: np.ndarray) -> None:
    side = int(len(samples) ** 0.5)
    marks = np.zeros((side, side, 4))
    marks[used.reshape(side, side)] = (0.84, 0.15, 0.16, 0.6)
    axes.imshow(samples.reshape(side, side), cmap="gray")
    axes.imshow(marks)
    axes.set(xticks=[], yticks=[])


def _draw(path: Path, runs: Runs) -> bool:
    return used_samples.draw(path, runs, _mark, examples=[0, 150, 350, 450])


EXPERIMENT = Experiment(
    name="skip-digits",
    summary="Skip RNN names a digit after half of its 784 pixels",
    reference=f"{REFERENCE}, table 2",
    task="digits",
    settings=SETTINGS,
    quick=QUICK,
    minutes=240.0,
    columns=(
        Column("accuracy", lambda line: line["test_score"], "{:.3f}".format),
        Column("updates", lambda line: line["test_updates"], "{:.1f}".format),
        MACS,
    ),
    cases=(
        _case(
            "skip-lstm-1e-4",
            "Skip LSTM, λ = 1e-4",
            "skip-lstm",
            ".973 ± .002 | 379.38 ± 33.09 | 1.86e+07",
            cost_per_sample=1e-4,
        ),
        _case("lstm", "LSTM", "lstm", ".910 ± .045 | 784 | 3.83e+07", forget_bias=1.0),
        _case(
            "skip-gru-1e-4",
            "Skip GRU, λ = 1e-4",
            "skip-gru",
            ".976 ± .003 | 392.62 ± 26.48 | 1.44e+07",
            cost_per_sample=1e-4,
        ),
        _case("gru", "GRU", "gru", ".968 ± .013 | 784 | 2.87e+07"),
        _case(
            "lstm-skip-0.5",
            "LSTM, p = 0.5",
            "lstm",
            ".893 ± .003 | 392.03 ± 0.05 | 1.91e+07",
            random_skip=0.5,
            forget_bias=1.0,
        ),
        _case(
            "gru-skip-0.5",
            "GRU, p = 0.5",
            "gru",
            ".912 ± .004 | 391.86 ± 0.14 | 1.44e+07",
            random_skip=0.5,
        ),
    ),
    draw=_draw,
)
