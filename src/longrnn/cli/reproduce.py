"""`longrnn reproduce`: published experiments, and ours beside theirs."""

from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option


def reproduce(
    experiment: Annotated[str | None, typer.Argument(help="which; without it they are listed")] = (
        None
    ),
    seeds: Annotated[int, Option(help="times each case is run, with seeds 0, 1, ...")] = 1,
    budget: Annotated[
        float | None, Option(help="minutes of training a case; else what the experiment says")
    ] = None,
    only: Annotated[
        str, Option(help="only the case of this name, or those whose name holds it")
    ] = "",
    quick: Annotated[
        bool, Option("--quick", help="settings that show the result sooner than the published")
    ] = False,
    data: Annotated[
        str | None,
        Option("--data-dir", "--data", help="folder of full data, for digits and N-MNIST"),
    ] = None,
    output: Annotated[Path, Option(help="folder of results, pictures and runs")] = Path(
        "runs/reproduce"
    ),
) -> int:
    """Run a published experiment again and print our numbers beside the published ones.

    What is finished is not run again, and what was stopped goes on.
    """
    from rich.console import Console

    from longrnn import _checks, experiments
    from longrnn.bench import MEASUREMENTS

    console = Console()
    console.width = max(console.width, 120)  # a file has no width of its own
    summaries = {name: found.summary for name, found in experiments.EXPERIMENTS.items()}
    summaries |= {name: found.summary for name, found in MEASUREMENTS.items()}
    if experiment is None:
        for name, summary in summaries.items():
            console.print(f"{name:<18}{summary}", highlight=False)
        return 0
    _checks.check_choice("experiment", experiment, list(summaries))
    if experiment in MEASUREMENTS:
        if seeds != 1 or budget is not None or only or data is not None:
            raise ValueError(
                f"{experiment} takes --quick and --output alone: it measures and trains nothing"
            )
        _measure(MEASUREMENTS[experiment], output, quick, console)
        return 0
    chosen = experiments.EXPERIMENTS[experiment]
    done = experiments.reproduce(
        chosen,
        output,
        seeds=seeds,
        minutes=budget,
        only=only,
        quick=quick,
        data=data,
        console=console,
    )
    _show(chosen, done.lines, console)
    if done.stopped:
        console.print("stopped: the same command goes on", highlight=False)
    for path in (done.path, done.picture):
        if path is not None and path.exists():
            print(path)
    return 0


def _measure(measurement: Any, output: Path, quick: bool, console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    def tell(rows: list[dict[str, Any]]) -> None:
        if rows:
            ways = {row["contender"]: row["speed_up"] for row in rows if "speed_up" in row}
            told = ", ".join(f"{way} {times:.2f}" for way, times in ways.items())
            line = f"{rows[0]['case']}, {rows[0]['pass']}: times as fast as padding: {told}"
            console.print(line, soft_wrap=True, highlight=False)

    measurement.run(output, quick, tell)
    for title, headings, lines in measurement.tables(output):
        shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for index, heading in enumerate(headings):
            shown.add_column(heading, justify="right" if index else "left")
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
    for note in (measurement.reference, measurement.published):
        console.print(note, soft_wrap=True, highlight=False)
    for written in (*sorted(output.glob("mux-cpu-*.jsonl")), *measurement.draw(output)):
        print(written)


def _show(experiment: Any, lines: list[dict[str, Any]], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from longrnn.experiments import table

    headings, rows = table(experiment, lines)
    shown = Table(title=experiment.reference, title_justify="left", box=SIMPLE_HEAD, leading=1)
    for index, heading in enumerate(headings):
        shown.add_column(_below(heading), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*map(_below, row))
    console.print(shown)
    for note in sorted({line["note"] for line in lines if line["note"]}):
        console.print(f"note: {note}", soft_wrap=True, highlight=False)


def _below(cell: str) -> str:
    """What was published, below ours instead of beside it."""
    return cell.replace(" | ", "\n")
