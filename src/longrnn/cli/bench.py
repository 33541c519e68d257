"""`longrnn bench`: measure, and draw what was measured."""

from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    suite: Annotated[
        str,
        typer.Argument(
            help="recurrence, layers, streaming, skip, phased, block, compose, newton, mux, or all."
        ),
    ] = "all",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads a contender may use; 0: torch's.")] = 0,
    seconds: Annotated[float, typer.Option(help="Time a case and pass, all contenders.")] = 20.0,
    cap: Annotated[float, typer.Option(help="Longest call, in seconds, that is timed.")] = 5.0,
    only: Annotated[str, typer.Option(help="Only cases whose group or name holds this.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of JSON lines and plots.")] = Path(
        "benchmarks/results"
    ),
    readme: Annotated[
        Path | None,
        typer.Option(help="Time nothing; redraw this file's tables, and the plots, from OUTPUT."),
    ] = None,
) -> int:
    """Time ops and layers against their peers, after checking that each one is right."""
    from longrnn import bench as library

    chosen = library.SUITES if suite == "all" else [suite]
    if readme is not None:
        drawn = library.update_markdown(readme, output)
        print(f"{readme}: drew {', '.join(path.name for path in drawn)}")
        _tell_plots(drawn, output)
        return 0
    if threads:
        import torch

        torch.set_num_threads(threads)
    from rich.console import Console
    from rich.live import Live

    console = Console()
    console.width = max(console.width, 120)  # a file has no width of its own
    wrong: list[dict[str, Any]] = []

    def show(rows: list[dict[str, Any]]) -> None:
        _show(rows, console)
        wrong.extend(r for r in rows if r["status"] == "wrong" and r["kind"] == "ours")

    # No spinner: a thread that draws would take part in what is timed.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        files = [
            library.run_suite(
                name,
                output,
                device=device,
                only=only,
                seconds=seconds,
                cap=cap,
                on_rows=show,
                on_step=lambda words: live.update(words, refresh=True),
            )
            for name in chosen
        ]
    _tell_plots(files, output)
    return 1 if wrong else 0


def _show(rows: list[dict[str, Any]], console: Any) -> None:
    from rich import box
    from rich.table import Table

    from longrnn.bench import report

    if any(row["status"] == "timed" for row in rows):
        title, headings, lines = report.table(rows)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for heading in headings:
            table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for remark in report.remarks(rows):
        console.print(remark, highlight=False, markup=False)


def _tell_plots(files: list[Path], folder: Path) -> None:
    from longrnn.bench import plot, results

    for path in files:
        print(path)
        for picture in plot.plot(results.read(path), folder):
            print(picture)
