"""How far a run is, and the learning rate there."""

import math
from typing import Any

from longrnn.train.settings import Settings

WARM_UP = 0.05


def progress(settings: Settings, steps: float, epochs: float, seconds: float) -> float:
    """Share of the run that is done; 1 or more ends it."""
    spent: list[tuple[float, Any]] = [
        (steps, settings.steps),
        (epochs, settings.epochs),
        (seconds / 60, settings.minutes),
    ]
    return max(done / limit for done, limit in spent if limit is not None)


def learning_rate_factor(schedule: str, done: float) -> float:
    """Linear warm-up over the first twentieth of the run, then constant or a cosine to zero.

    With "none" it is 1 throughout.

    >>> [round(learning_rate_factor("cosine", d), 3) for d in (0, 0.05, 0.525, 1)]
    [0.05, 1.0, 0.5, 0.0]
    """
    if schedule == "none":
        return 1.0
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    if schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP)))
