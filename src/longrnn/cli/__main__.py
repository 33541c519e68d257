"""`python -m longrnn.cli`, for launchers that start modules."""

from longrnn.cli import main

main()
