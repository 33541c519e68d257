"""Runs the cases of an experiment, one after another, and goes on where it was stopped."""

import datetime
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from longrnn import _checks
from longrnn.experiments import results
from longrnn.experiments.experiment import Case, Experiment, Line, Runs
from longrnn.nn.registry import also_known
from longrnn.train import Settings, create_settings, train
from longrnn.train.metrics import read_metrics


class Reproduced(NamedTuple):
    """What has been found, and where it is written."""

    lines: list[Line]
    path: Path
    picture: Path | None
    stopped: bool


def reproduce(
    experiment: Experiment,
    output: Path,
    *,
    seeds: int = 1,
    minutes: float | None = None,
    only: str = "",
    quick: bool = False,
    data: str | None = None,
    console: Console | None = None,
) -> Reproduced:
    """Run an experiment; a run that is finished is not done again, one that was stopped goes on.

    Args:
        experiment: What to run.
        output: A folder for its result lines, `reproduce-NAME.jsonl`, its picture, and the run
            folders, below `NAME`.
        seeds: How many times each case is run: with seeds 0, 1, ...
        minutes: Training time a run; the experiment's own if None.
        only: Run the case of this name or, if there is none, those whose name holds this.
        quick: Take the experiment's quick settings; these runs are kept apart.
        data: What the task's option `data` names.
        console: Where progress is shown.

    Returns:
        The lines of what was asked for, those of earlier calls included but not those of runs
        that were stopped; where they are; the picture, if there is one, of all cases that are
        done; and whether a run was stopped.

    Raises:
        ValueError: If a setting is not legal or there is no such case; as `train`.
    """
    _checks.check_positive(seeds=seeds)
    console = console or Console()
    named = [case for case in experiment.cases if case.name == only]
    chosen = named or [case for case in experiment.cases if only in case.name]
    if not chosen:
        names = ", ".join(case.name for case in experiment.cases)
        raise ValueError(f"only must be part of one of {names}; got {only!r}")
    if quick and not experiment.quick:
        raise ValueError(f"quick must be for an experiment that has it, got {experiment.name}")
    path = output / f"reproduce-{experiment.name}.jsonl"

    def folder(case: Case, seed: int) -> Path:
        return output / experiment.name / f"{case.name}{'-quick' if quick else ''}-seed{seed}"

    with also_known(experiment.layers):
        plans = list(_plans(experiment, chosen, seeds, minutes, quick, data))
        for case, settings in plans:
            if results.find(results.read(path), case.name, settings) is None:
                own = folder(case, settings.seed)
                line = _run(experiment, case, settings, own, console) | {"quick": quick}
                if line["interrupted"]:
                    break
                results.put(path, line | experiment.measure(own))
        lines = results.read(path)
        found = [results.find(lines, case.name, settings) for case, settings in plans]
        runs = [(case, [folder(case, seed) for seed in range(seeds)]) for case in experiment.cases]
        picture = _drawn(experiment, runs, output)
    done = [line for line in found if line is not None]
    return Reproduced(done, path, picture, stopped=len(done) < len(plans))


def _plans(
    experiment: Experiment,
    cases: list[Case],
    seeds: int,
    minutes: float | None,
    quick: bool,
    data: str | None,
) -> Iterator[tuple[Case, Settings]]:
    """Every run, with all its settings checked before the first one starts."""
    for case in cases:
        for seed in range(seeds):
            faster = experiment.quick | case.quick if quick else {}
            given = experiment.settings | faster | case.settings
            given |= {"seed": seed, "minutes": experiment.minutes if minutes is None else minutes}
            given["task_options"] = case.task_options | {"data": data}
            yield case, create_settings(experiment.task, case.model, **given)


def _run(
    experiment: Experiment, case: Case, settings: Settings, folder: Path, console: Console
) -> Line:
    begun = (folder / "config.json").exists()
    console.print(f"{case.title}, seed {settings.seed}", highlight=False)
    shown = functools.partial(experiment.shown, case)
    summary = train(settings, folder, begun, console, shown)
    evaluations = [e for e in read_metrics(folder / "metrics.jsonl") if "test_loss" in e]
    return {
        "experiment": experiment.name,
        "case": case.name,
        "date": datetime.date.today().isoformat(),
        "settings": results.identity(settings),
        "minutes": settings.minutes,
        "shown": shown(evaluations),
        "solved_after": next((e["seconds"] for e in evaluations if e["test_solved"]), None),
        **summary,
    }


def _drawn(experiment: Experiment, runs: Runs, output: Path) -> Path | None:
    """Draw the runs that are done; return where, None if there is nothing to be drawn."""
    done = [(case, [f for f in own if (f / "summary.json").exists()]) for case, own in runs]
    runs = [(case, own) for case, own in done if own]
    path = output / f"reproduce-{experiment.name}.png"
    if experiment.draw is None or not runs or not experiment.draw(path, runs):
        return None
    return path
