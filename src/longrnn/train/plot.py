"""The pictures of a run and of several."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from longrnn.train import files

Lines = list[dict[str, Any]]


def plot_curve(path: Path, lines: Lines, score_name: str, note: str | None) -> None:
    """Draw loss and score of one run over its steps, training and held-out data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("loss", "score"), ("loss", score_name), strict=True
    ):
        steps, values = column(lines, "step", name)
        axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=1)
        axes.plot(steps, smooth(values), color="tab:blue", label="training batches")
        steps, values = column(lines, "step", f"test_{name}")
        axes.plot(steps, values, "o-", color="tab:orange", label="held out")
        axes.set(xlabel="step", title=label)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path, note)


def plot_comparison(path: Path, runs: dict[str, Lines], rows: Lines) -> None:
    """Draw the held-out score of several runs over training time, and their speeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, (model, lines) in enumerate(runs.items()):
        seconds, scores = column(lines, "seconds", "score")
        curve.plot(seconds, smooth(scores), color=f"C{index}", alpha=0.4)
        curve.plot(*column(lines, "seconds", "test_score"), "o-", color=f"C{index}", label=model)
    title = f"{rows[0]['score_name']}: held out (dots) and training batches"
    curve.set(xlabel="seconds of training", title=title)
    curve.set_xlim(left=0)
    curve.grid(alpha=0.3)
    curve.legend()
    for index, row in enumerate(rows):
        speed = row["steps_per_second"]
        bars.bar(index, speed, color=f"C{index}")
        bars.text(index, speed, f"{row['speed_up']:.2f}×", ha="center", va="bottom")
    bars.set_xticks(range(len(rows)), [row["model"] for row in rows])
    bars.set(title="training steps per second")
    bars.margins(y=0.12)
    save(figure, path, rows[0]["note"])


def column(lines: Lines, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """What lines say of `x` and `y`, where they tell `y`."""
    there = [(line[x], line[y]) for line in lines if y in line]
    return tuple(np.array(there, dtype=float).reshape(-1, 2).T)


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a twentieth of the run, ending at each point."""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def save(figure: Any, path: Path, note: str | None) -> None:
    """Write a figure as PNG, with what its reader must know."""
    figure.supxlabel(note or "", fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    files.write_atomically(path, image.getvalue())
