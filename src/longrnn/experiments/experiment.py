"""What a published experiment is: its cases, what was published of them, and when they are done."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        goal: Updates a sequence that are few enough to show what was published; None: any.
    """

    name: str
    title: str
    model: str
    published: tuple[str, ...]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    goal: float | None = None


def never(case: Case, evaluations: list[Line]) -> bool:
    """Train until the time is up."""
    return False


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
        shown: Tells from the evaluations of a case whether more training would show no more.
        draw: Draws a picture, to a path, of the cases with their run folders; tells whether
            there was anything to be drawn.
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
    shown: Callable[[Case, list[Line]], bool] = never
    draw: Callable[[Path, list[tuple[Case, Path]]], bool] | None = None
