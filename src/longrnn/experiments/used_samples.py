"""Pictures of which samples of a sequence a trained network used."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longrnn.experiments.experiment import Runs
from longrnn.tasks import Task
from longrnn.train import files, load_network

Mark = Callable[[Any, Task, np.ndarray, np.ndarray], None]
"""Draws on axes, for a task, the samples (T, m) of a sequence and which were used (T,)."""


def draw(path: Path, runs: Runs, mark: Mark, examples: Sequence[int]) -> bool:
    """Draw sequences of the held-out data, one a column, for each network that skips, one a row.

    Args:
        path: Where to.
        runs: Cases with the run folders of their networks; the first seed's is drawn.
        mark: Draws one sequence.
        examples: Which of the held-out sequences.

    Returns:
        Whether any of the networks skips.
    """
    from matplotlib.figure import Figure

    skipping = [(case, *load_network(folder)) for case, (folder, *_) in runs]
    rows = []
    for case, network, task in skipping:
        inputs = torch.stack([task.test_set[i][0] for i in examples])
        with torch.no_grad():
            updates = network(inputs).updates
        if updates is not None:
            rows.append((case, task, inputs.numpy(), updates[..., 0].numpy() > 0))
    if not rows:
        return False
    columns = len(examples)
    figure = Figure(figsize=(12, 2.4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (case, task, sequences, used), row in zip(rows, grid, strict=True):
        for axes, samples, chosen in zip(row, sequences, used, strict=True):
            mark(axes, task, samples, chosen)
            axes.set_title(f"{case.title}: {chosen.sum()} of {len(chosen)}", fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    files.write_atomically(path, image.getvalue())
    return True


def mark_line(axes: Any, times: np.ndarray, values: np.ndarray, used: np.ndarray) -> None:
    """Draw samples on a line, used ones filled."""
    axes.plot(times, values, color="0.75", linewidth=1, zorder=1)
    axes.plot(times[~used], values[~used], "o", color="0.75", markersize=3, mfc="white", zorder=2)
    axes.plot(times[used], values[used], "o", color="tab:red", markersize=4, zorder=3)
