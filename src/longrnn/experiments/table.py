"""Ours beside theirs: a table as rows of text."""

import statistics

from longrnn.experiments.experiment import Case, Column, Experiment, Line


def table(experiment: Experiment, lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of an experiment's table.

    A cell is "ours | published"; what has not been run is left out. Ours is the mean over seeds,
    with the standard deviation if there are several.
    """
    columns = [column.heading for column in experiment.columns]
    headings = ["ours | published", *columns, "solved", "trained", "ms/seq"]
    rows = []
    for case in experiment.cases:
        for quick in (False, True):
            own = [x for x in lines if (x["case"], x["quick"]) == (case.name, quick)]
            if own:
                rows.append(_row(experiment, case, quick, own))
    return headings, rows


def _row(experiment: Experiment, case: Case, quick: bool, lines: list[Line]) -> list[str]:
    cells = [f"{case.title}{' (quick)' if quick else ''}"]
    for column, published in zip(experiment.columns, case.published, strict=True):
        ours = _ours(column, lines)
        cells.append(f"{ours} | {published}" if published else ours)
    solved = [line["solved_after"] for line in lines]
    cells.append("" if None in solved else _minutes(solved))
    cells.append(_minutes([line["seconds"] for line in lines]))
    cells.append(f"{statistics.mean(1e3 * line['test_seconds'] for line in lines):.2f}")
    return cells


def _ours(column: Column, lines: list[Line]) -> str:
    values = [v for v in map(column.value, lines) if v is not None]
    if not values:
        return ""
    mean = column.show(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {column.show(statistics.stdev(values))}"


def _minutes(seconds: list[float]) -> str:
    return f"{statistics.mean(seconds) / 60:.1f} min"
