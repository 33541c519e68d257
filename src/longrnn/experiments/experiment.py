"""What a published experiment is: its cases, what was published of them, and when they are done."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

Line = dict[str, Any]
"""What is known of one finished run: one line of JSON."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A number that was published, to be put beside ours.

    Args:
        heading: What it is.
        value: Reads our number from a line.
        show: Prints it.
    """

    heading: str
    value: Callable[[Line], float | None]
    show: Callable[[float], str] = "{:.3g}".format


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a published table.

    Args:
        name: A short name, for files and `--only`.
        title: What the table calls it.
        model: The layer.
        published: What was published, one text a column; "" where nothing was.
        settings: Settings of the training program, where they differ from the experiment's.
        task_options: The same of the task's options.
        quick: What the experiment's quick settings are for this case, where they differ.
        goal: Updates a sequence that are few enough to show what was published; None: any.
    """

    name: str
    title: str
    model: str
    published: tuple[str, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    quick: dict[str, Any] = dataclasses.field(default_factory=dict)
    goal: float | None = None


Runs = list[tuple[Case, list[Path]]]
"""Cases with their run folders, one a seed."""


def never(case: Case, evaluations: list[Line]) -> bool:
    """Train until the time is up."""
    return False


def nothing(folder: Path) -> Line:
    """Find out no more than the training program tells."""
    return {}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A published table, and how to run it again.

    Args:
        name: What `longrnn reproduce` calls it.
        summary: One line that says what it shows.
        reference: Where it was published.
        task: The task.
        settings: Settings of the training program for every case, as published.
        minutes: Training time a case, where none is asked for.
        columns: What is compared.
        cases: The rows.
        quick: Settings that show the result sooner than the published ones, for those who ask.
        layers: Layers that its cases name besides those of `longrnn.models()`.
        shown: Tells from the evaluations of a case whether more training would show no more.
        measure: Finds out more of a finished run, from its folder, for its line.
        draw: Draws a picture, to a path, of the runs; tells whether there was anything to be drawn.
    """

    name: str
    summary: str
    reference: str
    task: str
    settings: dict[str, Any]
    minutes: float
    columns: tuple[Column, ...]
    cases: tuple[Case, ...]
    quick: dict[str, Any] = dataclasses.field(default_factory=dict)
    layers: dict[str, Callable[..., nn.Module]] = dataclasses.field(default_factory=dict)
    shown: Callable[[Case, list[Line]], bool] = never
    measure: Callable[[Path], Line] = nothing
    draw: Callable[[Path, Runs], bool] | None = None
