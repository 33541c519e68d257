"""Phased LSTM on handwritten digits, a pixel at a time: how soon it learns, beside an LSTM."""

from pathlib import Path

from longrnn.experiments.experiment import Case, Column, Experiment, Line, Runs
from longrnn.experiments.phasing import PUBLISHED_BY
from longrnn.train import plot
from longrnn.train.metrics import read_metrics

STEPS = (500, 1000, 2000)
WINDOW = 100
"""Steps whose batches are averaged, the last of them the one that is told."""
PIXELS = {"scaled": True}
PERIODS = [1.0, 403.43]
"""Steps, exp(0) to exp(6)."""


def training_scores(folder: Path) -> Line:
    """Accuracy on the training batches just before each of `STEPS` that the run has reached."""
    steps, scores = plot.column(read_metrics(folder / "metrics.jsonl"), "step", "score")
    told = {}
    for step in STEPS:
        if steps.max(initial=0) >= step:
            last = (steps > step - WINDOW) & (steps <= step)
            told[f"score_at_{step}"] = float(scores[last].mean())
    return told


def _at(step: int) -> Column:
    return Column(f"{step:,} steps", lambda line: line.get(f"score_at_{step}"), "{:.3f}".format)


def _draw(path: Path, runs: Runs) -> bool:
    """Accuracy on training batches over steps, a line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for index, (case, folders) in enumerate(runs):
        for seed, folder in enumerate(folders):
            steps, scores = plot.column(read_metrics(folder / "metrics.jsonl"), "step", "score")
            label = None if seed else case.title
            axes.plot(steps, plot.smooth(scores), color=f"C{index}", label=label)
    axes.set(xlabel="step", ylim=(0, 1), title="accuracy on training batches")
    axes.grid(alpha=0.3)
    axes.legend()
    plot.save(figure, path, None)
    return True


EXPERIMENT = Experiment(
    name="phased-digits",
    summary="Phased LSTM names a digit after 784 pixels, and learns it in few steps",
    reference=f"{PUBLISHED_BY}; numbers by eye from the curves of its TensorFlow program",
    task="digits",
    settings={
        **{"hidden_size": 32, "num_layers": 1, "pooling": "last", "batch_size": 256},
        **{"lr": 1e-3, "schedule": "none", "steps": STEPS[-1]},
    },
    minutes=600.0,
    columns=(
        *(_at(step) for step in STEPS),
        Column("held out", lambda line: line["test_score"], "{:.3f}".format),
        Column("steps/s", lambda line: line["steps_per_second"], "{:.2f}".format),
    ),
    cases=(
        Case(
            "phased-lstm",
            "Phased LSTM",
            "phased-lstm",
            ("≈ .80", "≈ .87", "≈ .90", "", "≈ 1.2 (Titan X)"),
            {"layer_options": {"period_init": PERIODS, "learn_on_ratio": True}},
            PIXELS,
        ),
        Case(
            "lstm",
            "LSTM",
            "lstm",
            (".1 to .49", ".1 to .49", ".1 to .49", "", ""),
            {"forget_bias": 1.0},
            PIXELS,
        ),
    ),
    measure=training_scores,
    draw=_draw,
)
