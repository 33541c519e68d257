"""The command line: parse, call one library function, print."""

import sys


def main() -> None:
    """Run the `longrnn` command."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(
            f'error: the longrnn command needs {error.name}: pip install "longrnn[train]"',
            file=sys.stderr,
        )
        sys.exit(2)
    from longrnn.cli.app import run

    sys.exit(run())
