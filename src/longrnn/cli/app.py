"""The commands, and how their errors are told."""

import sys
from typing import Any

import typer

from longrnn.cli.bench import bench
from longrnn.cli.info import info
from longrnn.cli.reproduce import reproduce
from longrnn.cli.train import train

# typer does not export this class, and may carry its own click.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="longrnn",
    help="Recurrent networks for long sequences: train, reproduce, measure, look.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train)
app.command("reproduce")(reproduce)
app.command("bench")(bench)
app.command("info")(info)


@app.callback()
def _root() -> None:
    """Recurrent networks for long sequences."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; bad input is one line and status 2."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except typer.Abort:
        return 130
    except UsageError as error:
        return _tell(error.format_message())
    except (OSError, ValueError) as error:
        return _tell(str(error))


def _tell(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
