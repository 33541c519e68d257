"""What the three experiments of the Skip RNN paper share."""

import math
from typing import Any

from longrnn.experiments.experiment import Case, Column, Line

REFERENCE = (
    "Campos et al., Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks, "
    "ICLR 2018, https://arxiv.org/abs/1708.06834"
)
SETTINGS: dict[str, Any] = {
    "hidden_size": 110,
    "num_layers": 1,
    "pooling": "last",
    "batch_size": 256,
    "lr": 1e-4,
    "schedule": "none",
    "grad_clip": 1.0,
}
QUICK: dict[str, Any] = {"lr": 1e-3, "schedule": "cosine"}
MACS = Column("MAC", lambda line: line["test_macs"], "{:.2e}".format)
WINDOW = 5


def settled(case: Case, evaluations: list[Line]) -> bool:
    """Whether the task stays solved with few enough updates, which no longer become fewer.

    The last five evaluations are all solved, within the goal, and with at least 99 % of the
    updates of the five before them.
    """
    last, before = evaluations[-WINDOW:], evaluations[-2 * WINDOW : -WINDOW]
    goal = math.inf if case.goal is None else case.goal
    if len(before) < WINDOW:
        return False
    if not all(line["test_solved"] and line["test_updates"] <= goal for line in last):
        return False
    used, used_before = (sum(line["test_updates"] for line in some) for some in (last, before))
    return used >= 0.99 * used_before
