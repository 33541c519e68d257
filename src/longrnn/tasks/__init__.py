"""Tasks to train on: each draws or loads (input, target) pairs and scores an output.

>>> task = create_task("memory", batch_size=8, length=100)
>>> symbols, minus = task.train_set[0]
>>> symbols.shape
torch.Size([100])
"""

import inspect
from typing import Any

from longrnn import _checks
from longrnn.tasks.adding import Adding
from longrnn.tasks.async_frequency import AsyncFrequency
from longrnn.tasks.digits import Digits
from longrnn.tasks.events_forecast import EventsForecast
from longrnn.tasks.frequency import Frequency
from longrnn.tasks.memory import Memory
from longrnn.tasks.nmnist import NMNIST
from longrnn.tasks.spoken_digits import SpokenDigits
from longrnn.tasks.task import Sequences, Task
from longrnn.tasks.text import Text
from longrnn.tasks.two_waves import TwoWaves

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "adding": Adding,
    "frequency": Frequency,
    "memory": Memory,
    "text": Text,
    "async-frequency": AsyncFrequency,
    "two-waves": TwoWaves,
    "nmnist": NMNIST,
    "events-forecast": EventsForecast,
    "spoken-digits": SpokenDigits,
}


def create_task(name: str, batch_size: int, seed: int = 0, **options: Any) -> Task:
    """Build a task by name; options that are None or False are left at their defaults.

    Raises:
        ValueError: If there is no such task, it has no such option, or its data are not right.
    """
    _checks.check_choice("task", name, list(TASKS))
    _checks.check_positive(batch_size=batch_size)
    known = list(inspect.signature(TASKS[name]).parameters)[2:]
    given = {key: value for key, value in options.items() if not (value is None or value is False)}
    for key, value in given.items():
        if key not in known:
            takes = f"{', '.join(known)}, not {key};" if known else "no options,"
            raise ValueError(f"task {name} takes {takes} got {key}={value!r}")
    return TASKS[name](batch_size, seed, **given)


__all__ = [
    "NMNIST",
    "TASKS",
    "Adding",
    "AsyncFrequency",
    "Digits",
    "EventsForecast",
    "Frequency",
    "Memory",
    "Sequences",
    "SpokenDigits",
    "Task",
    "Text",
    "TwoWaves",
    "create_task",
]
