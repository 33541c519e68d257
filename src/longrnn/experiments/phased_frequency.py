"""Phased LSTM on waves at any times: section 3.1 of the paper, numbers of its authors' notebook."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from longrnn.experiments.experiment import Case, Column, Experiment, Runs
from longrnn.experiments.phasing import BASELINES, PUBLISHED_BY
from longrnn.train import files, plot

CONDITIONS = ("standard", "high-resolution", "asynchronous")
PUBLISHED = {
    "phased-lstm": ("99.26 ± 0.23 %", "99.61 ± 0.28 %", "97.89 ± 0.57 %"),
    "lstm-absolute": ("89.34 ± 18.89 %", "51.72 ± 0.71 %", "69.02 ± 13.33 %"),
    "lstm": ("", "", ""),
    "input-norm-lstm-absolute": ("98.95 ± 0.38 %", "62.38 ± 18.63 %", "74.30 ± 17.73 %"),
    "batch-norm-lstm": ("", "", ""),
}
"""Accuracy after 70 epochs in each condition, of five seeds."""
TITLES = {
    "phased-lstm": "Phased LSTM",
    "lstm-absolute": "LSTM",
    "lstm": "LSTM, time differences",
    "input-norm-lstm-absolute": "BN-LSTM",
    "batch-norm-lstm": "LSTM, each step normalised",
}
"""Those that end in "absolute" are given the time stamps, as the authors' baselines were."""
OPTIONS = {
    "phased-lstm": {"period_init": [2.7183, 20.0855], "learn_on_ratio": True},  # exp(1), exp(3) ms
    "batch-norm-lstm": {"steps": 125},
}
ALWAYS_YES = 52.0
"""Per cent of the waves that whoever always says yes is right about."""


def _cases() -> Iterator[Case]:
    for network, accuracies in PUBLISHED.items():
        model = network.removesuffix("-absolute")
        for condition, accuracy in zip(CONDITIONS, accuracies, strict=True):
            yield Case(
                f"{condition}-{network}",
                f"{TITLES[network]}, {condition}",
                model,
                (accuracy, "70" if accuracy else ""),
                {"layer_options": OPTIONS.get(model, {})},
                {"sampling": condition, "absolute_times": network != model},
            )


def _draw(path: Path, runs: Runs) -> bool:
    """Bars by condition, each the mean of all seeds, with their standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(TITLES)
    for place, (network, title) in enumerate(TITLES.items()):
        own = [
            (case, folders)
            for case, folders in runs
            if case.name == f"{case.task_options['sampling']}-{network}"
        ]
        if not own:
            continue
        at = [CONDITIONS.index(case.task_options["sampling"]) + place * width for case, _ in own]
        scores = [[100 * _score(folder) for folder in folders] for _, folders in own]
        means = [statistics.mean(some) for some in scores]
        spreads = [statistics.stdev(some) if len(some) > 1 else 0.0 for some in scores]
        bars = axes.bar(at, means, width, yerr=spreads, color=f"C{place}", label=title)
        axes.bar_label(bars, fmt="%.1f", fontsize="small")
    axes.axhline(ALWAYS_YES, color="0.4", linestyle="--", linewidth=1, label="always yes")
    axes.set_xticks([k + 2 * width for k in range(len(CONDITIONS))], CONDITIONS)
    axes.set(xlim=(-0.2, 2.8), ylim=(40, 105), title="accuracy on held-out waves, %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plot.save(figure, path, None)
    return True


def _score(folder: Path) -> float:
    return float(files.read_json(folder / "summary.json")["test_score"])


EXPERIMENT = Experiment(
    name="phased-frequency",
    summary="Phased LSTM finds waves of 5 to 6 ms among samples taken at any times",
    reference=f"{PUBLISHED_BY}, section 3.1; numbers of its authors' notebook",
    task="async-frequency",
    settings={"hidden_size": 110, "batch_size": 32, "lr": 1e-3, "schedule": "none", "epochs": 70},
    minutes=600.0,
    columns=(
        Column("accuracy", lambda line: 100 * line["test_score"], "{:.2f} %".format),
        Column("epochs", lambda line: line["epochs"], "{:.0f}".format),
    ),
    cases=tuple(_cases()),
    layers=BASELINES,
    draw=_draw,
)
