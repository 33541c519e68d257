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
from longrnn.tasks.digits import Digits
from longrnn.tasks.frequency import Frequency
from longrnn.tasks.memory import Memory
from longrnn.tasks.task import Sequences, Task
from longrnn.tasks.text import Text

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "adding": Adding,
    "frequency": Frequency,
    "memory": Memory,
    "text": Text,
}


def create_task(name: str, batch_size: int, seed: int = 0, **options: Any) -> Task:
    """Build a task by name; options that are None or False are left at their defaults.

    Raises:
        ValueError: If there is no such task, it has no such option, or its data are not right.
    """
    _checks.check_choice("task", name, list(TASKS))
    _checks.check_positive(batch_size=batch_size)
    known = list(inspect.signature(TASKS[name]).parameters)[2:]
    given = {key: value for key, value in options.items() if value not in (None, False)}
    for key, value in given.items():
        if key not in known:
            takes = ", ".join(known)
            raise ValueError(f"task {name} takes {takes}, not {key}; got {key}={value!r}")
    return TASKS[name](batch_size, seed, **given)


__all__ = [
    "TASKS",
    "Adding",
    "Digits",
    "Frequency",
    "Memory",
    "Sequences",
    "Task",
    "Text",
    "create_task",
]
