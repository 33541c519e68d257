"""Skip RNN on frequency discrimination: table 3 of the paper, in its appendix A.1."""

from pathlib import Path
from typing import Any

import numpy as np

from longrnn.experiments import used_samples
from longrnn.experiments.experiment import Case, Column, Experiment, Runs
from longrnn.experiments.skipping import MACS, QUICK, REFERENCE, SETTINGS, settled
from longrnn.tasks import Task

PERIODS = (1.0, 0.5)
PUBLISHED = {
    ("skip-lstm", "1e-4"): ("12.7 ± 0.5", "19.9 ± 1.5"),
    ("skip-gru", "1e-4"): ("23.5 ± 6.2", "22.5 ± 2.1"),
    ("skip-lstm", "1e-5"): ("47.4 ± 14.1", "50.7 ± 16.8"),
    ("skip-gru", "1e-5"): ("51.9 ± 10.2", "54.2 ± 4.4"),
    ("skip-lstm", "0"): ("55.5 ± 16.9", "147.9 ± 27.0"),
    ("skip-gru", "0"): ("73.7 ± 17.9", "167.0 ± 18.3"),
    ("lstm", ""): ("100.0", "200.0"),
    ("gru", ""): ("100.0", "200.0"),
}
"""Updates of a sequence at each sampling period, by model and λ; all of them solved."""


def _cases() -> tuple[Case, ...]:
    cases = []
    for (model, cost), published in PUBLISHED.items():
        name, title = model, model.replace("skip-", "skip ").upper().replace("SKIP", "Skip")
        settings = {}
        if cost:
            name, title = f"{model}-{cost}", f"{title}, λ = {cost}"
            settings["cost_per_sample"] = float(cost)
        for period, updates in zip(PERIODS, published, strict=True):
            cases.append(
                Case(
                    f"{name}-{period:g}ms",
                    f"{title}, {period:g} ms",
                    model,
                    ("> 99 %", updates, ""),
                    settings,
                    {"sampling_period": period},
                    quick={} if period == 1.0 else {"lr": 4e-4},  # 200 steps; 5e-4 diverged
                    goal=25.0 if cost == "1e-4" else None,
                )
            )
    return tuple(cases)


def _mark(axes: Any, task: Task, samples: np.ndarray, used: np.ndarray) -> None:
    times = task.sampling_period * np.arange(len(samples))  # type: ignore[attr-defined]
    used_samples.mark_line(axes, times, samples[:, 0], used)
    axes.set(ylim=(-1.2, 1.2), xlabel="ms")


def _draw(path: Path, runs: Runs) -> bool:
    return used_samples.draw(path, runs, _mark, examples=[0, 1])  # a wave of each class


EXPERIMENT = Experiment(
    name="skip-frequency",
    summary="Skip RNN tells waves of 5 to 6 ms from others, however densely they are sampled",
    reference=f"{REFERENCE}, table 3",
    task="frequency",
    settings=SETTINGS,
    quick=QUICK,
    minutes=120.0,
    columns=(
        Column("accuracy", lambda line: 100 * line["test_score"], "{:.2f} %".format),
        Column("updates", lambda line: line["test_updates"], "{:.1f}".format),
        MACS,
    ),
    cases=_cases(),
    shown=settled,
    draw=_draw,
)
