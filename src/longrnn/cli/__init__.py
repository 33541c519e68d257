"""The command line: parse, call one library function, print."""

import sys


def main() -> None:
    """Run the `longrnn` command; what it needs beyond PyTorch is imported when it is needed."""
    try:
        from longrnn.cli.app import run

        status = run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("longrnn"):
            raise
        advice = f'this command needs {error.name}: pip install "longrnn[train]"'
        print(f"error: {advice}", file=sys.stderr)
        status = 2
    sys.exit(status)
